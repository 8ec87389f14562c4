"""A consistent copy of an SQLite database that somebody may be writing; the file itself is left as it is."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

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
        moved = copy.with_name("moved.db")
        for suffix in ("", "-wal", "-journal"):
            if _beside(source, suffix).exists():
                shutil.copyfile(_beside(source, suffix), _beside(moved, suffix))
        _backup(moved, "mode=rw", copy)


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _backup(source: Path, options: str, copy: Path) -> None:
    with (
        closing(sqlite3.connect(f"file:{quote(str(source))}?{options}", uri=True)) as reader,
        closing(sqlite3.connect(copy)) as writer,
    ):
        reader.backup(writer)
