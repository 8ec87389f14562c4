"""Brings in a database from another machine. Merging it again adds only what is new since.

A run may be writing the same database meanwhile: what is added is prepared outside the write lock and written
in small transactions, between which others get their turn.
"""

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Table, and_, insert, select, update

from autotune.errors import UserError
from autotune.results import WRONG
from autotune.store.base import Base
from autotune.store.database import Database, open_database
from autotune.store.location import Location, user_errors
from autotune.store.records import RunState
from autotune.store.snapshot import snapshot
from autotune.store.store import Store


@dataclass(frozen=True)
class Merged:
    """How many rows of each table were added."""

    environments: int
    problems: int
    runs: int
    trials: int
    layers: int
    confirmations: int
    winners: int
    calibrations: int
    exports: int
    verdicts: int


@dataclass(frozen=True)
class _Part:
    """A table to merge.

    Attributes:
        identity: columns that name a row in every database; its id does so in one only.
        refers: columns that hold another table's ids.
        owned: tables whose rows belong to one row of this, by the column that says to which.
        at_once: rows in one transaction: together they hold the lock for some hundredths of a second.
    """

    name: str
    identity: tuple[str, ...]
    refers: Mapping[str, str]
    owned: Mapping[str, str]
    at_once: int = 100


# In the order of reference. A run is written by one process only, so a row's number within it is enough.
_PARTS = (
    _Part("environments", ("key",), {}, {}),
    _Part("problems", ("key",), {}, {}),
    _Part("runs", ("uid",), {"environment_id": "environments"}, {}),
    _Part(
        "trials",
        ("run_id", "number"),
        {
            "run_id": "runs",
            "environment_id": "environments",
            "problem_id": "problems",
            "merged_into": "trials",
        },
        {"samples": "trial_id"},
    ),
    _Part(
        "layers",
        ("run_id", "number"),
        {"run_id": "runs", "environment_id": "environments", "problem_id": "problems"},
        {},
    ),
    _Part(
        "confirmations",
        ("run_id", "number"),
        {"run_id": "runs", "environment_id": "environments", "problem_id": "problems"},
        {"finalists": "confirmation_id", "rounds": "confirmation_id"},
        at_once=4,
    ),
    _Part(
        "winners",
        ("run_id", "number"),
        {
            "run_id": "runs",
            "environment_id": "environments",
            "problem_id": "problems",
            "confirmation_id": "confirmations",
            "stage1_trial_id": "trials",
            "stage2_trial_id": "trials",
        },
        {},
    ),
    _Part("calibrations", ("run_id", "number"), {"run_id": "runs", "problem_id": "problems"}, {}),
    _Part("exports", ("uid",), {}, {"exported_winners": "export_id"}),
    _Part("verdicts", ("binary_hash", "compiler", "compiler_version"), {}, {}),
)
_OWNED_REFERS = {"exported_winners": {"winner_id": "winners"}}

Ids = dict[str, dict[int, int]]
"""By table: from the other database's ids to this one's."""


def merge(into: Store, other: Path) -> Merged:
    """Adds what the database at `other` holds and `into` lacks: see `add`.

    Raises:
        UserError: see `opened`.
    """
    with opened(other, into.location) as source:
        return add(into, source)


@contextmanager
def opened(other: Path, into: Location) -> Iterator[Database]:
    """A copy of the database that is to be added to the one at `into`, which need not be there yet.

    The other file is never changed: an older one is upgraded in the temporary copy.

    Raises:
        UserError: `other` is missing, a directory, unreadable, the same file, no database of this tool, or
            newer.
    """
    if other.is_dir():
        raise UserError(f"{other} is a directory: name the database in it that the other machine wrote")
    if other.exists() and not other.is_file():
        raise UserError(f"{other} is not a plain file: give the one that the other machine wrote")
    if not other.is_file():
        raise UserError(f"there is no database at {other}: give the file that the other machine wrote")
    if into.path is not None and into.path.exists() and other.samefile(into.path):
        raise UserError(f"{other} is this database itself: give the file that another machine wrote")
    with tempfile.TemporaryDirectory(prefix="autotune-merge-") as folder:
        place = Location(Path(folder) / "copy.db", None, "OTHER", shown_as=str(other))
        try:
            with user_errors(place):
                snapshot(other, Path(folder) / "copy.db")
        except OSError as error:
            raise UserError(f"cannot read {other} ({error.strerror}): make it readable") from error
        source = open_database(place)
        try:
            yield source
        finally:
            source.close()


def add(into: Store, source: Database) -> Merged:
    """Adds what `source` holds and `into` lacks.

    A merge that ends half way, killed or refused, has added whole rows only: a trial with all its samples, a
    winner with its confirmation; and a run whose rows are not all there does not read as finished. Merging
    again adds the rest and repeats nothing.
    """
    with source.engine.connect() as theirs:
        ids: Ids = {}
        added = {part.name: _merge_part(into, theirs, part, ids) for part in _PARTS}
        _worse_verdicts(into, theirs, ids["verdicts"])
        _end_runs(into, theirs, ids["runs"])
    return Merged(**added)


@contextmanager
def _turn(into: Store) -> Iterator[Connection]:
    """One small transaction that writes; then others who wait get their turn."""
    with into.writing() as session:
        connection = session.connection()
        started = time.monotonic()
        yield connection
    # SQLite does not queue: who waits looks again after some milliseconds.
    time.sleep(time.monotonic() - started)


def _merge_part(into: Store, theirs: Connection, part: _Part, ids: Ids) -> int:
    """Merges a table and what its rows own, notes its ids; returns how many rows were added."""
    table = _table(part.name)
    columns = [table.c[name] for name in part.identity]
    with into.reading() as session:
        here = {tuple(values): id_ for id_, *values in session.execute(select(table.c.id, *columns))}
    # What names a row refers to parts that are merged already.
    outer = {column: name for column, name in part.refers.items() if name != part.name}
    known = ids.setdefault(part.name, {})
    added = 0
    for chunk in theirs.execute(select(table).order_by(table.c.id)).mappings().partitions(part.at_once):
        new = []
        for row in chunk:
            values = _translated(row, outer, ids)
            id_ = here.get(tuple(values[name] for name in part.identity))
            if id_ is None:
                new.append(values)
            else:
                known[row["id"]] = id_
        if new:
            owned = {name: _owned(theirs, name, owner, new, ids) for name, owner in part.owned.items()}
            with _turn(into) as ours:
                fresh = _add(ours, part, new, ids)
                for name, rows in owned.items():
                    owner = part.owned[name]
                    copies = [{**row, owner: known[row[owner]]} for row in rows if row[owner] in fresh]
                    if copies:
                        ours.execute(insert(_table(name)), copies)
            added += len(fresh)
    return added


def _add(ours: Connection, part: _Part, new: Sequence[dict[str, Any]], ids: Ids) -> set[int]:
    """Inserts rows and notes their ids; returns the other database's ids of those that are really new."""
    table, inner = _table(part.name), {c: name for c, name in part.refers.items() if name == part.name}
    fresh = set()
    for row in new:
        values = _translated(row, inner, ids)
        their_id = values.pop("id")
        if part.name == "runs":  # until all its rows are here: see `_end_runs`
            values |= {"state": RunState.RUNNING, "ended_at": None}
        # Somebody else may have added it since this database was read.
        same = and_(*(table.c[name] == values[name] for name in part.identity))
        id_ = ours.scalar(select(table.c.id).where(same))
        if id_ is None:
            key = ours.execute(insert(table), values).inserted_primary_key
            assert key is not None
            id_ = key[0]
            fresh.add(their_id)
        ids[part.name][their_id] = id_
    return fresh


def _owned(
    theirs: Connection, name: str, owner: str, owners: Sequence[Mapping[str, Any]], ids: Ids
) -> list[dict[str, Any]]:
    """The rows of a table that belong to some of another, which `owner` still names by the other's ids."""
    table, refers = _table(name), _OWNED_REFERS.get(name, {})
    query = select(table).where(table.c[owner].in_([row["id"] for row in owners]))
    return [_translated(row, refers, ids) for row in theirs.execute(query).mappings()]


def _translated(row: Mapping[Any, Any], refers: Mapping[str, str], ids: Ids) -> dict[str, Any]:
    values = {str(name): value for name, value in row.items()}
    for column, table in refers.items():
        if values[column] is not None:
            values[column] = ids[table][values[column]]
    return values


def _end_runs(into: Store, theirs: Connection, ids: Mapping[int, int]) -> None:
    """Runs whose rows are all here now end as they did there."""
    table = _table("runs")
    ended = select(table.c.id, table.c.state, table.c.ended_at).where(table.c.state != RunState.RUNNING)
    with into.reading() as session:
        # A run that reads as killed here may have ended in another way on its own machine.
        open_ = (RunState.RUNNING, RunState.INTERRUPTED)
        state = {row.id: row.state for row in session.execute(select(table.c.id, table.c.state))}
    for chunk in theirs.execute(ended).partitions(100):
        new = [row for row in chunk if state[ids[row.id]] in open_ and state[ids[row.id]] is not row.state]
        if new:
            with _turn(into) as ours:
                for row in new:
                    ours.execute(
                        update(table)
                        .where(table.c.id == ids[row.id], table.c.state.in_(open_))
                        .values(state=row.state, ended_at=row.ended_at)
                    )


def _worse_verdicts(into: Store, theirs: Connection, ids: Mapping[int, int]) -> None:
    """Where two machines judged one binary, the one that found it wrong is believed."""
    table = _table("verdicts")
    for chunk in theirs.execute(select(table).where(table.c.status.in_(WRONG))).mappings().partitions(100):
        with _turn(into) as ours:
            for row in chunk:
                values = {str(name): value for name, value in row.items() if name != "id"}
                ours.execute(
                    update(table)
                    .where(table.c.id == ids[row["id"]], table.c.status.not_in(WRONG))
                    .values(values)
                )


def _table(name: str) -> Table:
    return Base.metadata.tables[name]
