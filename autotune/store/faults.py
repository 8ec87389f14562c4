"""What a user can mend about a database file, as sentences."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError

from autotune.errors import UserError
from autotune.store.location import VARIABLE, Location


@contextmanager
def user_errors(location: Location) -> Iterator[None]:
    """Turns what a user can mend about a database into a UserError."""
    try:
        yield
    except DBAPIError as error:
        sentence = _sentence(error.orig, location)
        if sentence is None:
            raise
        raise UserError(sentence) from error
    except sqlite3.Error as error:
        sentence = _sentence(error, location)
        if sentence is None:
            raise
        raise UserError(sentence) from error


def _sentence(error: BaseException | None, location: Location) -> str | None:
    if not isinstance(error, sqlite3.Error):
        return None
    # SQLITE_READONLY_DIRECTORY and its like are kinds of SQLITE_READONLY.
    code = getattr(error, "sqlite_errorname", "").removeprefix("SQLITE_").partition("_")[0]
    elsewhere = f"name another place with --db or {VARIABLE}"
    return {
        "NOTADB": f"{location} is not an SQLite database: {elsewhere}, or move the file away",
        "CORRUPT": f"{location} is damaged ({error}): restore a copy, or move the file away to start anew",
        "READONLY": f"{location} is read-only: make the file and its folder writable, or {elsewhere}",
        "CANTOPEN": f"cannot open {location}: make the file and its folder writable, or {elsewhere}",
        "BUSY": f"{location} is locked by another process: wait until it has ended, or {elsewhere}",
        "FULL": f"no space is left for {location}: free some, or {elsewhere}",
        "IOERR": f"cannot read or write {location} ({error}): check its file system, or {elsewhere}",
    }.get(code)
