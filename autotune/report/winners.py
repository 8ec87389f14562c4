"""A winner against what ships, in microseconds: the rows of the tables that commands print."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from autotune.config import Config
from autotune.problem import Stage
from autotune.report.finals import judge_rounds, of_confirmation
from autotune.results import Kind, LayerConfig, StaticFacts
from autotune.store.records import WinnerRecord
from autotune.store.store import Store


@dataclass(frozen=True)
class WinnerSummary:
    """A winner with what is known of it and of what ships.

    Attributes:
        default_us, winner_us: microseconds by what was timed: `stage1`, `stage2` and, where it was
            measured, `layer`.
        facts: of the winner's compiled code, by stage.
    """

    winner: WinnerRecord
    default_us: dict[str, float]
    winner_us: dict[str, float]
    facts: dict[str, StaticFacts]


def summarise(store: Store, winner: WinnerRecord) -> WinnerSummary:
    """Looks up the times behind a winner: its confirmation's medians, or the estimates of its trials."""
    facts = {str(stage): _facts(store, winner, stage) for stage in Stage}
    if winner.confirmation is None:
        # What ships is an entry of the list, unless its machine code was found wrong.
        default = next((entry for entry in store.short_list(winner) if entry.config == winner.default), None)
        shipped = {} if default is None else _estimates(store, default)
        return WinnerSummary(winner, shipped, _estimates(store, winner), facts)
    stored = store.confirmation(winner.confirmation)
    # The rounds that decided and no others: those that chose the challenger favour it.
    of_final = of_confirmation(stored, judge_rounds(store, stored))

    def medians(config: LayerConfig) -> dict[str, float]:
        one = next(one for one in of_final if one.config == config)
        return {what: interval.value for what, interval in one.us.items()}

    return WinnerSummary(winner, medians(winner.default), medians(winner.config), facts)


def _facts(store: Store, winner: WinnerRecord, stage: Stage) -> StaticFacts:
    """Static facts of a winner's stage, from its newest trial on the same stack."""
    trials = store.trials(
        config=winner.config.of(stage),
        workload=None,
        problem=winner.problem,
        stage=stage,
        backend=winner.backend,
        environment_key=winner.environment.key,
    )
    return trials[-1].facts if trials else StaticFacts()


def _estimates(store: Store, entry: WinnerRecord) -> dict[str, float]:
    """The figures of the trials that an entry of a short list comes from."""
    assert entry.stage1_trial is not None
    assert entry.stage2_trial is not None
    stages = {Stage.STAGE1: entry.stage1_trial, Stage.STAGE2: entry.stage2_trial}
    figures = {str(stage): store.trial(trial).figure_us for stage, trial in stages.items()}
    return {stage: us for stage, us in figures.items() if us is not None}


def as_json(summary: WinnerSummary) -> dict[str, Any]:
    """A summary as JSON values; every figure's kind and device stand beside it."""
    winner = summary.winner
    return {
        "shape": f"m{winner.problem.verify_tokens}",
        "concurrency": winner.problem.concurrency,
        "tokens": winner.problem.tokens,
        "routing": winner.problem.routing.key,
        "kind": str(winner.kind),
        "device": winner.environment.device,
        "shared_gpu": winner.shared,
        "kept_default": winner.kept_default,
        "default_us": {what: round(us, 3) for what, us in summary.default_us.items()},
        "winner_us": {what: round(us, 3) for what, us in summary.winner_us.items()},
        "gain": winner.gain,
        "gain_95": None if winner.gain_low is None else [winner.gain_low, winner.gain_high],
        "facts": {stage: _known(facts) for stage, facts in summary.facts.items()},
        "default": {str(stage): dict(winner.default.of(stage)) for stage in Stage},
        "config": {str(stage): dict(winner.config.of(stage)) for stage in Stage},
    }


def print_winners(summaries: Sequence[WinnerSummary]) -> None:
    """Prints winners against defaults, for people."""
    from rich.table import Table

    from autotune.report.console import Console

    console = Console()
    for summary in summaries:
        winner = summary.winner
        title = f"{winner.problem.shape} ({winner.problem.tokens} tokens, {winner.problem.routing.key})"
        console.print(f"\n{title}: {verdict(winner)}", style="bold", highlight=False)
        table = Table("", f"default, {winner.kind} µs", f"best, {winner.kind} µs", "", box=None)
        for what, default_us in summary.default_us.items():
            best_us = summary.winner_us.get(what)
            if best_us is None:
                continue
            # The layer's gain is the confirmation's: the median of paired ratios, not the ratio of medians.
            gain = winner.gain if what == "layer" else 1 - best_us / default_us
            table.add_row(what, f"{default_us:.2f}", f"{best_us:.2f}", f"{gain:+.1%}")
        console.print(table, highlight=False)
        for stage in Stage:
            changed = {
                name: value
                for name, value in winner.config.of(stage).items()
                if winner.default.of(stage).get(name) != value
            }
            console.print(f"  {stage}: {Config(changed) if changed else 'as shipped'}", highlight=False)
            known = _known(summary.facts[str(stage)])
            if known:
                words = ", ".join(f"{name} {value}" for name, value in known.items())
                console.print(f"    compiled code: {words}", highlight=False, style="dim")


def _known(facts: StaticFacts) -> dict[str, int]:
    """The facts that this target's code tells."""
    return {name: value for name, value in asdict(facts).items() if value is not None}


def verdict(winner: WinnerRecord) -> str:
    """What was decided, in words."""
    if winner.kind is Kind.ESTIMATE:
        return f"estimate for {winner.environment.device}, not measured: best of the short list"
    kind = f"{winner.kind} on a shared GPU" if winner.shared else str(winner.kind)
    if winner.kept_default:
        shared = " (shared with others)" if winner.shared else ""
        return f"kept default on {winner.environment.device}{shared}: nothing was shown to be faster"
    if winner.gain < 0:  # one setting serves all shapes, and this one pays for the others
        assert winner.gain_low is not None
        assert winner.gain_high is not None
        return (
            f"{-winner.gain:.1%} slower than the default on {winner.environment.device}"
            f" (95 %: {-winner.gain_high:.1%} to {-winner.gain_low:.1%}), {kind}"
        )
    return (
        f"{winner.gain:.1%} faster than the default on {winner.environment.device}"
        f" (95 %: {winner.gain_low:.1%} to {winner.gain_high:.1%}), {kind}"
    )
