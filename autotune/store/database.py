"""Opens the database: pragmas, journal mode, version, and errors as sentences."""

import os
import shutil
import sqlite3
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import NoSuchModuleError
from sqlalchemy.pool import ConnectionPoolEntry

from autotune.errors import UserError
from autotune.processes import interrupt
from autotune.store import migrations
from autotune.store.location import VARIABLE, Location, not_local, user_errors
from autotune.store.server import Connections
from autotune.store.snapshot import backup_name, copy_database, snapshot

BUSY_SECONDS = 10.0
"""How long a statement that reads waits for another process's lock."""
PATIENCE_S = 600.0
"""How long a transaction that writes waits for its turn: a run of hours is not to end because another
program copies or changes the file."""
_TELL_EVERY_S = 60.0
_LOOK_EVERY_MS = 250
_LAST_S = 5.0  # once a wait was in vain, or the run is being ended

_LARGE_BYTES = 10**9
"""Of this size on it is told that a file is copied to be read."""

WRITES = {"autotune_writes": True}
"""Execution options of a transaction that writes: it takes SQLite's write lock at its start, since one
that reads first and then writes fails at once, without waiting, when another process wrote in between."""


@dataclass(frozen=True)
class Database:
    """An open database of this tool's version.

    Attributes:
        upgraded_from: the version that was found; None: it is new.
        version: the version that it has now.
        warnings: sentences to show to the user.
        copy: the folder of the copy that is read in its stead.
    """

    engine: Engine
    location: Location
    upgraded_from: str | None
    version: str
    warnings: tuple[str, ...]
    copy: "TemporaryDirectory[str] | None" = None

    def close(self) -> None:
        """Closes the connections, and deletes the copy where one is read."""
        self.engine.dispose()
        if self.copy is not None:
            self.copy.cleanup()


def open_database(location: Location, *, read_only: bool = False, create: bool = True) -> Database:
    """Opens the database at `location`; one to be written is made or brought to this version first.

    To read one that is older than this tool, or whose killed writer's log cannot be worked in where it lies,
    an upgraded copy is made and read.

    Args:
        create: make one where there is none.

    Raises:
        UserError: it is a directory, no SQLite database, another program's, newer than this tool, not
            writable, locked, or out of reach; read-only, or not to be created: it does not exist.
    """
    path = location.path
    if path is not None and path.is_dir():
        raise UserError(f"{location} is a directory: name a file in it {location.by}")
    if path is not None and (read_only or not create) and not path.exists():
        raise _missing(location)
    if path is None or not read_only:
        if path is not None:
            _make_folder(path)
        return _open(location, read_only)
    try:
        return _open(location, read_only)
    except _CopyNeeded as error:
        return _open_copy(path, location, str(error))


class _CopyNeeded(UserError):
    """A file cannot be read as it lies there."""


class MissingDatabase(UserError):
    """There is none yet, and none is to be made."""


def _missing(location: Location) -> MissingDatabase:
    return MissingDatabase(
        f"there is no database at {location}: `autotune run` makes one, or name another {location.by}"
    )


def _open_copy(path: Path, location: Location, why: str) -> Database:
    folder = TemporaryDirectory(prefix="autotune-read-")
    size, place = path.stat().st_size, Path(folder.name).parent
    try:
        if size > shutil.disk_usage(place).free:
            raise UserError(f"{why}; {place} has no room to copy it, {size / 1e9:.1f} GB, to read the copy")
        if size >= _LARGE_BYTES:
            _say(f"{why}; until then every command copies it, {size / 1e9:.1f} GB, to {place} to read it")
        copy = Location(Path(folder.name) / "copy.db", None, location.source, shown_as=str(location))
        with user_errors(location):
            snapshot(path, Path(folder.name) / "copy.db")
        opened = _open(copy, read_only=False)
        opened.engine.dispose()
        # From here on nothing is written, as with any other.
        opened = replace(_open(copy, read_only=True), upgraded_from=opened.upgraded_from)
    except BaseException:
        folder.cleanup()
        raise
    warnings = opened.warnings
    if opened.upgraded_from != opened.version:
        warnings += (
            f"{location} is older than this tool, so an upgraded copy is read: `autotune db upgrade` upgrades"
            " the file",
        )
    return replace(opened, location=location, warnings=warnings, copy=folder)


def _open(location: Location, read_only: bool) -> Database:
    path = location.path
    engine = _engine(location, read_only)
    pragmas = _Pragmas(path, read_only)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", pragmas.on_connect)
        turns = _Turns(location)
        event.listen(engine, "begin", turns.on_begin)
        event.listen(engine, "commit", turns.on_commit)
    else:
        Connections(location).listen(engine)
    try:
        with user_errors(location):
            version = _bring_to_version(engine, location, read_only, pragmas.warnings)
    except UserError as error:
        engine.dispose()
        code = getattr(getattr(error.__cause__, "orig", None), "sqlite_errorname", "")
        if read_only and code.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY")):
            raise _CopyNeeded(str(error)) from error
        raise
    except BaseException:
        engine.dispose()
        raise
    return Database(engine, location, version, migrations.revisions()[-1], tuple(pragmas.warnings))


def _make_folder(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot make the folder {path.parent} for the database ({error.strerror}):"
            f" name another place with --db or {VARIABLE}"
        ) from error


def _engine(location: Location, read_only: bool) -> Engine:
    if location.path is None:
        url = make_url(location.url or "")
    elif read_only:
        url = read_only_url(location.path)
    else:
        url = URL.create("sqlite", database=str(location.path))
    arguments = {"timeout": BUSY_SECONDS} if url.get_backend_name() == "sqlite" else {}
    try:
        # A connection that a restart has ended is found out before it is used.
        return create_engine(url, connect_args=arguments, pool_pre_ping=url.get_backend_name() != "sqlite")
    except (NoSuchModuleError, ImportError) as error:
        raise UserError(
            f"{location} needs a database driver that is not installed ({error}):"
            " pip install 'moe-autotune[postgres]', or give a file's path"
        ) from error


def read_only_url(path: Path) -> URL:
    """A URL through which the file cannot be changed."""
    query = {"mode": "ro", "uri": "true"}
    wal = path.with_name(path.name + "-wal")
    pending = wal.exists() and wal.stat().st_size > 0
    if not pending and not os.access(path.parent, os.W_OK):
        # A reader of a WAL database shares memory through a file that it cannot make here. Nobody is
        # writing, or there were a log, so reading without it is safe.
        query["immutable"] = "1"
    return URL.create("sqlite", database=f"file:{quote(str(path))}", query=query)


class _Pragmas:
    """Settings of every SQLite connection."""

    def __init__(self, path: Path | None, read_only: bool) -> None:
        self.path = path
        self.read_only = read_only
        self.warnings: list[str] = []
        self._synchronous = ""

    def on_connect(self, connection: sqlite3.Connection, _: ConnectionPoolEntry) -> None:
        # Python would otherwise begin transactions by itself, and not before DDL.
        connection.isolation_level = None
        connection.execute("PRAGMA foreign_keys = ON")
        if self.read_only:
            connection.execute("PRAGMA query_only = ON")
            return
        if not self._synchronous:
            self._synchronous = self._choose_journal(connection)
        connection.execute(f"PRAGMA synchronous = {self._synchronous}")

    def _choose_journal(self, connection: sqlite3.Connection) -> str:
        """Sets WAL where it works; returns the level of syncing that is safe with the journal.

        Under WAL, NORMAL survives a killed process; a power cut may cost the last commits, never the file.
        """
        why = not_local(self.path) if self.path else None
        if why is None:
            mode, why = _set_journal(connection, "wal")
            if mode in ("wal", "memory"):
                return "NORMAL"
        mode, _ = _set_journal(connection, "delete")
        place = self.path or "this database"
        self.warnings.append(
            f"{place} does not use a write-ahead log ({why}): journal mode {mode} is used instead,"
            " which is slower and makes readers wait for the writer"
        )
        return "FULL"


def _set_journal(connection: sqlite3.Connection, mode: str) -> tuple[str, str]:
    """Asks for a journal mode; returns the one in force, and why it is another."""
    # Changing the mode needs the file alone and does not wait for it by itself.
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            (mode_now,) = connection.execute(f"PRAGMA journal_mode = {mode}").fetchone()
            return mode_now, "SQLite refuses it there"
        except sqlite3.OperationalError as error:
            code = error.sqlite_errorname
            if code.startswith(("SQLITE_IOERR", "SQLITE_PROTOCOL")) and mode == "wal":
                return "", str(error)
            if not code.startswith("SQLITE_BUSY") or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


class _Turns:
    """Waits for the turn to write, and says so."""

    def __init__(self, location: Location) -> None:
        self._location = location
        self._patience = PATIENCE_S

    def on_begin(self, connection: Connection) -> None:
        if connection.get_execution_options().get("autotune_writes", False):
            self._wait(connection, "BEGIN IMMEDIATE")
        else:
            connection.exec_driver_sql("BEGIN")

    def on_commit(self, connection: Connection) -> None:
        """Where readers hold the file, without a write-ahead log, a commit waits too."""
        if _raw(connection).in_transaction:
            self._wait(connection, "COMMIT")

    def _wait(self, connection: Connection, statement: str) -> None:
        # SQLite's own waiting would keep the interpreter from hearing a signal.
        raw, started, last_notice = _raw(connection), time.monotonic(), 3.0 - _TELL_EVERY_S
        raw.execute(f"PRAGMA busy_timeout = {_LOOK_EVERY_MS}")
        try:
            while True:
                try:
                    raw.execute(statement)
                    return
                except sqlite3.OperationalError as error:
                    waited = time.monotonic() - started
                    patience = min(self._patience, _LAST_S) if interrupt.ended() else self._patience
                    if not error.sqlite_errorname.startswith("SQLITE_BUSY"):
                        raise
                    if waited > patience:
                        self._patience = min(patience, _LAST_S)  # what comes next is to end soon
                        raise
                if statement != "COMMIT":
                    interrupt.look()
                if waited - last_notice >= _TELL_EVERY_S:
                    last_notice = waited
                    _say(
                        f"{self._location} is being written by another process: waiting for it, up to"
                        f" {self._patience / 60:.0f} min; Ctrl-C stops"
                    )
        finally:
            raw.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000:.0f}")


def _raw(connection: Connection) -> sqlite3.Connection:
    raw = connection.connection.driver_connection
    assert isinstance(raw, sqlite3.Connection)
    return raw


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def _bring_to_version(engine: Engine, location: Location, read_only: bool, warnings: list[str]) -> str | None:
    """Checks the version and runs what is missing; returns the one that was found."""
    known = migrations.revisions()
    with engine.connect() as connection:
        tables = inspect(connection).get_table_names()
        version = migrations.version(connection) if migrations.TABLE in tables else None
    if tables and (version is None or "trials" not in tables):
        raise UserError(
            f"{location} is another program's database: name another place with --db or {VARIABLE}"
        )
    if version not in (None, *known):
        raise UserError(
            f"{location} is of version {version}, newer than this tool knows ({known[-1]}):"
            " upgrade moe-autotune, or name another database with --db"
        )
    if read_only:
        if not tables:
            raise _missing(location)
        if version != known[-1]:
            raise _CopyNeeded(f"{location} is older than this tool: run `autotune db upgrade` on it first")
        return version
    with engine.connect().execution_options(**WRITES) as connection, connection.begin() as transaction:
        if version == known[-1]:
            # A write that is undone: it finds a read-only or locked file now rather than after the first
            # measurement.
            connection.execute(text("UPDATE alembic_version SET version_num = version_num"))
            transaction.rollback()
        elif tables and location.path is not None and not location.shown_as:
            _upgrade_with_backup(connection, location.path, warnings)
        else:
            migrations.upgrade(connection)
    return version


def _upgrade_with_backup(connection: Connection, path: Path, warnings: list[str]) -> None:
    """Upgrades a file, of which a copy is made first; the caller has its write lock."""
    version = migrations.version(connection)
    if version == migrations.revisions()[-1]:  # by another process, meanwhile
        return
    backup = backup_name(path, f"version-{version}-")
    copy_database(path, backup)
    try:
        migrations.upgrade(connection)
    except BaseException:
        backup.unlink(missing_ok=True)  # the file is as it was
        raise
    warnings.append(f"{path} was of version {version} and is upgraded; as it was it is kept in {backup}")
