"""A winner against the default, in microseconds: the rows of the tables that commands print."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from autotune.compile.estimate import PROMISED
from autotune.machine.targets import Kind
from autotune.problem.layer import Stage
from autotune.report.configs import changes
from autotune.report.finals import WinnerFinal, finals_of
from autotune.report.query import conditions_of_winner
from autotune.report.wording import AS_COMPILED, AS_EXECUTED, ESTIMATES, tie_text, ties_text, wording
from autotune.results import LayerConfig, StaticFacts
from autotune.store.records import WinnerRecord
from autotune.store.store import Store
from autotune.text import percent


@dataclass(frozen=True)
class WinnerSummary:
    """A winner with what is known of it and of the default.

    Attributes:
        default_us, winner_us: microseconds by what was timed: `stage1`, `stage2` and `layer`; where the layer
            was not measured as a whole, that is the stages' sum (`wording(kind).whole`).
        facts: of the winner's compiled code, by stage.
        final: that it is of.
        compiled_us: of an estimate that execution refined, the default's and the winner's as compiled, which
            the search showed; None: the times above are what it showed.
    """

    winner: WinnerRecord
    default_us: dict[str, float]
    winner_us: dict[str, float]
    facts: dict[str, StaticFacts]
    final: WinnerFinal
    compiled_us: tuple[dict[str, float], dict[str, float]] | None = None

    @property
    def ties(self) -> int:
        """How many others are as fast, see `autotune.report.finals.tied`."""
        return len(self.final.ties)

    @property
    def notes(self) -> tuple[str, ...]:
        """Of its confirmation, a sentence each."""
        confirmation = self.final.confirmation
        return confirmation.confirmation.notes if confirmation else ()


def summarise(store: Store, winners: Sequence[WinnerRecord]) -> list[WinnerSummary]:
    """Looks up the times behind each winner: its confirmation's medians, or the estimates of its trials.

    What many have in common is asked for once.
    """
    known = zip(winners, finals_of(store, winners), store.facts_of(winners), strict=True)
    return [
        _summary(store, winner, final, {str(stage): each for stage, each in facts.items()})
        for winner, final, facts in known
    ]


def _summary(
    store: Store, winner: WinnerRecord, final: WinnerFinal, facts: dict[str, StaticFacts]
) -> WinnerSummary:
    def times(config: LayerConfig) -> dict[str, float]:
        # The default is an entry of a short list, unless its machine code was found wrong.
        return dict(next((each.median_us for each in final.contenders if each.config == config), {}))

    compiled = None
    if winner.kind is Kind.ESTIMATE and conditions_of_winner(store, winner).basis == AS_EXECUTED:
        compiled = (_as_compiled(store, winner, winner.default), _as_compiled(store, winner, winner.config))
    default, best = times(winner.default), times(winner.config)
    return WinnerSummary(winner, default, best, facts, final, compiled)


def _as_compiled(store: Store, winner: WinnerRecord, config: LayerConfig) -> dict[str, float]:
    """Microseconds of a config's stages by the estimate that the search had."""
    us = {}
    for stage in Stage:
        trials = store.trials(
            config=config.of(stage),
            workload=PROMISED,
            problem=winner.problem,
            stage=stage,
            backend=winner.backend,
            environment_key=winner.environment.key,
        )
        times = [trial.time_us for trial in trials if trial.time_us is not None]
        if times:
            us[str(stage)] = times[-1]
    return {"layer": sum(us.values()), **us} if len(us) == len(Stage) else us


def as_json(summary: WinnerSummary) -> dict[str, Any]:
    """A summary as JSON values; every time's kind and device stand beside it."""
    winner = summary.winner

    def times(us: dict[str, float]) -> dict[str, float]:
        # An estimate has its stages' times and no layer's: whoever adds them up knows.
        added_up = ("layer",) if winner.kind is Kind.ESTIMATE else ()
        return {what: round(value, 3) for what, value in us.items() if what not in added_up}

    compiled: dict[str, Any] = {}
    if summary.compiled_us is not None:
        names = ("default_us_as_compiled", "winner_us_as_compiled")
        compiled = {name: times(us) for name, us in zip(names, summary.compiled_us, strict=True)}
    return {
        "shape": f"m{winner.problem.verify_tokens}",
        "concurrency": winner.problem.concurrency,
        "tokens": winner.problem.tokens,
        "routing": winner.problem.routing.key,
        "kind": str(winner.kind),
        "device": winner.environment.device,
        "shared_gpu": winner.shared,
        "kept_default": winner.kept_default,
        "default_us": times(summary.default_us),
        "winner_us": times(summary.winner_us),
        **compiled,
        "ties": summary.ties,
        "gain": winner.gain,
        "gain_95": None if winner.gain_low is None else [winner.gain_low, winner.gain_high],
        "notes": list(summary.notes),
        "facts": {stage: _known(facts) for stage, facts in summary.facts.items()},
        "default": {str(stage): dict(winner.default.of(stage)) for stage in Stage},
        "config": {str(stage): dict(winner.config.of(stage)) for stage in Stage},
    }


def print_winners(summaries: Sequence[WinnerSummary]) -> None:
    """Prints winners against defaults, for people."""
    from rich.table import Table

    from autotune.report.console import Console

    console = Console()

    def say(text: str, style: str | None = None) -> None:
        console.print(text, style=style, highlight=False, soft_wrap=True)

    for summary in summaries:
        winner = summary.winner
        title = f"{winner.problem.shape} ({winner.problem.tokens_text}, {winner.problem.routing.key})"
        say(f"\n{title}: {verdict(winner, summary.ties)}", "bold")
        best = "listed" if winner.kind is Kind.ESTIMATE else "best"
        table = Table("", f"default, {winner.kind} µs", f"{best}, {winner.kind} µs", "", box=None)
        for row in _time_rows(summary):
            table.add_row(*row)
        console.print(table, highlight=False)
        if summary.compiled_us is not None:
            say(f"  {AS_COMPILED}: {ESTIMATES[AS_COMPILED]}", "dim")
            say(f"  {AS_EXECUTED}: {ESTIMATES[AS_EXECUTED]}", "dim")
        if summary.ties and winner.kind is not Kind.ESTIMATE:
            say(f"  {ties_text(winner.kind, summary.ties)}")
        for note in summary.notes:
            say(f"  {note}", "dim")
        for stage in Stage:
            say(f"  {stage}: {changes(winner.config.of(stage), winner.default.of(stage))}")
            known = _known(summary.facts[str(stage)])
            if known:
                say(
                    f"    compiled code: {', '.join(f'{name} {value}' for name, value in known.items())}",
                    "dim",
                )


def _time_rows(summary: WinnerSummary) -> list[tuple[str, ...]]:
    """What was timed, of the default, of the winner, and by how much the winner is faster."""
    winner = summary.winner
    pairs = [("", summary.default_us, summary.winner_us)]
    if summary.compiled_us is not None:
        pairs = [(f" {AS_COMPILED}", *summary.compiled_us), (f" {AS_EXECUTED}", *pairs[0][1:])]
    rows: list[tuple[str, ...]] = []
    for what in ("layer", *Stage):
        for basis, default, best in pairs:
            if what not in default or what not in best:
                continue
            # The layer's gain is the confirmation's: the median of paired ratios, not the ratio of medians.
            measured = what == "layer" and winner.confirmation is not None
            gain = winner.gain if measured else 1 - best[what] / default[what]
            name = wording(winner.kind).whole if what == "layer" else what
            saved = f"{percent(gain, signed=True)}, {gain * default[what]:.2f} µs"
            rows.append((f"{name}{basis}", f"{default[what]:.2f}", f"{best[what]:.2f}", saved))
    return rows


def _known(facts: StaticFacts) -> dict[str, int]:
    """The facts that this target's code tells."""
    return {name: value for name, value in asdict(facts).items() if value is not None}


def verdict(winner: WinnerRecord, ties: int = 0) -> str:
    """What was decided, in words.

    Args:
        ties: how many others of a short list are as fast.
    """
    if winner.kind is Kind.ESTIMATE:
        head = f"{tie_text(ties + 1)} at" if ties else "from"
        return f"estimate for {winner.environment.device}, not measured: {head} the head of the short list"
    kind = f"{winner.kind} on a shared GPU" if winner.shared else str(winner.kind)
    if winner.kept_default:
        shared = " (shared with others)" if winner.shared else ""
        return f"kept default on {winner.environment.device}{shared}: nothing was shown to be faster"
    assert winner.gain_low is not None
    assert winner.gain_high is not None
    if winner.gain < 0:  # one setting serves all shapes, and this one pays for the others
        return (
            f"{percent(-winner.gain)} slower than the default on {winner.environment.device}"
            f" (95% CI {percent(-winner.gain_high)} to {percent(-winner.gain_low)}), {kind}"
        )
    return (
        f"{percent(winner.gain)} faster than the default on {winner.environment.device}"
        f" (95% CI {percent(winner.gain_low)} to {percent(winner.gain_high)}), {kind}"
    )
