"""Brings in a database from another machine. Merging it again adds only what is new since."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Table, insert, select, update

from autotune.errors import UserError
from autotune.results import WRONG
from autotune.store.base import Base
from autotune.store.database import open_database, user_errors
from autotune.store.location import Location
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
    confirmations: int
    winners: int
    exports: int
    verdicts: int


@dataclass(frozen=True)
class _Part:
    """A table to merge.

    Attributes:
        identity: columns that name a row in every database; its id does so in one only.
        refers: columns that hold another table's ids.
        owned: tables whose rows belong to one row of this, by the column that says to which.
    """

    name: str
    identity: tuple[str, ...]
    refers: Mapping[str, str]
    owned: Mapping[str, str]


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
        "confirmations",
        ("run_id", "number"),
        {"run_id": "runs", "environment_id": "environments", "problem_id": "problems"},
        {"finalists": "confirmation_id", "rounds": "confirmation_id"},
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
    _Part("exports", ("uid",), {}, {"exported_winners": "export_id"}),
    _Part("verdicts", ("binary_hash", "compiler", "compiler_version"), {}, {}),
)
_OWNED_REFERS = {"exported_winners": {"winner_id": "winners"}}

Ids = dict[str, dict[int, int]]
"""By table: from the other database's ids to this one's."""


def merge(into: Store, other: Path) -> Merged:
    """Adds what the database at `other` holds and `into` lacks; all of it or, on an error, nothing.

    The other file is never changed: an older one is upgraded in a temporary copy.

    Raises:
        UserError: `other` is missing, unreadable, the same file, no database of this tool, or newer.
    """
    if not other.is_file():
        raise UserError(f"there is no database at {other}: give the file that the other machine wrote")
    if into.location.path is not None and other.samefile(into.location.path):
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
            with source.engine.connect() as theirs, into.writing() as session:
                ours = session.connection()
                ids: Ids = {}
                added = {part.name: _merge_part(ours, theirs, part, ids) for part in _PARTS}
                _update_runs(ours, theirs, ids["runs"])
                _worse_verdicts(ours, theirs, ids["verdicts"])
        finally:
            source.engine.dispose()
    return Merged(**added)


def _merge_part(ours: Connection, theirs: Connection, part: _Part, ids: Ids) -> int:
    """Merges a table and what its rows own, notes its ids; returns how many rows were added."""
    table = _table(part.name)
    columns = [table.c[name] for name in part.identity]
    present = {tuple(values): id_ for id_, *values in ours.execute(select(table.c.id, *columns))}
    known = ids.setdefault(part.name, {})
    new: dict[int, int] = {}
    for row in theirs.execute(select(table).order_by(table.c.id)).mappings():
        values = _translated(row, part.refers, ids)
        their_id = values.pop("id")
        identity = tuple(values[name] for name in part.identity)
        if identity not in present:
            key = ours.execute(insert(table), values).inserted_primary_key
            assert key is not None
            new[their_id] = present[identity] = key[0]
        known[their_id] = present[identity]
    for name, owner in part.owned.items():
        _copy_owned(ours, theirs, _table(name), owner, new, ids)
    return len(new)


def _copy_owned(
    ours: Connection, theirs: Connection, table: Table, owner: str, owners: Mapping[int, int], ids: Ids
) -> None:
    refers = _OWNED_REFERS.get(table.name, {})
    for their_id, our_id in owners.items():
        rows = theirs.execute(select(table).where(table.c[owner] == their_id)).mappings()
        values = [{**_translated(row, refers, ids), owner: our_id} for row in rows]
        if values:
            ours.execute(insert(table), values)


def _translated(row: Mapping[Any, Any], refers: Mapping[str, str], ids: Ids) -> dict[str, Any]:
    values = {str(name): value for name, value in row.items()}
    for column, table in refers.items():
        if values[column] is not None:
            values[column] = ids[table][values[column]]
    return values


def _update_runs(ours: Connection, theirs: Connection, ids: Mapping[int, int]) -> None:
    """A run that was under way when it was merged first has ended since."""
    table = _table("runs")
    ended = select(table.c.id, table.c.state, table.c.ended_at).where(table.c.state != RunState.RUNNING)
    for their_id, state, ended_at in theirs.execute(ended):
        ours.execute(
            update(table)
            .where(table.c.id == ids[their_id], table.c.state == RunState.RUNNING)
            .values(state=state, ended_at=ended_at)
        )


def _worse_verdicts(ours: Connection, theirs: Connection, ids: Mapping[int, int]) -> None:
    """Where two machines judged one binary, the one that found it wrong is believed."""
    table = _table("verdicts")
    for row in theirs.execute(select(table).where(table.c.status.in_(WRONG))).mappings():
        values = {str(name): value for name, value in row.items() if name != "id"}
        ours.execute(
            update(table).where(table.c.id == ids[row["id"]], table.c.status.not_in(WRONG)).values(values)
        )


def _table(name: str) -> Table:
    return Base.metadata.tables[name]
