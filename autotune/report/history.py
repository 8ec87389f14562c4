"""Lists the runs for `autotune history`, the newest first."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from autotune.errors import UserError
from autotune.machine.targets import Kind
from autotune.report.query import winners_of
from autotune.report.text_table import Column, text_table
from autotune.results import Status
from autotune.store.records import RunRecord
from autotune.store.store import Store
from autotune.text import duration

COLUMNS = (
    Column("run", right=True),
    Column("started, UTC"),
    Column("took", right=True),
    Column("state"),
    Column("device"),
    Column("trials", right=True),
    Column("failed", right=True),
    Column("results", right=True),
    Column("faster", right=True),
    Column("command"),
)


@dataclass(frozen=True)
class Episode:
    """A run with what came of it.

    Attributes:
        failed: trials without a time.
        winners: problems that it decided; short lists by estimate count too.
        faster: of these, how many beat the default; an estimate beats nothing.
    """

    run: RunRecord
    trials: int
    failed: int
    winners: int
    faster: int

    @property
    def seconds(self) -> float | None:
        """Wall time; None while it runs."""
        ended = self.run.ended_at
        return None if ended is None else (ended - self.run.started_at).total_seconds()


SORTS: dict[str, Callable[[Episode], float]] = {
    "started": lambda episode: -episode.run.started_at.timestamp(),
    "took": lambda episode: -(episode.seconds or 0.0),
    "trials": lambda episode: -episode.trials,
}


def episodes(
    store: Store, *, device: str | None = None, sort: str = "started", limit: int = 20
) -> list[Episode]:
    """Runs with what came of them.

    Args:
        device: part of the device's name; None: any.
        limit: how many at most; 0: all.

    Raises:
        UserError: no such order.
    """
    if sort not in SORTS:
        raise UserError(f"unknown --sort {sort!r}: use one of {', '.join(SORTS)}")
    listed = [
        _episode(store, run)
        for run in store.runs()
        if device is None or (run.environment and device.lower() in run.environment.device.lower())
    ]
    listed.sort(key=SORTS[sort])
    return listed[:limit] if limit else listed


def _episode(store: Store, run: RunRecord) -> Episode:
    counts = store.trial_counts(run.id)
    winners = winners_of(store, run.id)
    trials = sum(counts.values())
    faster = sum(not winner.kept_default and winner.kind is not Kind.ESTIMATE for winner in winners)
    return Episode(run, trials, trials - counts.get(Status.OK, 0), len(winners), faster)


def history_lines(listed: Sequence[Episode], width: int | None = None) -> list[str]:
    """A table of runs for people, in lines of at most `width` characters."""
    rows = [
        [
            str(episode.run.id),
            f"{episode.run.started_at:%Y-%m-%d %H:%M}",
            "" if episode.seconds is None else duration(episode.seconds),
            episode.run.shown_state,
            episode.run.environment.device if episode.run.environment else "",
            f"{episode.trials:,}",
            f"{episode.failed:,}",
            str(episode.winners),
            str(episode.faster),
            episode.run.command,
        ]
        for episode in listed
    ]
    return text_table(COLUMNS, rows, width)


def episode_json(episode: Episode) -> dict[str, Any]:
    """A run as JSON values."""
    run = episode.run
    return {
        "run": run.id,
        "uid": run.uid,
        "command": run.command,
        "state": run.shown_state,
        "host": run.host,
        "started_at": run.started_at.isoformat(),
        "ended_at": None if run.ended_at is None else run.ended_at.isoformat(),
        "seen_at": None if run.seen_at is None else run.seen_at.isoformat(),
        "seconds": episode.seconds,
        "device": run.environment.device if run.environment else None,
        "environment": run.environment.key if run.environment else None,
        "trials": episode.trials,
        "failed": episode.failed,
        "winners": episode.winners,
        "faster": episode.faster,
        "tool_version": run.tool_version,
    }
