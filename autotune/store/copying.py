"""Copies a whole database into an empty one, a file or a server's, and compares the two row by row."""

import tempfile
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Column, Connection, RowMapping, Table, func, insert, literal_column, select, text

from autotune.errors import UserError
from autotune.store.base import Base
from autotune.store.location import Location, locate
from autotune.store.schema import Claim
from autotune.store.snapshot import put_in_place
from autotune.store.store import Store

_AT_ONCE: Final = 5000  # rows
_LEFT: Final = (Claim.__tablename__,)  # of drivers that are at work, in that database


def copy_rows(source: str | Location | None, target: str | Location) -> dict[str, int]:
    """Copies every row, ids included, in one transaction; how many rows of each table.

    Raises:
        UserError: the target holds something already; a run writes the source meanwhile, so the two differ;
            or either cannot be opened.
    """
    place = target if isinstance(target, Location) else locate(target)
    with Store.open(source, read_only=True) as here, Store.open(place) as there:
        tables = [table for table in Base.metadata.sorted_tables if table.name not in _LEFT]
        with here.reading() as reading:
            ours = _settled(reading.connection())
            with there.writing() as writing:
                theirs = writing.connection()
                filled = next((table.name for table in tables if _has_rows(theirs, table)), None)
                if filled is not None:
                    raise UserError(
                        f"{there.location} is not empty, it has {filled}: name an empty database, or bring"
                        " the rows in with `autotune db merge`"
                    )
                for table in tables:
                    _copy(ours, theirs, table)
                counts = {table.name: _compared(ours, theirs, table, str(there.location)) for table in tables}
                _go_on_counting(theirs, tables)
    return counts


def _settled(connection: Connection) -> Connection:
    """A connection on which every statement sees the same rows, though others write."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
    return connection


def _has_rows(connection: Connection, table: Table) -> bool:
    return connection.execute(select(literal_column("1")).select_from(table).limit(1)).first() is not None


def _rows(connection: Connection, table: Table) -> Iterator[RowMapping]:
    """All rows in the order of their key, a few at a time."""
    query = select(table).order_by(*_key(table)).execution_options(yield_per=_AT_ONCE)
    return iter(connection.execute(query).mappings())


def _key(table: Table) -> list[Column[Any]]:
    return list(table.primary_key.columns)


def _copy(ours: Connection, theirs: Connection, table: Table) -> None:
    rows = _rows(ours, table)
    while chunk := [dict(row) for row, _ in zip(rows, range(_AT_ONCE), strict=False)]:
        theirs.execute(insert(table), chunk)


def _compared(ours: Connection, theirs: Connection, table: Table, place: str) -> int:
    """Compares a table's rows; how many there are.

    Raises:
        UserError: two differ.
    """
    count = 0
    for mine, its in zip_longest(_rows(ours, table), _rows(theirs, table)):
        if mine != its:
            row = ", ".join(str((mine or its)[column.name]) for column in _key(table))
            raise UserError(f"row {row} of {table.name} came out otherwise in {place}: nothing was copied")
        count += 1
    return count


def _go_on_counting(theirs: Connection, tables: list[Table]) -> None:
    """A server gives out ids by a sequence, which rows with ids of their own do not move."""
    if theirs.dialect.name != "postgresql":
        return
    for table in tables:
        if "id" in table.c:
            last = select(func.coalesce(func.max(table.c.id), 0) + 1).scalar_subquery()
            theirs.execute(select(func.setval(func.pg_get_serial_sequence(table.name, "id"), last, False)))


def copy_to_file(source: str | Location | None, target: Path) -> dict[str, int]:
    """The same into a new file, which is whole or not there: written beside its place, then renamed.

    Raises:
        UserError: see `copy_rows`; or the file cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".autotune-copy-", dir=target.parent) as folder:
            copy = Path(folder) / target.name
            counts = copy_rows(source, Location(copy, None, "", shown_as=str(target)))
            put_in_place(copy, target)
    except OSError as error:
        raise UserError(
            f"cannot write {target} ({error.strerror}): name a place with space that can be written"
        ) from error
    return counts
