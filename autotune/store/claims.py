"""Claims: which of several drivers on one server's database does a piece of work.

A claim runs out when its driver no longer renews it, so what a dead driver had claimed is free again after
`EXPIRY_S`. All clocks are the server's.
"""

import hashlib
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import DateTime, delete, func, or_, select, update
from sqlalchemy.orm import Session

from autotune.problem.layer import Problem
from autotune.store.base import Base
from autotune.store.records import StoredTrial, WinnerRecord
from autotune.store.rows import Reader, upsert
from autotune.store.schema import Claim, Environment, ProblemRow, Trial, Winner
from autotune.store.sessions import Sessions
from autotune.store.trials import trial_record
from autotune.store.winners import winner_record

EXPIRY_S: Final = 60.0
RENEW_S: Final = 15.0
_KEPT: Final = timedelta(days=1)
_CLAIMS = Base.metadata.tables[Claim.__tablename__]
_ONE_AT_A_TIME: Final = 0x6D6F65
"""Names the lock of the server under which claims change."""
_LATE: Final = 1000
"""Ids are given out before their rows are committed: as many before the last one are looked for again."""


def claim_key(*parts: str) -> str:
    """The name of a piece of work, the same in every driver."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


class Claims(Sessions):
    """The claims of an open database."""

    @property
    def shared(self) -> bool:
        """Whether several drivers may work on equal problems here: it is a server's database."""
        return self._database.engine.dialect.name != "sqlite"

    def claim(self, run: int, keys: Iterable[str]) -> set[str]:
        """Claims work for a run; those of `keys` that nobody else has now."""
        rows = [{"key": key, "run_id": run, "expires_at": _from_now(EXPIRY_S)} for key in sorted(set(keys))]
        if not rows:
            return set()
        with self._claiming() as session:
            wanted = upsert(session, _CLAIMS).values(rows)
            mine = wanted.on_conflict_do_update(
                index_elements=["key"],
                set_={"run_id": run, "expires_at": wanted.excluded.expires_at},
                where=or_(_CLAIMS.c.expires_at < func.now(), _CLAIMS.c.run_id == run),
            )
            return set(session.scalars(mine.returning(_CLAIMS.c.key)))

    def renew_claims(self, run: int, keys: Collection[str]) -> None:
        """Keeps claims of a run from running out; old ones of all runs are forgotten."""
        with self._claiming() as session:
            session.execute(
                update(Claim)
                .where(Claim.run_id == run, Claim.key.in_(keys))
                .values(expires_at=_from_now(EXPIRY_S))
            )
            session.execute(delete(Claim).where(Claim.expires_at < _from_now(-_KEPT.total_seconds())))

    def return_claims(self, run: int, keys: Collection[str]) -> None:
        """Gives work back: it was not done, or nobody need wait for it any more."""
        with self._claiming() as session:
            session.execute(delete(Claim).where(Claim.run_id == run, Claim.key.in_(keys)))

    @contextmanager
    def _claiming(self) -> Iterator[Session]:
        """A transaction on claims, one at a time: two that lock each other's rows in turns would end both."""
        with self.writing() as session:
            if self.shared:
                session.execute(select(func.pg_advisory_xact_lock(_ONE_AT_A_TIME)))
            yield session

    def last_ids(self) -> tuple[int, int]:
        """The newest trial's id and the newest winner's; 0: there is none."""
        with self.reading() as session:
            trial, winner = (session.scalar(select(func.max(table.id))) for table in (Trial, Winner))
        return trial or 0, winner or 0

    def trials_of_others(
        self,
        run: int,
        problems: Collection[Problem],
        *,
        backend: str,
        environment_key: str,
        workload: str,
        after: int,
    ) -> list[StoredTrial]:
        """What other runs tried of some problems on an equal stack, contended ones left out.

        Args:
            after: id of the last that was seen; a few before it come again, since ids may come out of order.
        """
        query = (
            select(Trial)
            .join(ProblemRow, ProblemRow.id == Trial.problem_id)
            .join(Environment, Environment.id == Trial.environment_id)
            .where(
                Trial.id > after - _LATE,
                Trial.run_id != run,
                ProblemRow.key.in_([problem.key for problem in problems]),
                Environment.key == environment_key,
                Trial.backend == backend,
                Trial.workload == workload,
                Trial.contended.is_(None),
            )
            .order_by(Trial.id)
        )
        with self.reading() as session:
            reader = Reader.of(session)
            return [trial_record(reader, row) for row in session.scalars(query)]

    def winners_of_others(
        self, run: int, problem: Problem, *, backend: str, environment_key: str, after: int
    ) -> list[WinnerRecord]:
        """What the finals of other runs chose for a problem on an equal stack, the newest first.

        Args:
            after: id of a winner: only those that came later. Hosts' clocks differ, the server counts.
        """
        query = (
            select(Winner)
            .join(ProblemRow, ProblemRow.id == Winner.problem_id)
            .join(Environment, Environment.id == Winner.environment_id)
            .where(
                Winner.id > after,
                Winner.run_id != run,
                ProblemRow.key == problem.key,
                Environment.key == environment_key,
                Winner.backend == backend,
                Winner.rank == 0,
            )
            .order_by(Winner.id.desc())
        )
        with self.reading() as session:
            reader = Reader.of(session)
            return [winner_record(reader, row) for row in session.scalars(query)]


def _from_now(seconds: float) -> Any:
    """A time of the server's, as SQL."""
    return func.now(type_=DateTime(timezone=True)) + timedelta(seconds=seconds)
