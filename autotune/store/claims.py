"""Claims: which of several drivers on one server's database does a piece of work.

A claim runs out when its driver no longer renews it, so what a dead driver had claimed is free again after
`EXPIRY_S`. All clocks are the server's.
"""

import hashlib
from collections.abc import Collection, Iterable
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import DateTime, delete, func, or_, select, update

from autotune.problem.layer import Problem
from autotune.store.base import Base
from autotune.store.records import StoredTrial
from autotune.store.rows import Reader, upsert
from autotune.store.schema import Claim, Environment, ProblemRow, Trial
from autotune.store.sessions import Sessions
from autotune.store.trials import trial_record

EXPIRY_S: Final = 60.0
RENEW_S: Final = 15.0
_KEPT: Final = timedelta(days=1)
_CLAIMS = Base.metadata.tables[Claim.__tablename__]
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
        with self.writing() as session:
            wanted = upsert(session, _CLAIMS).values(rows)
            mine = wanted.on_conflict_do_update(
                index_elements=["key"],
                set_={"run_id": run, "expires_at": wanted.excluded.expires_at},
                where=or_(_CLAIMS.c.expires_at < func.now(), _CLAIMS.c.run_id == run),
            )
            return set(session.scalars(mine.returning(_CLAIMS.c.key)))

    def renew_claims(self, run: int, keys: Collection[str]) -> None:
        """Keeps claims of a run from running out; old ones of all runs are forgotten."""
        with self.writing() as session:
            session.execute(
                update(Claim)
                .where(Claim.run_id == run, Claim.key.in_(keys))
                .values(expires_at=_from_now(EXPIRY_S))
            )
            session.execute(delete(Claim).where(Claim.expires_at < _from_now(-_KEPT.total_seconds())))

    def return_claims(self, run: int, keys: Collection[str]) -> None:
        """Gives work back that was not done."""
        with self.writing() as session:
            session.execute(delete(Claim).where(Claim.run_id == run, Claim.key.in_(keys)))

    def last_trial(self) -> int:
        """The newest trial's id; 0: there is none."""
        with self.reading() as session:
            return session.scalar(select(func.max(Trial.id))) or 0

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
            reader = Reader(session)
            return [trial_record(reader, row) for row in session.scalars(query)]


def _from_now(seconds: float) -> Any:
    """A time of the server's, as SQL."""
    return func.now(type_=DateTime(timezone=True)) + timedelta(seconds=seconds)
