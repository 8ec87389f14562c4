"""Explains a winner: the whole final, and its decision repeated from what is stored."""

from dataclasses import asdict, dataclass, fields
from statistics import median
from typing import Any

from autotune.measure.confirm import Decision, decide_again, distinct, ratio_of, split
from autotune.measure.settings import MeasureSettings
from autotune.problem.layer import Stage
from autotune.report.configs import layer_changes
from autotune.report.text_table import Column, text_table
from autotune.report.wording import Wording, wording
from autotune.results import Confirmation, LayerConfig, Status
from autotune.space.config import Config
from autotune.store.records import StoredConfirmation, StoredTrial, WinnerRecord
from autotune.store.store import Store
from autotune.text import percent, percent_interval

_LEADERS = 4  # of a stage, told of where no finalist has them
_COLUMNS = (
    *(Column("#", right=True), Column("finalist"), Column("layer µs", right=True)),
    *(Column("gain", right=True), Column("outcome"), Column("changed")),
)


@dataclass(frozen=True)
class NotInFinal:
    """A config among a stage's fastest that no finalist has, and why."""

    stage: Stage
    config: Config
    us: float | None
    reason: str


@dataclass(frozen=True)
class Why:
    """A decision, told.

    Attributes:
        stored: the final; None: an estimate ranks, it decides nothing.
        settings: under which it was made; None: the run's record does not tell.
        again: the decision repeated; None: without the settings it cannot be.
        outcomes: what became of each finalist.
        left: see `NotInFinal`.
    """

    winner: WinnerRecord
    stored: StoredConfirmation | None
    settings: MeasureSettings | None
    again: Decision | None
    outcomes: tuple[str, ...]
    left: tuple[NotInFinal, ...]

    @property
    def repeats(self) -> bool | None:
        """Whether the decision comes out as it is stored; None: it cannot be repeated."""
        if self.stored is None or self.again is None:
            return None
        final = self.stored.confirmation
        return (self.again.winner, *self.again.gain) == (
            *(final.winner, final.gain, final.gain_low, final.gain_high),
        )


def settings_of(store: Store, stored: StoredConfirmation) -> MeasureSettings | None:
    """The conditions of a final, as its run's record has them; None: it has none that this tool knows."""
    spec = store.run(stored.run).spec
    settings = spec.get("measuring") or spec.get("settings")
    known = {field.name for field in fields(MeasureSettings)}
    if not isinstance(settings, dict) or not settings or not set(settings) <= known:
        return None
    return MeasureSettings(**settings)


def why(store: Store, winner: WinnerRecord) -> Why:
    """All that decided, from the database."""
    if winner.confirmation is None:
        return Why(winner, None, None, None, (), ())
    stored = store.confirmation(winner.confirmation)
    settings = settings_of(store, stored)
    again = None if settings is None else decide_again(stored.confirmation, settings)
    outcomes = tuple(
        _outcome(stored.confirmation, settings, again, index, wording(stored.kind))
        for index in range(len(stored.confirmation.finalists))
    )
    return Why(winner, stored, settings, again, outcomes, tuple(left_of(store, stored)))


def _outcome(
    final: Confirmation,
    settings: MeasureSettings | None,
    again: Decision | None,
    index: int,
    words: Wording,
) -> str:
    """What became of a finalist, in words."""
    finalist = final.finalists[index]
    if final.errors[index] is None:
        begins = f"{finalist.label} {index} "
        reasons = [note.removeprefix(begins) for note in final.notes if note.startswith(begins)]
        return "; ".join(reasons) or "failed"
    if index == 0:
        return "the default" if final.winner else "the default, kept"
    if index == final.winner:
        return f"won: {_interval(final.gain, final.gain_low, final.gain_high)}"
    if index not in distinct(final.finalists):
        return "the same config as one above"
    if settings is None or again is None or again.challenger is None:
        return "not chosen"
    selecting, judging = split(final, settings)
    if index == again.challenger and again.ratio is not None:
        gain = _interval(1 - again.ratio.value, 1 - again.ratio.high, 1 - again.ratio.low)
        return f"went to the final rounds: {gain}, not surely above {percent(settings.min_gain)}"
    lost = f"lost the preselection ({words.rounds(len(selecting))}) to candidate {again.challenger}"
    if any(r.us[index] for r in judging):
        ratio = ratio_of(judging, index, 0, "layer", settings)
        return f"{lost}; in the final rounds: {_interval(1 - ratio.value, 1 - ratio.high, 1 - ratio.low)}"
    return lost


def _interval(gain: float, low: float, high: float) -> str:
    return percent_interval(gain, low, high, signed=True)


def left_of(store: Store, stored: StoredConfirmation) -> list[NotInFinal]:
    """Of each stage's fastest in the search those that no finalist has."""
    missing = []
    for stage in Stage:
        trials = store.trials(
            problem=stored.confirmation.problem,
            stage=stage,
            backend=stored.backend,
            environment_key=stored.environment.key,
            workload=stored.workload,
        )
        windows: dict[Config, list[StoredTrial]] = {}
        for trial in trials:
            if trial.created_at <= stored.created_at:
                windows.setdefault(trial.config, []).append(trial)
        times = {
            config: median(trial.time_us for trial in those if trial.time_us is not None)
            for config, those in windows.items()
            if any(trial.time_us is not None for trial in those)
        }
        taken = {finalist.config.of(stage) for finalist in stored.confirmation.finalists}
        for config in sorted(times, key=lambda config: (times[config], config.key))[:_LEADERS]:
            if config in taken:
                continue
            failed = [t for t in windows[config] if t.status is not Status.OK]
            reason = (
                f"{failed[-1].status} when measured again: {failed[-1].reason}"
                if failed
                else "other pairs of stages had smaller sums, or its machine code equals another's"
            )
            missing.append(NotInFinal(stage, config, times[config], reason))
    return missing


def why_lines(decision: Why) -> list[str]:
    """A decision for people."""
    winner = decision.winner
    head = (
        f"{winner.problem.shape} ({winner.problem.tokens_text}, {winner.problem.routing.key}),"
        f" {winner.backend} on {winner.environment.device}"
    )
    if decision.stored is None:
        return [head, "an estimate by formula ranks it: nothing was measured, so nothing was decided"]
    final, words = decision.stored.confirmation, wording(decision.stored.kind)
    default = final.finalists[0].config
    rows = [
        [
            str(index),
            finalist.label,
            _text(us := _median(final, index)),
            _text_gain(us, _median(final, 0), index),
            decision.outcomes[index],
            "" if index == 0 else layer_changes(finalist.config, default),
        ]
        for index, finalist in enumerate(final.finalists)
    ]
    lines = [head, *text_table(_COLUMNS, rows)]
    if decision.settings is not None:
        selecting, judging = split(final, decision.settings)
        lines.append(
            f"{words.rounds(len(selecting))} of preselection picked the challenger, {len(judging)} more"
            f" decided: the lower 95% bound of its gain had to exceed {percent(decision.settings.min_gain)}"
        )
    lines += final.notes
    for left in decision.left:
        lines.append(
            f"not in the {words.final}: {left.stage} {left.config}, {_text(left.us)} µs: {left.reason}"
        )
    lines.append(
        {
            True: f"decision repeated from the stored {words.round}s: the same",
            False: f"DECISION REPEATED from the stored {words.round}s: NOT the same",
            None: "the decision cannot be repeated: the run's record lacks its conditions",
        }[decision.repeats]
    )
    return lines


def _median(final: Confirmation, index: int) -> float | None:
    ran = [r.us[index]["layer"] for r in final.rounds if r.us[index]]
    return median(ran) if ran else None


def _text(us: float | None) -> str:
    return "" if us is None else f"{us:.2f}"


def _text_gain(us: float | None, default: float | None, index: int) -> str:
    return "" if us is None or default is None or index == 0 else percent(1 - us / default, signed=True)


def why_json(decision: Why) -> dict[str, Any]:
    """A decision as JSON values, with every round: enough to decide it elsewhere."""
    winner, stored = decision.winner, decision.stored
    content: dict[str, Any] = {
        "problem": winner.problem.key,
        "shape": winner.problem.shape,
        "tokens": winner.problem.tokens,
        "backend": winner.backend,
        "device": winner.environment.device,
        "kind": str(winner.kind),
        "config": _config(winner.config),
        "kept_default": winner.kept_default,
    }
    if stored is None:
        return content
    final = stored.confirmation
    return {
        **content,
        "confirmation": stored.id,
        "run": stored.run,
        "workload": stored.workload,
        "measuring": None if decision.settings is None else asdict(decision.settings),
        "finalists": [
            {
                "label": finalist.label,
                "config": _config(finalist.config),
                "gate_error": final.errors[index],
                "fate": decision.outcomes[index],
                "layer_us": [r.us[index].get("layer") for r in final.rounds],
            }
            for index, finalist in enumerate(final.finalists)
        ],
        "left_out": [
            {"stage": str(left.stage), "config": dict(left.config), "us": left.us, "reason": left.reason}
            for left in decision.left
        ],
        "notes": list(final.notes),
        "winner": final.winner,
        "gain": final.gain,
        "gain_95": [final.gain_low, final.gain_high],
        "repeats": decision.repeats,
    }


def _config(config: LayerConfig) -> dict[str, dict[str, Any]]:
    return {str(stage): dict(config.of(stage)) for stage in Stage}
