"""Verdicts on machine code, as lines and as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import isfinite
from typing import Any

from autotune.check.execution import Beside
from autotune.check.judged import Judged
from autotune.results import CheckVerdict, VerdictStatus
from autotune.space.config import Config, Value

_DETAILED = 40  # lines; more are summed up


def verdict_json(verdict: CheckVerdict) -> dict[str, Any]:
    """A verdict as JSON values; an infinite error, which JSON lacks, is text."""
    values = asdict(verdict)
    if verdict.error is not None and not isfinite(verdict.error):
        values["error"] = "infinite"
    return {**values, "status": str(verdict.status), "seconds": round(verdict.seconds, 3)}


def judged_json(judged: Judged) -> dict[str, Any]:
    """A candidate's verdict as JSON values; `verdict` is null where there is none, and `why` says why."""
    candidate = judged.candidate
    return {
        "shape": candidate.problem.shape,
        "stage": str(candidate.stage),
        "label": candidate.label,
        "config": dict(candidate.config),
        "binary": judged.binary_hash,
        "verdict": None if judged.verdict is None else verdict_json(judged.verdict),
        "why": judged.why,
        "stored": judged.stored,
    }


def beside_json(shape: str, config: Config, launch: Beside, verdict: CheckVerdict) -> dict[str, Any]:
    """The same of what a layer launches beside its GEMMs: the kernel's name is in the stage's place.

    Args:
        config: what the launch knows of stage 1's.
    """
    return {
        "shape": shape,
        "stage": launch.name,
        "label": "beside the GEMMs",
        "config": dict(config),
        "binary": launch.binary_hash,
        "verdict": verdict_json(verdict),
        "why": None,
        "stored": False,
    }


def beside_line(shape: str, config: Config, launch: Beside, verdict: CheckVerdict) -> str:
    """A line on what a layer launches beside its GEMMs; a pass is right to the last bit."""
    return f"  {shape} {launch.name} {config}: {verdict.text} ({verdict.seconds:.1f} s)"


def summary(judged: Sequence[Judged]) -> str:
    """How many met which verdict, in words."""
    counts = dict.fromkeys(VerdictStatus, 0)
    for each in judged:
        if each.verdict is not None:
            counts[each.verdict.status] += 1
    errors = [each.verdict.error for each in judged if each.verdict and each.verdict.error is not None]
    words = [f"{count} {status.replace('_', ' ')}" for status, count in counts.items() if count]
    unjudged = len(judged) - sum(counts.values())
    if unjudged:
        words.append(f"{unjudged} not checked")
    passed = counts[VerdictStatus.PASS] == len(judged) and errors
    return ", ".join(words) + (f" (largest error {max(errors):.2e})" if passed else "")


def lines(judged: Sequence[Judged], defaults: Mapping[tuple[str, str], Config] | None = None) -> list[str]:
    """A line a candidate; of very many only those that are no pass.

    Args:
        defaults: by shape and stage: configs are told by their differences from it.
    """
    shown = judged if len(judged) <= _DETAILED else [each for each in judged if not _passes(each)]
    return [f"  {_name(each, defaults or {})}: {each.text}{_origin(each)}" for each in shown]


def _passes(judged: Judged) -> bool:
    return judged.verdict is not None and judged.verdict.status is VerdictStatus.PASS


def _name(judged: Judged, defaults: Mapping[tuple[str, str], Config]) -> str:
    candidate = judged.candidate
    shape, stage = candidate.problem.shape, str(candidate.stage)
    default: Mapping[str, Value] = defaults.get((shape, stage), {})
    changed = {name: value for name, value in candidate.config.items() if default.get(name, ...) != value}
    return f"{shape} {stage} {Config(changed) if changed else 'default'}"


def _origin(judged: Judged) -> str:
    if judged.verdict is None:
        return ""
    return " (checked before)" if judged.stored else f" ({judged.verdict.seconds:.1f} s)"
