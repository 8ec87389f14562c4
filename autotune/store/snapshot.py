"""A consistent copy of an SQLite database that somebody may be writing; the file itself is left as it is."""

import os
import shutil
import sqlite3
import tempfile
from contextlib import closing
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from urllib.parse import quote

from autotune.errors import UserError
from autotune.store.location import Location, user_errors

_WAL_HEADER = b"\x02\x02"  # bytes 18 and 19 of the file: write and read version


def snapshot(source: Path, copy: Path) -> None:
    """Copies the database at `source`, with what its log holds, to the new file `copy`.

    Raises:
        sqlite3.Error: it is no SQLite database, damaged, or cannot be read.
    """
    with source.open("rb") as file:
        header = file.read(20)
    wal = _beside(source, "-wal")
    options = "mode=ro"
    if header[18:20] == _WAL_HEADER and not wal.exists():
        # Cleanly closed. Opening it the ordinary way would make files beside it, or fail to.
        options += "&immutable=1"
    try:
        _backup(source, options, copy)
    except sqlite3.OperationalError as error:
        if not error.sqlite_errorname.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY")):
            raise
        # A killed writer's log has to be worked in, which cannot be done where nothing may be written.
        with tempfile.TemporaryDirectory(prefix=".autotune-", dir=copy.parent) as folder:
            moved = Path(folder) / "moved.db"
            for suffix in ("", "-wal", "-journal"):
                if _beside(source, suffix).exists():
                    shutil.copyfile(_beside(source, suffix), _beside(moved, suffix))
            _backup(moved, "mode=rw", copy)


def copy_database(source: Path, target: Path, *, overwrite: bool = False) -> None:
    """A copy that is whole or not there: written beside `target`, checked, then renamed.

    Raises:
        UserError: `target` is there already, or cannot be written.
        sqlite3.Error: see `snapshot`.
    """
    if target.exists() and not overwrite:
        raise UserError(f"{target} is there already: name another file, or overwrite it with --force")
    if target.exists() and target.samefile(source):
        raise UserError(f"{target} is the database itself: name another file")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".autotune-copy-", dir=target.parent) as folder:
            copy = Path(folder) / target.name
            with user_errors(Location(target, None, "")):
                snapshot(source, copy)
                _check(copy)
            put_in_place(copy, target)
    except OSError as error:
        raise UserError(
            f"cannot write {target} ({error.strerror}): name a place with space that can be written"
        ) from error


def put_in_place(copy: Path, target: Path) -> None:
    """Makes a finished copy, of the same file system, the file at `target`.

    Raises:
        OSError: it cannot be.
    """
    with copy.open("rb") as file:
        os.fsync(file.fileno())
    # What a killed writer of an older file left would be taken for the copy's.
    for suffix in ("-wal", "-shm", "-journal"):
        _beside(target, suffix).unlink(missing_ok=True)
    copy.replace(target)


def backup_name(path: Path, label: str = "") -> Path:
    """A name beside the database that no other backup has: `autotune-20261126-141500.db`."""
    stem = f"{path.stem}-{label}{datetime.now(UTC):%Y%m%d-%H%M%S}"
    names = (path.with_name(f"{stem}{f'-{number}' if number else ''}{path.suffix}") for number in count())
    return next(name for name in names if not name.exists())


def _check(copy: Path) -> None:
    with closing(sqlite3.connect(copy)) as connection:
        connection.execute("PRAGMA journal_mode = delete")  # one file, whatever reads it
        (answer,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if answer != "ok":
        raise UserError(f"the copy is damaged, and so the database itself may be ({answer}): check its disk")


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _backup(source: Path, options: str, copy: Path) -> None:
    with (
        closing(sqlite3.connect(f"file:{quote(str(source))}?{options}", uri=True)) as reader,
        closing(sqlite3.connect(copy)) as writer,
    ):
        reader.backup(writer)
