"""Reports the comparison of two arms, for people and machines, and gives the exit code."""

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from autotune.ab.compare import (
    REPEATS,
    ArmVerdict,
    MetricComparison,
    compare,
    differences,
    left_out,
    undecided,
)
from autotune.ab.evals import Change, EvalComparison, compare_evals
from autotune.ab.folder import read_arm
from autotune.ab.results import ACCEPTED, PER_ACCEPTED, per_accepted
from autotune.errors import UserError
from autotune.report.text_table import Column, text_table
from autotune.text import percent

_COLUMNS = (
    Column(""),
    *(Column(name, right=True) for name in ("baseline", "tuned", "change")),
    *(Column(name) for name in ("95% CI", "p", "verdict")),
)


@dataclass(frozen=True)
class Outcome:
    """Two arms compared.

    Attributes:
        repeats: of the baseline and the tuned arm; None: no benchmark was given.
        formula: of `ms/accepted token`, where it is there.
        notes: what was left out, and what differs though it may.
    """

    repeats: tuple[int, int] | None = None
    speed: tuple[MetricComparison, ...] = ()
    accuracy: tuple[EvalComparison, ...] = ()
    formula: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """1: something is surely worse. 2: nothing is, but it cannot be said. 0: nothing is worse."""
        scores = {comparison.verdict for comparison in self.accuracy}
        if Change.WORSE in scores or any(comparison.verdict.worse for comparison in self.speed):
            return 1
        # That as many drafts are accepted says nothing of the speed.
        unsaid = self.repeats is not None and not any(
            comparison.verdict.said for comparison in self.speed if comparison.metric is not ACCEPTED
        )
        return 2 if unsaid or Change.UNKNOWN in scores else 0

    @property
    def verdict(self) -> str:
        """The exit code in words."""
        if self.exit_code == 1:
            return "the tuned arm is worse"
        if self.exit_code == 0:
            better = sum(
                comparison.verdict in (ArmVerdict.FASTER, ArmVerdict.MORE) for comparison in self.speed
            )
            return (
                f"better in {better} of {len(self.speed)}, and nothing is worse"
                if better
                else "nothing is worse"
            )
        if self.repeats and min(self.repeats) < REPEATS:
            return f"too few repeats: a verdict needs {REPEATS} per arm, taken in turns"
        return "no verdict"

    def as_json(self) -> dict[str, Any]:
        """JSON values; every number in them is finite."""
        return {
            "verdict": self.verdict,
            "exit_code": self.exit_code,
            "repeats": self.repeats and dict(zip(("base", "tuned"), self.repeats, strict=True)),
            "speed": [_json(comparison) for comparison in self.speed],
            "ms_per_accepted_token": self.formula,
            "accuracy": [
                {**asdict(comparison), "verdict": comparison.verdict} for comparison in self.accuracy
            ],
            "notes": list(self.notes),
        }

    def lines(self) -> Iterator[str]:
        """For people."""
        if self.repeats:
            yield f"repeats: {self.repeats[0]} of the baseline, {self.repeats[1]} of the tuned arm"
            yield from text_table(_COLUMNS, [_row(comparison) for comparison in self.speed])
        if self.formula:
            yield f"{PER_ACCEPTED.name} = {self.formula}"
        for score in self.accuracy:
            yield (
                f"{score.name}: {score.base:.4f} -> {score.tuned:.4f}"
                f" ({score.change:+.4f}, 95% CI ±{score.margin:.4f}, p {_p(score.p)}): {score.verdict}"
            )
        yield from (f"note: {note}" for note in self.notes)
        yield self.verdict


def compare_arms(
    arms: tuple[Path, Path] | None, evals: tuple[Path, Path] | None, *, min_effect: float = 0.01
) -> Outcome:
    """Two arms by their benchmark's and their evaluation's results, each a file or a folder.

    Raises:
        UserError: an input is not what it should be, or the arms are unequal.
    """
    for pair in filter(None, (arms, evals)):
        if os.path.realpath(pair[0]) == os.path.realpath(pair[1]):
            raise UserError(f"both arms are {pair[0]}: give the baseline's results, then the tuned arm's")
    scores = compare_evals(*evals) if evals else None
    accuracy, notes = (scores.scores, scores.notes) if scores else ((), ())
    if arms is None:
        return Outcome(accuracy=accuracy, notes=notes)
    base, tuned = (read_arm([path]) for path in arms)
    every = (*base.repeats, *tuned.repeats)
    speed = compare(base.repeats, tuned.repeats, min_effect=min_effect)
    return Outcome(
        repeats=(len(base.repeats), len(tuned.repeats)),
        speed=tuple(speed),
        accuracy=accuracy,
        formula=per_accepted(every)[1] or None,
        notes=(
            *filter(None, [undecided(speed, every)]),
            *base.notes,
            *tuned.notes,
            *left_out(every),
            *differences(base.repeats, tuned.repeats),
            *notes,
        ),
    )


def _json(comparison: MetricComparison) -> dict[str, Any]:
    """A comparison as JSON values; of too few repeats no interval and no p, which they cannot tell."""
    values = asdict(comparison)
    if comparison.verdict is ArmVerdict.TOO_FEW:
        values |= {"ratio": {"value": comparison.ratio.value, "low": None, "high": None}, "p": None}
    return values


def _row(comparison: MetricComparison) -> list[str]:
    ratio = comparison.ratio
    few = comparison.verdict is ArmVerdict.TOO_FEW
    change = "" if few else f"{percent(ratio.low - 1, signed=True)} to {percent(ratio.high - 1, signed=True)}"
    means = (f"{mean:.2f}" if mean >= 1 else f"{mean:.3g}" for mean in (comparison.base, comparison.tuned))
    return [
        comparison.metric.name,
        *means,
        percent(ratio.value - 1, signed=True),
        change,
        "" if few else _p(comparison.p),
        str(comparison.verdict),
    ]


def _p(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else "<0.001"
