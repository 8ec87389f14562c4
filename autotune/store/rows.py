"""Turns records that every part of the store needs into rows and back."""

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, fields
from functools import cache
from importlib import import_module
from itertools import islice
from typing import Any, Final, Self, TypeVar

from sqlalchemy import Select, Table, bindparam, func, select
from sqlalchemy.orm import Session

from autotune.machine.fingerprint import Fingerprint
from autotune.problem.layer import Layer, Problem
from autotune.problem.routing import Routing
from autotune.results import SHARED, Gpu, LayerConfig
from autotune.space.config import Config
from autotune.store.base import Base
from autotune.store.schema import ConfirmationRow, Environment, ProblemRow, Run, Winner

Row = TypeVar("Row", bound=Base)
_COLUMNS: Final = frozenset(ProblemRow.__table__.columns.keys())
"""Of a layer; how its experts are spread is in the problem's key alone."""


def existing(session: Session, table: type[Row], id_: int) -> Row:
    """The row with an id.

    Raises:
        LookupError: there is none.
    """
    row = session.get(table, id_)
    if row is None:
        raise LookupError(f"{table.__tablename__} has no row {id_}")
    return row


def environment_id(session: Session, fingerprint: Fingerprint) -> int:
    """The row of a fingerprint, made where there is none."""
    return _id_of(session, Environment, {"key": fingerprint.key, **asdict(fingerprint)})


def problem_id(session: Session, problem: Problem) -> int:
    """The row of a problem, made where there is none."""
    layer, routing = problem.layer, problem.routing
    values = {
        "key": problem.key,
        **{name: value for name, value in layer.dims.items() if name in _COLUMNS},
        "verify_tokens": problem.verify_tokens,
        "concurrency": problem.concurrency,
        "tokens": problem.tokens,
        "routing_kind": routing.kind,
        "routing_parameter": routing.parameter,
        "routing_path": routing.path,
    }
    return _id_of(session, ProblemRow, values)


def _id_of(session: Session, table: type[Environment] | type[ProblemRow], values: dict[str, Any]) -> int:
    """The row with a key, made where there is none: several drivers of one server may do so at once."""
    by_key = select(table.id).where(table.key == values["key"])
    id_ = session.scalar(by_key)
    if id_ is None:
        rows = Base.metadata.tables[table.__tablename__]
        session.execute(upsert(session, rows).values(values).on_conflict_do_nothing(index_elements=["key"]))
        id_ = session.scalar(by_key)
    assert id_ is not None
    return id_


def upsert(session: Session, table: Table) -> Any:
    """An INSERT of the session's dialect, which may say what becomes of a row that is there already."""
    dialect = import_module(f"sqlalchemy.dialects.{session.get_bind().dialect.name}")
    return dialect.insert(table)


def next_number(session: Session, table: type[Base], run: int) -> int:
    """The place in its run of the next row of a table; the caller holds the write lock."""
    last = session.connection().scalar(_last_number(Base.metadata.tables[table.__tablename__]), {"run": run})
    return 0 if last is None else int(last) + 1


@cache
def _last_number(table: Table) -> Select[int]:
    return select(func.max(table.c.number)).where(table.c.run_id == bindparam("run"))


def storable_error(error: float | None) -> float | None:
    """A gate error that survives SQLite, which stores NaN as NULL: nothing is more wrong than NaN."""
    return math.inf if error is not None and math.isnan(error) else error


def gpu_columns(gpu: Gpu | None) -> dict[str, str | None]:
    """Where samples were taken, as columns."""
    return {"host": None, "gpu": None} if gpu is None else {"host": gpu.host, "gpu": gpu.uuid}


def stored_gpu(host: str | None, uuid: str | None) -> Gpu | None:
    """The GPU of such columns."""
    return None if host is None else Gpu(host, uuid)


def layer_config(stage1: str, stage2: str) -> LayerConfig:
    """A layer config from its stages' stored texts."""
    return LayerConfig(Config.from_key(stage1), Config.from_key(stage2))


def chunks(ids: Collection[int]) -> Iterator[list[int]]:
    """Some hundreds at a time: a statement takes only so many values."""
    left = iter(sorted(ids))
    while chunk := list(islice(left, 500)):
        yield chunk


class Reader:
    """Turns rows into records, building each environment and problem once a session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._rows: list[Base] = []
        self._environments: dict[tuple[int, int], Fingerprint] = {}
        self._problems: dict[int, Problem] = {}
        self._versions: dict[int, str] = {}
        self._workloads: dict[int, str] = {}

    @classmethod
    def of(cls, session: Session) -> Self:
        """The session's reader."""
        reader: Self = session.info.setdefault("reader", cls(session))
        return reader

    def look_ahead(self, winners: Sequence[Winner]) -> None:
        """Reads at once what many winners need of other tables."""
        for chunk in chunks({row.run_id for row in winners}):
            versions = select(Run.id, Run.tool_version).where(Run.id.in_(chunk))
            self._versions |= dict(self._session.execute(versions).all())
        for chunk in chunks({row.problem_id for row in winners} - self._problems.keys()):
            # Kept, as a session forgets what nobody holds.
            self._rows += self._session.scalars(select(ProblemRow).where(ProblemRow.id.in_(chunk)))
        for chunk in chunks({row.environment_id for row in winners}):
            self._rows += self._session.scalars(select(Environment).where(Environment.id.in_(chunk)))
        for chunk in chunks({row.confirmation_id for row in winners if row.confirmation_id is not None}):
            workloads = select(ConfirmationRow.id, ConfirmationRow.workload)
            rows = self._session.execute(workloads.where(ConfirmationRow.id.in_(chunk)))
            self._workloads |= dict(rows.all())

    def environment(self, id_: int, run: int) -> Fingerprint:
        """A stack as a run had it: versions of this tool share a row, and each run tells its own."""
        if (id_, run) not in self._environments:
            row = self._session.get_one(Environment, id_)
            stack = {field.name: getattr(row, field.name) for field in fields(Fingerprint)}
            version = self._versions.get(run)
            stack["tool_version"] = version or self._session.get_one(Run, run).tool_version
            self._environments[id_, run] = Fingerprint(**stack)
        return self._environments[id_, run]

    def shared(self, confirmation: int | None) -> bool:
        """Whether others may have been on the GPU in a confirmation."""
        if confirmation is None:
            return False
        workload = self._workloads.get(confirmation)
        if workload is None:
            workload = self._session.get_one(ConfirmationRow, confirmation).workload
        return workload.endswith(SHARED)

    def problem(self, id_: int) -> Problem:
        """The problem of a row's id; asked for once."""
        if id_ not in self._problems:
            row = self._session.get_one(ProblemRow, id_)
            stored = (field.name for field in fields(Layer) if field.name in _COLUMNS)
            layer = Layer(**{name: getattr(row, name) for name in stored}).spread_as(row.key)
            routing = Routing(row.routing_kind, row.routing_parameter, row.routing_path)
            self._problems[id_] = Problem(layer, row.verify_tokens, row.concurrency, routing)
        return self._problems[id_]
