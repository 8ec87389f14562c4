"""A PostgreSQL server of the tests' own: made in a folder, reached through a socket there, then gone."""

import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from autotune.store.store import Store


def _program(name: str) -> str | None:
    installed = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(installed[-1]) if installed else None)


def missing() -> str | None:
    """Why no server can be started here; None: one can."""
    if _program("initdb") is None or _program("pg_ctl") is None:
        return "PostgreSQL is not installed: apt-get install postgresql"
    try:
        import psycopg  # noqa: F401
    except ImportError:
        return "psycopg is not installed: pip install 'moe-autotune[postgres]'"
    if os.getuid() == 0:
        try:
            pwd.getpwnam("postgres")
        except KeyError:
            return "PostgreSQL does not run as root, and there is no user postgres"
    return None


def _as_owner() -> list[str]:
    return ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []


def _do(folder: Path, name: str, *arguments: str) -> None:
    subprocess.run(
        [*_as_owner(), str(_program(name)), "-D", str(folder / "data"), *arguments],
        check=True,
        cwd="/tmp",
        stdout=subprocess.DEVNULL,
        timeout=60,
    )


def control(action: str, url: str) -> None:
    """Has the server of a URL `start`, `stop` or `restart`; it does not wait for who uses it."""
    folder = Path(url.partition("?host=")[2])
    how = [] if action == "start" else ["-m", "immediate"]
    options = [] if action == "stop" else ["-o", f"-k {folder} -h '' -F -c max_connections=50"]
    _do(folder, "pg_ctl", "-w", "-l", str(folder / "log"), *how, *options, action)


@contextmanager
def server() -> Iterator[str]:
    """Starts a server; the URL of its database `postgres`."""
    folder = Path(tempfile.mkdtemp(prefix="autotune-pg-", dir="/tmp"))  # a socket's path is short
    url = f"postgresql://autotune@/postgres?host={folder}"
    if _as_owner():
        shutil.chown(folder, "postgres")
    try:
        _do(folder, "initdb", "-A", "trust", "-U", "autotune", "--no-sync")
        control("start", url)
        try:
            yield url
        finally:
            control("stop", url)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """A server of the whole session, with a database of this tool's version to be copied."""
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    with server() as url:
        import psycopg

        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE DATABASE made")
        Store.open(_named(url, "made")).close()
        yield url


@pytest.fixture
def shared_url(postgres: str) -> Iterator[str]:
    """An empty database of this tool's version on it."""
    import psycopg

    name = f"t{uuid.uuid4().hex}"
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE made")
    yield _named(postgres, name)
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _named(url: str, name: str) -> str:
    """The URL of another database of the same server."""
    plain, _, options = url.partition("?")
    return f"{plain.rpartition('/')[0]}/{name}?{options}"
