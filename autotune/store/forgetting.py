"""Forgets trials, so that the next run tries their configs again."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from sqlalchemy import delete, select

from autotune.errors import UserError
from autotune.processes.process import Process
from autotune.results import Status
from autotune.space.config import Config
from autotune.store.records import RunState
from autotune.store.schema import Run, SampleRow, Trial, Winner
from autotune.store.sessions import Sessions

_AT_ONCE = 200  # rows in one transaction: a run that writes meanwhile is not held up


@dataclass(frozen=True)
class Forgotten:
    """What became of the trials that were named.

    Attributes:
        trials: how many are gone, those that were merged into one of them too.
        kept: how many stay, since a winner rests on them or on what was merged into them.
    """

    trials: int
    kept: int


class Forgetting(Sessions):
    """Forgets trials of an open database."""

    def forget(
        self, *, run: int | None = None, status: Status | None = None, config: Config | None = None
    ) -> Forgotten:
        """Deletes the trials to which all that is given applies, with their samples.

        Args:
            config: knobs; trials of every config that has these values.

        Raises:
            UserError: a run of theirs is under way.
        """
        query = select(Trial.id, Trial.run_id, Trial.config)
        if run is not None:
            query = query.where(Trial.run_id == run)
        if status is not None:
            query = query.where(Trial.status == status)
        with self.reading() as session:
            rows = [row for row in session.execute(query) if config is None or _has(row.config, config)]
            wanted = {row.id for row in rows}
            merges = session.execute(
                select(Trial.id, Trial.merged_into).where(Trial.merged_into.is_not(None))
            )
            twins = {row.id: row.merged_into for row in merges}
            resting = session.execute(select(Winner.stage1_trial_id, Winner.stage2_trial_id))
            needed: set[int] = {id_ for ids in resting for id_ in ids if id_ is not None}
            under_way = session.scalars(select(Run).where(Run.state == RunState.RUNNING)).all()
            running = {r.id for r in under_way if Process(r.host, r.pid, r.process).alive is not False}
        busy = sorted(running & {row.run_id for row in rows})
        if busy:
            raise UserError(f"run {busy[0]} is under way: its trials can be forgotten when it has ended")
        # A twin shares the time of the trial that it was merged into: without it, it says nothing.
        needed |= {into for id_, into in twins.items() if id_ in needed and into is not None}
        merged = {id_ for id_, into in twins.items() if into in wanted}
        gone = (wanted | merged) - needed
        gone -= {id_ for id_ in gone if twins.get(id_) in needed and id_ not in wanted}
        self._delete([id_ for id_ in gone if id_ in twins])
        self._delete([id_ for id_ in gone if id_ not in twins])
        return Forgotten(len(gone), len(wanted & needed))

    def _delete(self, ids: Sequence[int]) -> None:
        for chunk in _chunks(sorted(ids), _AT_ONCE):
            with self.writing() as session:
                session.execute(delete(SampleRow).where(SampleRow.trial_id.in_(chunk)))
                session.execute(delete(Trial).where(Trial.id.in_(chunk)))


def _has(key: str, knobs: Config) -> bool:
    config = Config.from_key(key)
    return all(name in config and config[name] == value for name, value in knobs.items())


def _chunks(ids: Iterable[int], size: int) -> Iterable[list[int]]:
    left = iter(ids)
    while chunk := list(islice(left, size)):
        yield chunk
