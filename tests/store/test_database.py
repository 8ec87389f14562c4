"""Opening: settings, and one clear sentence for each file that cannot be used."""

import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest

from autotune.errors import UserError
from autotune.results import Sample
from autotune.store import database, location
from autotune.store.migrations import revisions
from autotune.store.store import Store
from tests.store.examples import begin, trial, win


@pytest.fixture(autouse=True)
def no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.2)
    monkeypatch.setattr(database, "PATIENCE_S", 0.3)


def pragma(store: Store, name: str) -> object:
    with store.reading() as session:
        return session.connection().exec_driver_sql(f"PRAGMA {name}").scalar()


def refused(location: str | Path, *, read_only: bool = False) -> str:
    """The sentence with which opening is refused."""
    with pytest.raises(UserError) as error:
        Store.open(location, read_only=read_only)
    sentence = str(error.value)
    assert "\n" not in sentence
    return sentence


def test_a_database_is_made_with_its_folder(tmp_path: Path) -> None:
    with Store.open(tmp_path / "new" / "folder" / "autotune.db") as store:
        assert store.upgraded_from is None
        begin(store)
    assert (tmp_path / "new" / "folder" / "autotune.db").is_file()


def test_it_uses_a_log_checks_references_and_survives_a_kill(store: Store) -> None:
    assert pragma(store, "journal_mode") == "wal"
    assert pragma(store, "synchronous") == 1  # NORMAL
    assert pragma(store, "foreign_keys") == 1
    assert store.warnings == ()


def test_opening_one_that_is_up_to_date_is_quick(path: Path) -> None:
    times = []
    for _ in range(5):
        start = time.perf_counter()
        Store.open(path).close()
        times.append(time.perf_counter() - start)
    assert min(times) < 0.05


def test_opening_one_that_is_up_to_date_needs_no_alembic(path: Path) -> None:
    code = (
        "import sys; from autotune.store.store import Store; Store.open().close();"
        "sys.exit('alembic' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# What cannot be used


def test_not_an_sqlite_database(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("not a database, but long enough to look for a header in it\n" * 100)
    assert refused(file).startswith(f"{file} is not an SQLite database: name another place with --db")
    assert file.read_text().startswith("not a database")


def test_a_folder(tmp_path: Path) -> None:
    assert refused(tmp_path) == f"{tmp_path} is a directory: name a file in it with --db"


def test_a_damaged_database(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[100:4096] = b"\xff" * 3996
    path.write_bytes(content)
    assert re.match(rf"{path} is damaged \(.*\): restore a copy", refused(path))


def test_a_newer_version(path: Path) -> None:
    with sqlite3.connect(path) as newer:
        newer.execute("UPDATE alembic_version SET version_num = '9999'")
    for read_only in (False, True):
        assert refused(path, read_only=read_only) == (
            f"{path} is of version 9999, newer than this tool knows ({revisions()[-1]}): upgrade"
            " moe-autotune, or name another database with --db"
        )


def test_another_programs_database(tmp_path: Path) -> None:
    file = tmp_path / "other.db"
    with sqlite3.connect(file) as other:
        other.execute("CREATE TABLE songs (title TEXT)")
    assert refused(file).startswith(f"{file} is another program's database: name another place")
    with sqlite3.connect(file) as other:
        assert other.execute("SELECT name FROM sqlite_master").fetchall() == [("songs",)]


def test_another_programs_database_that_alembic_looks_after(tmp_path: Path) -> None:
    file = tmp_path / "other.db"
    with sqlite3.connect(file) as other:
        other.execute("CREATE TABLE songs (title TEXT)")
        other.execute("CREATE TABLE alembic_version (version_num TEXT)")
        other.execute("INSERT INTO alembic_version VALUES ('0001')")
    assert refused(file).startswith(f"{file} is another program's database")


def test_a_read_only_file(path: Path) -> None:
    """Through SQLite's own switch: root, as whom tests may run, writes anywhere."""
    sentence = refused(f"sqlite:///file:{path}?mode=ro&uri=true")
    assert "is read-only: make the file and its folder writable, or name another place with --db" in sentence


UNPRIVILEGED = """
import os, sys
from autotune.errors import UserError
from autotune.store.store import Store

with Store.open(sys.argv[2]) as store:
    store.runs()  # imports what another user may not be allowed to
if os.geteuid() == 0:  # permissions do not bind root
    os.setgid(65534)
    os.setuid(65534)
try:
    Store.open(sys.argv[1])
except UserError as error:
    print(error)
with Store.open(sys.argv[1], read_only=True) as store:
    print(len(store.runs()), "runs")
"""


@pytest.mark.parametrize(("file_mode", "folder_mode"), [(0o444, 0o755), (0o666, 0o555), (0o444, 0o555)])
def test_without_permission_to_write_it_can_be_read(
    empty: Path, path: Path, file_mode: int, folder_mode: int
) -> None:
    # pytest's own folders are closed to other users.
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "autotune.db"
        shutil.copy(empty, file)
        file.chmod(file_mode)
        Path(folder).chmod(folder_mode)
        output = subprocess.run(
            [sys.executable, "-c", UNPRIVILEGED, str(file), str(path)],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        Path(folder).chmod(0o755)
    assert output == (
        f"{file} is read-only: make the file and its folder writable, or name another place with --db"
        " or AUTOTUNE_DB\n0 runs\n"
    )


def test_a_folder_in_which_no_file_can_be_made() -> None:
    assert refused("/proc/autotune.db").startswith("cannot open /proc/autotune.db: make the file")


def test_a_folder_that_cannot_be_made() -> None:
    sentence = refused("/proc/autotune/autotune.db")
    assert re.match(r"cannot make the folder /proc/autotune for the database \(.*\): name another", sentence)


def test_locked_by_another_process(path: Path) -> None:
    with sqlite3.connect(path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        assert refused(path).startswith(f"{path} is locked by another process: wait until it has ended")
        other.execute("ROLLBACK")
    Store.open(path).close()


def test_locked_while_a_trial_is_recorded(store: Store, run: int, path: Path) -> None:
    with sqlite3.connect(path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(UserError, match="locked by another process"):
            store.record_trial(run, trial())
        other.execute("ROLLBACK")
    store.record_trial(run, trial())
    assert len(store.trials_of(run)) == 1


def test_a_run_waits_for_a_busy_database_and_says_so(
    store: Store, run: int, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Minutes, by a clock that goes 20 s at each look of this thread, however many looks there are."""
    monkeypatch.setattr(database, "PATIENCE_S", 600.0)
    monkeypatch.setattr(database, "_LOOK_EVERY_MS", 1)
    said: list[tuple[float, str]] = []
    now, waiter = 0.0, threading.get_ident()
    with Store.open(path) as patient, sqlite3.connect(path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")

        def clock() -> float:
            nonlocal now
            if threading.get_ident() == waiter:
                now += 20.0
                if now >= 400.0 and other.in_transaction:
                    other.execute("ROLLBACK")
            return now

        monkeypatch.setattr(database, "_say", lambda sentence: said.append((now, sentence)))
        monkeypatch.setattr(database, "time", SimpleNamespace(monotonic=clock))
        patient.record_trial(run, trial())
    assert {later - sooner for (sooner, _), (later, _) in pairwise(said)} == {60.0}  # once a minute
    assert said[0][1] == (
        f"{path} is being written by another process: waiting for it, up to 10 min; Ctrl-C stops"
    )
    assert len(store.trials_of(run)) == 1


def test_after_a_wait_in_vain_the_next_is_short(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that gives up still writes that it failed: not after ten minutes more."""
    monkeypatch.setattr(database, "PATIENCE_S", 600.0)
    monkeypatch.setattr(database, "_LOOK_EVERY_MS", 1)
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 1.0
        return now

    with Store.open(path) as patient, sqlite3.connect(path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        monkeypatch.setattr(database, "_say", lambda _: None)
        monkeypatch.setattr(database, "time", SimpleNamespace(monotonic=clock))
        took = []
        for _ in range(2):
            before = now
            with pytest.raises(UserError, match="locked by another process"):
                begin(patient)
            took.append(now - before)
    assert took[0] > 600
    assert took[1] < 10


def test_a_disk_that_is_full(store: Store, run: int) -> None:
    pages = pragma(store, "page_count")
    with store.reading() as session:
        session.connection().exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(UserError, match="no space is left"):
        store.record_trial(run, trial(), [Sample(41.5)] * 20_000)
    assert store.trials_of(run) == []


def test_a_database_server_without_its_driver() -> None:
    assert "needs a database driver that is not installed" in refused("postgresql+pg8000://host/autotune")
    assert "is no database that this tool knows" in refused("nosuch://host/autotune")


# Reading only


def test_nothing_is_made_where_only_reading_is_asked_for(tmp_path: Path) -> None:
    missing = tmp_path / "folder" / "autotune.db"
    assert refused(missing, read_only=True).startswith(f"there is no database at {missing}: `autotune run`")
    assert not missing.parent.exists()


def test_reading_only_changes_nothing(path: Path) -> None:
    with Store.open(path) as store:
        run = begin(store)
    with Store.open(path, read_only=True) as reader:
        assert reader.run(run).id == run
        with pytest.raises(UserError, match="is read-only"):
            begin(reader)


@pytest.mark.parametrize("content", [b"", None])
def test_what_is_empty_is_no_database_to_read(tmp_path: Path, content: bytes | None) -> None:
    place = tmp_path / "autotune.db"
    if content is not None:
        place.write_bytes(content)
    assert refused(place, read_only=True).startswith(f"there is no database at {place}")
    assert place.exists() == (content is not None)


def test_what_is_to_be_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no database at"):
        Store.open(tmp_path / "folder" / "autotune.db", create=False)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_writers_log_is_read_where_nothing_can_be_written(store: Store, tmp_path: Path) -> None:
    """The log has to be worked in: in a copy, where its own folder is closed."""
    run = begin(store)
    with tempfile.TemporaryDirectory() as folder:
        for suffix in ("", "-wal"):  # what lies on the disk while the writer still has it open
            shutil.copy(f"{store.location}{suffix}", f"{folder}/autotune.db{suffix}")
        Path(folder).chmod(0o555)
        output = subprocess.run(
            [sys.executable, "-c", UNPRIVILEGED, f"{folder}/autotune.db", str(tmp_path / "any.db")],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        Path(folder).chmod(0o755)
    assert output.endswith(f"{run} runs\n")


def test_reading_where_nothing_can_be_written(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader of a log shares memory through a file beside it, which cannot be made in such a folder."""
    with Store.open(path) as store:
        begin(store)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with Store.open(path, read_only=True) as reader:
        assert len(reader.runs()) == 1
    assert not path.with_name(path.name + "-shm").exists()


# Where no write-ahead log works


Mount = Callable[[str], Path]


@pytest.fixture
def mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mount:
    """Makes a folder that the kernel says is a file system of some type; its name needs quoting there."""

    def of(kind: str) -> Path:
        home = tmp_path / f"é {kind} home"
        home.mkdir()
        mounts = tmp_path / "mountinfo"
        quoted = str(home).replace(" ", "\\040")
        mounts.write_text(
            f"22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
            f"39 22 8:1 /export {quoted} rw,relatime shared:7 - autofs auto rw\n"
            f"40 22 0:40 /export {quoted} rw,relatime shared:7 - {kind} server:/export rw,vers=4.2\n"
        )
        monkeypatch.setattr(location, "_MOUNTS", mounts)
        return home

    return of


@pytest.fixture
def nfs(mount: Mount) -> Path:
    return mount("nfs4")


@pytest.mark.parametrize(
    "kind",
    [
        *("nfs", "nfs4", "cifs", "smb3", "ceph", "fuse.ceph", "fuse.cephfs", "lustre", "beegfs", "gpfs"),
        *("fuse.gpfs", "fuse.sshfs", "fuse.juicefs", "fuse.gcsfuse", "fuse.s3fs", "fuse.rclone", "fuse"),
        *("fuse.mergerfs", "fuse.shfs", "9p", "virtiofs", "vboxsf", "drvfs", "prl_fs", "fuse.vmhgfs-fuse"),
        *("orangefs", "ocfs2", "gfs2", "nobody-knows"),
    ],
)
def test_no_log_where_the_file_system_is_not_known_to_be_local(mount: Mount, kind: str) -> None:
    place = mount(kind) / "autotune.db"
    with Store.open(place) as store:
        assert store.warnings == (
            f"{place} does not use a write-ahead log (its file system is {kind}, not known to be a local"
            " disk's): journal mode delete is used instead, which is slower and makes readers wait for the"
            " writer",
        )
        assert pragma(store, "journal_mode") == "delete"
        assert pragma(store, "synchronous") == 2  # FULL
        begin(store)


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "zfs", "overlay", "tmpfs", "f2fs"])
def test_on_a_local_disk_the_log_is_used(mount: Mount, kind: str) -> None:
    with Store.open(mount(kind) / "autotune.db") as store:
        assert store.warnings == ()
        assert pragma(store, "journal_mode") == "wal"


def test_where_nothing_tells_the_file_system_no_log_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(location, "_MOUNTS", tmp_path / "none")
    with Store.open(tmp_path / "autotune.db") as store:
        assert "its file system is not known" in store.warnings[0]


def test_a_database_moved_to_nfs_gives_up_its_log(path: Path, nfs: Path) -> None:
    shutil.move(path, nfs / "autotune.db")
    with Store.open(nfs / "autotune.db") as store:
        assert pragma(store, "journal_mode") == "delete"


def test_beside_nfs_the_log_is_used(nfs: Path, tmp_path: Path) -> None:
    with Store.open(tmp_path / "local.db") as store:
        assert store.warnings == ()


def test_where_sqlite_refuses_a_log_it_is_said(tmp_path: Path) -> None:
    """SQLite's locking by dot files has no shared memory, like file systems on which a log fails."""
    file = tmp_path / "autotune.db"
    with Store.open(f"sqlite:///file:{file}?vfs=unix-dotfile&uri=true") as store:
        (warning,) = store.warnings
        assert "does not use a write-ahead log" in warning
        store.record_trial(begin(store), trial())


# Readers and writers at once


def test_a_reader_does_not_wait_for_the_writer(store: Store, run: int, path: Path) -> None:
    win(store, run)
    with store.writing(), Store.open(path, read_only=True) as reader:
        assert len(reader.winners()) == 1


def test_the_writer_does_not_wait_for_a_reader(store: Store, run: int, path: Path) -> None:
    with Store.open(path, read_only=True) as reader, reader.reading() as session:
        session.connection().exec_driver_sql("SELECT * FROM trials").fetchone()
        store.record_trial(run, trial())
        seen = session.connection().exec_driver_sql("SELECT count(*) FROM trials").scalar()
    assert seen == 0  # a reader sees one moment
    assert len(store.trials_of(run)) == 1


def test_writers_take_turns(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "PATIENCE_S", 600.0)
    monkeypatch.setattr(database, "BUSY_SECONDS", 30.0)

    def write() -> None:
        with Store.open(path) as store:
            run = begin(store)
            for _ in range(25):
                store.record_trial(run, trial())

    threads = [threading.Thread(target=write) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with Store.open(path) as store:
        assert [len(store.trials_of(run.id)) for run in store.runs()] == [25, 25, 25]


def test_two_that_make_the_same_database_at_once_both_succeed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 30.0)
    code = (
        "from autotune.store.store import Store\n"
        "with Store.open() as store: print(store.begin_run('autotune run', {}, 0))"
    )
    monkeypatch.setenv("AUTOTUNE_DB", str(tmp_path / "shared.db"))
    both = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    assert sorted(process.communicate()[0].strip() for process in both) == ["1", "2"]
