"""Finds the database, what its file system allows, and what is wrong with the file, as sentences."""

import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import platformdirs
from sqlalchemy.exc import DBAPIError

from autotune.errors import UserError
from autotune.text import without_passwords

VARIABLE = "AUTOTUNE_DB"


@dataclass(frozen=True)
class Location:
    """A place for a database.

    Attributes:
        path: the SQLite file; None where the database is no plain file.
        url: a SQLAlchemy URL; None: `path` says it all.
        source: what named the place: `--db`, `AUTOTUNE_DB`, `default`, or a command's argument.
        shown_as: what messages call it; empty: the path.
    """

    path: Path | None
    url: str | None
    source: str
    shown_as: str = ""

    @property
    def by(self) -> str:
        """How another place is named, for messages."""
        options = {"--db": "with --db", VARIABLE: f"in {VARIABLE}", "default": f"with --db or {VARIABLE}"}
        return options.get(self.source, f"as {self.source}")

    def __str__(self) -> str:
        """For messages: never shows a password."""
        return self.shown_as or str(self.path)


def default_path() -> Path:
    """The file that is used when nothing else is said."""
    return Path(platformdirs.user_data_dir("autotune", appauthor=False)) / "autotune.db"


def locate(option: str | Path | None = None, name: str = "--db") -> Location:
    """Finds the database's place; nothing is opened.

    Args:
        option: what `--db` said: a path or a SQLAlchemy URL; None: not given.
        name: of the option or argument that said it, for messages.

    Raises:
        UserError: it is empty, or a URL that SQLAlchemy cannot read.
    """
    if option is not None:
        if not str(option).strip():
            # What a script's unset variable leaves: it does not mean the user's own database.
            left_out = ", or leave the option out" if name.startswith("--") else ""
            raise UserError(f"{name} is empty: give a file's path or a URL{left_out}")
        return _parse(str(option), name)
    variable = os.environ.get(VARIABLE, "")
    return _parse(variable, VARIABLE) if variable else Location(default_path(), None, "default")


def _parse(text: str, source: str) -> Location:
    if "://" not in text:
        return Location(Path(text).expanduser().absolute(), None, source)
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(text)
    except (ArgumentError, ValueError) as error:
        raise UserError(
            f"{source} {text.partition('://')[0]}://… is not a database URL: give a file's path"
            " or a URL such as sqlite:////data/autotune.db or postgresql://host/autotune"
        ) from error
    plain = url.drivername in ("sqlite", "sqlite+pysqlite") and not url.query
    if plain and url.database and url.database != ":memory:":
        return Location(Path(url.database).absolute(), None, source)
    if url.drivername in ("postgresql", "postgres"):  # SQLAlchemy's own choice for these is psycopg 2
        url = url.set(drivername="postgresql+psycopg")
    if url.get_backend_name() not in ("postgresql", "sqlite"):
        raise UserError(
            f"{source} {url.drivername}://… is no database that this tool knows: give a file's path, or a"
            " PostgreSQL server's URL such as postgresql://host/autotune"
        )
    shown = without_passwords(text)
    return Location(None, url.render_as_string(hide_password=False), source, shown_as=shown)


# The log's index is memory that all processes share, which they do only where one kernel keeps the file's
# pages. SQLite does not notice that it fails: from one host all seems well. So what is not known to be such a
# file system is not taken for one: FUSE can be anything, a virtual machine's share has a host behind it.
_LOCAL = {
    "bcachefs", "btrfs", "exfat", "ext2", "ext3", "ext4", "f2fs", "jfs", "msdos", "nilfs2", "ntfs3",
    "overlay", "ramfs", "reiserfs", "tmpfs", "udf", "vfat", "xfs", "zfs",
}  # fmt: skip
_MOUNTS = Path("/proc/self/mountinfo")


def not_local(path: Path) -> str | None:
    """Why `path` is not known to lie on a local disk, as words; None: it does."""
    target = os.fsencode(os.path.realpath(path))
    try:
        lines = _MOUNTS.read_bytes().splitlines()
    except OSError:
        return "its file system is not known"
    kind, depth = "", -1
    for line in lines:
        # 36 35 98:0 /root /mount/point options [optional fields] - type source options
        left, _, right = line.partition(b" - ")
        # The kernel writes a space in a name as \040.
        mount = re.sub(rb"\\([0-7]{3})", lambda code: bytes([int(code[1], 8)]), left.split()[4])
        inside = target == mount or target.startswith(mount.rstrip(b"/") + b"/")
        # Of two mounts on one place the later one is seen.
        if inside and len(mount) >= depth:
            kind, depth = os.fsdecode(right.split()[0]), len(mount)
    if kind in _LOCAL:
        return None
    return (
        f"its file system is {kind}, not known to be a local disk's"
        if kind
        else "its file system is not known"
    )


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


def cannot_reach(error: BaseException, location: Location) -> str:
    """A sentence on a server to which no connection can be made, or which ended one."""
    remedy = "see that the server runs, the database exists and lets this user in, and the URL is right"
    return f"cannot reach {location} ({_said(error)}): {remedy}"


def _said(error: BaseException | None) -> str:
    return " ".join(str(error).split())[:300]


def _of_a_server(error: BaseException, location: Location) -> str | None:
    """By PostgreSQL's classes of errors; what a broken connection raises has none."""
    code = getattr(error, "sqlstate", None) or ""
    if code == "42501":
        return f"{location} lacks a right ({_said(error)}): grant it, or use another user"
    if code.startswith("25"):
        return f"{location} is read-only ({_said(error)}): name the server that can be written"
    if "OperationalError" not in {kind.__name__ for kind in type(error).__mro__}:
        return None
    if not code or code.startswith(("08", "57P")):
        return cannot_reach(error, location)
    if code.startswith("53"):
        return f"{location} has no room or connections left ({_said(error)}): free some"
    return f"the server of {location} gave up ({_said(error)}): the same command goes on where it ended"


def _sentence(error: BaseException | None, location: Location) -> str | None:
    if error is not None and type(error).__module__.startswith("psycopg"):
        return _of_a_server(error, location)
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
