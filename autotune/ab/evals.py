"""Accuracy beside speed: lm-evaluation-harness results of both arms."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from autotune.errors import UserError

_SIGMAS: Final = 1.96
_SAME: Final = ("n-shot", "n-samples", "versions")


@dataclass(frozen=True)
class EvalComparison:
    """One score of both arms.

    Attributes:
        name: task and metric, e.g. `gsm8k exact_match,strict-match`.
        change: tuned - base.
        margin: half-width of its 95 % interval, from both standard errors.
    """

    name: str
    base: float
    tuned: float
    change: float
    margin: float

    @property
    def lower(self) -> bool:
        """The tuned arm's score is lower, beyond what sampling explains."""
        return self.change < -self.margin

    @property
    def text(self) -> str:
        """The verdict in words."""
        if self.lower:
            return "LOWER"
        return "higher" if self.change > self.margin else "no difference found"


def compare_evals(base: Path, tuned: Path) -> list[EvalComparison]:
    """Every score with a standard error that both arms have.

    Raises:
        UserError: a file is no result, or the arms were not asked the same.
    """
    mine, theirs = _read(base), _read(tuned)
    for name in _SAME:
        if mine.get(name) != theirs.get(name):
            raise UserError(
                f"unequal evaluations: {name} is {mine.get(name)} in {base} and {theirs.get(name)} in {tuned}"
                ": run both arms with the same tasks and options"
            )
    made = []
    for task, scores in mine["results"].items():
        others = theirs["results"].get(task, {})
        for metric, value in scores.items():
            stem, _, kind = metric.partition(",")
            error = f"{stem}_stderr,{kind}"
            if not all(_is_number(one.get(name)) for one in (scores, others) for name in (metric, error)):
                continue
            margin = _SIGMAS * (scores[error] ** 2 + others[error] ** 2) ** 0.5
            change = others[metric] - value
            made.append(EvalComparison(f"{task} {metric}", value, others[metric], change, margin))
    if not made:
        raise UserError(f"{base} and {tuned} share no score with a standard error: run the same tasks")
    return made


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _read(path: Path) -> dict[str, Any]:
    """A results file, or the newest one below a folder."""
    if path.is_dir():
        files = sorted(path.rglob("results*.json"))
        if not files:
            raise UserError(f"{path} has no results*.json: give lm-evaluation-harness's output folder")
        path = files[-1]
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is no result file ({error}): give lm-evaluation-harness's") from error
    if not isinstance(raw, dict) or not isinstance(raw.get("results"), dict):
        raise UserError(f"{path} has no results: give lm-evaluation-harness's results file")
    return raw
