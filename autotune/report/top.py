"""Lists the best candidates of each stage, or those of one status, for `autotune top`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autotune.errors import UserError
from autotune.problem.layer import Stage
from autotune.protocol.registry import registration
from autotune.report.configs import changes
from autotune.report.query import Conditions, default_of, grouped
from autotune.report.text_table import Column, text_table, wrapped
from autotune.results import Status
from autotune.store.records import StoredTrial
from autotune.store.store import Store
from autotune.text import percent

COLUMNS = (
    Column("trial", right=True),
    Column("µs", right=True),
    Column("vs default", right=True),
    Column("gate error", right=True),
    Column("compile s", right=True),
    Column("origin"),
    Column("status"),
    Column("changed from the default"),
)
SORTS: dict[str, Callable[[StoredTrial], float]] = {
    "us": lambda trial: trial.time_us if trial.time_us is not None else float("inf"),
    "trial": lambda trial: trial.id,
    "gate-error": lambda trial: -(trial.gate_error or 0.0),
    "compile": lambda trial: -trial.compile_s,
}


@dataclass(frozen=True)
class Filter:
    """Which candidates. None: any.

    Attributes:
        verify_tokens: the M of `m4`.
        device: part of the device's name.
        status: those with this status; None: those that have a time.
    """

    verify_tokens: tuple[int, ...] | None = None
    stage: Stage | None = None
    backend: str | None = None
    device: str | None = None
    run: int | None = None
    status: Status | None = None


@dataclass(frozen=True)
class Ranking:
    """Comparable candidates of one stage, sorted and cut off.

    Attributes:
        found: how many there are before the cut.
    """

    conditions: Conditions
    stage: Stage
    default: StoredTrial | None
    trials: Sequence[StoredTrial]
    found: int


def rankings(store: Store, chosen: Filter, *, sort: str = "us", limit: int = 10) -> list[Ranking]:
    """The candidates that a filter lets through, apart by what may be compared, newest conditions last.

    Raises:
        UserError: no such order, or a backend that has no trials and is none that there is.
    """
    if sort not in SORTS:
        raise UserError(f"unknown --sort {sort!r}: use one of {', '.join(SORTS)}")
    runs = [run.id for run in store.runs() if chosen.run in (None, run.id)]
    trials = [trial for run in runs for trial in store.trials_of(run)]
    ranked = []
    groups = grouped(trials)
    if chosen.backend and chosen.backend not in {conditions.backend for conditions in groups}:
        registration(chosen.backend)  # raises for a name that is no backend's
    for conditions, stages in groups.items():
        if not _fits(conditions, chosen):
            continue
        for stage, group in stages.items():
            wanted = [trial for trial in group if _wanted(trial, chosen)]
            if wanted and chosen.stage in (None, stage):
                wanted.sort(key=SORTS[sort])
                shown = wanted[:limit] if limit else wanted
                ranked.append(
                    Ranking(conditions, stage, _default(groups, conditions, stage), shown, len(wanted))
                )
    return ranked


def _default(
    groups: Mapping[Conditions, Mapping[Stage, Sequence[StoredTrial]]], conditions: Conditions, stage: Stage
) -> StoredTrial | None:
    """The trial of the default; of estimates as executed, the search tells which config that is."""
    group = groups[conditions][stage]
    defaults = (
        default_of(stages[stage])
        for other, stages in groups.items()
        if (other.problem, other.backend, other.environment, other.kind)
        == (conditions.problem, conditions.backend, conditions.environment, conditions.kind)
    )
    ships = {default.config for default in defaults if default is not None}
    return default_of(group) or next((trial for trial in group if trial.config in ships), None)


def _fits(conditions: Conditions, chosen: Filter) -> bool:
    return (
        (chosen.verify_tokens is None or conditions.problem.verify_tokens in chosen.verify_tokens)
        and chosen.backend in (None, conditions.backend)
        and (chosen.device is None or chosen.device.lower() in conditions.environment.device.lower())
    )


def _wanted(trial: StoredTrial, chosen: Filter) -> bool:
    return trial.status is (chosen.status or Status.OK)


def ranking_lines(ranking: Ranking, width: int | None = None) -> list[str]:
    """A ranking for people, in lines of at most `width` characters."""
    conditions = ranking.conditions
    problem = conditions.problem
    routing = "" if problem.routing.key == "uniform" else f", {problem.routing.key}"
    title = (
        f"{problem.shape} {ranking.stage} ({problem.tokens_text}{routing}): {len(ranking.trials)} of"
        f" {ranking.found:,}, {' '.join(filter(None, (conditions.kind, conditions.basis)))} on"
        f" {conditions.environment.device}, {conditions.backend}, {problem.layer.title}"
    )
    rows = []
    for trial in ranking.trials:
        against = _against(trial, ranking.default)
        default = None if ranking.default is None else ranking.default.config
        rows.append(
            [
                str(trial.id),
                "" if trial.time_us is None else f"{trial.time_us:.2f}",
                "" if against is None else percent(against, signed=True),
                "" if trial.gate_error is None else f"{trial.gate_error:.1e}",
                f"{trial.compile_s:.1f}",
                trial.origin,
                str(trial.status) + (f": {trial.reason}" if trial.reason else ""),
                changes(trial.config, default),
            ]
        )
    return [*wrapped(title, width, indent=2), *text_table(COLUMNS, rows, width)]


def ranking_json(ranking: Ranking) -> list[dict[str, Any]]:
    """A ranking as JSON values, one object a candidate."""
    conditions = ranking.conditions
    return [
        {
            "rank": rank,
            "trial": trial.id,
            "run": trial.run,
            "shape": conditions.problem.shape,
            "tokens": conditions.problem.tokens,
            "routing": conditions.problem.routing.key,
            "stage": str(ranking.stage),
            "backend": conditions.backend,
            "device": conditions.environment.device,
            "environment": conditions.environment.key,
            "kind": str(trial.kind),
            "conditions": conditions.workload,
            "status": str(trial.status),
            "reason": trial.reason,
            "us": trial.time_us,
            "vs_default": _against(trial, ranking.default),
            "gate_error": trial.gate_error,
            "compile_s": trial.compile_s,
            "origin": trial.origin,
            "config": dict(trial.config),
        }
        for rank, trial in enumerate(ranking.trials)
    ]


def _against(trial: StoredTrial, default: StoredTrial | None) -> float | None:
    """(default - trial) / default; None: one of them has no time."""
    if default is None or trial.time_us is None or default.time_us is None:
        return None
    return 1 - trial.time_us / default.time_us
