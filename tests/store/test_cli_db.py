"""`autotune db`: thin, and quick to answer."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from autotune.cli.db import app
from autotune.errors import UserError
from autotune.store import snapshot as snapshots
from autotune.store.migrations import revisions
from autotune.store.records import RunState
from autotune.store.store import Store
from tests.store.examples import begin, trial


def invoke(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_path_prints_where_the_database_is_and_makes_nothing(own_database: Path, tmp_path: Path) -> None:
    assert invoke("path") == f"{own_database}\n"
    assert invoke("path", "--db", str(tmp_path / "mine.db")) == f"{tmp_path / 'mine.db'}\n"
    assert list(tmp_path.iterdir()) == []


def test_upgrade_makes_the_database_then_finds_it_up_to_date(own_database: Path) -> None:
    assert invoke("upgrade") == f"{own_database}: new -> version {revisions()[-1]}\n"
    assert invoke("upgrade") == f"{own_database}: version {revisions()[-1]}\n"


def test_merge_says_what_it_added(own_database: Path, tmp_path: Path) -> None:
    with Store.open(tmp_path / "other.db") as other:
        other.record_trial(begin(other), trial())
    assert invoke("merge", str(tmp_path / "other.db")) == (
        f"{own_database}: added 1 environment, 1 problem, 1 run, 1 trial, 0 layers, 0 confirmations,"
        " 0 winners, 0 calibrations, 0 exports, 0 verdicts\n"
    )


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ("missing.db", "there is no database at .*missing.db: give the file that the other machine wrote"),
        ("notes.txt", "notes.txt is not an SQLite database"),
        ("folder", "folder is a directory: name the database in it that the other machine wrote"),
        ("/dev/null", "/dev/null is not a plain file: give the one that the other machine wrote"),
        ("", "OTHER is empty: give a file's path or a URL$"),
        (
            "postgresql://me:secret@head/autotune",
            r"postgresql://me:\*\*\*@head/autotune is not a plain file, and only files are merged",
        ),
    ],
)
def test_what_cannot_be_merged_is_refused_before_a_database_is_made(
    own_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: str, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("notes.txt").write_text("notes\n" * 1000)
    Path("folder").mkdir()
    with pytest.raises(UserError, match=told) as refused:
        invoke("merge", other)
    assert "secret" not in str(refused.value)
    assert not own_database.exists()


def test_a_copy_of_a_live_database_has_all_that_was_committed(store: Store, run: int, tmp_path: Path) -> None:
    """Most of it stands in the log beside the file."""
    store.record_trial(run, trial())
    target = tmp_path / "usb" / "copy.db"
    assert invoke("copy", str(target)) == f"{store.location}: copied to {target}\n"
    assert [each.name for each in target.parent.iterdir()] == ["copy.db"]
    with Store.open(target, read_only=True) as copied:
        assert copied.trials_of(run) == store.trials_of(run)


def test_a_copy_replaces_nothing_unasked(store: Store, run: int, tmp_path: Path) -> None:
    target = tmp_path / "copy.db"
    target.write_text("a report")
    with pytest.raises(UserError, match="is there already"):
        invoke("copy", str(target))
    assert target.read_text() == "a report"
    # What a killed writer left beside the older file is not taken for the copy's.
    target.with_name("copy.db-wal").write_text("a log")
    invoke("copy", str(target), "--force")
    with Store.open(target, read_only=True) as copied:
        assert len(copied.runs()) == 1
    with pytest.raises(UserError, match="is the database itself"):
        invoke("copy", str(store.location), "--force")


def test_a_copys_place_may_be_a_url(store: Store, run: int, tmp_path: Path) -> None:
    target = tmp_path / "copy.db"
    invoke("copy", f"sqlite:///{target}")
    with Store.open(target, read_only=True) as copied:
        assert len(copied.runs()) == 1


def test_a_copy_that_does_not_fit_leaves_what_was_there(
    store: Store, run: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "usb"
    folder.mkdir()
    (folder / "copy.db").write_text("an older copy")

    def full(source: Path, copy: Path) -> None:
        copy.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(snapshots, "snapshot", full)
    with pytest.raises(UserError, match=r"cannot write .* \(No space left on device\)"):
        invoke("copy", str(folder / "copy.db"), "--force")
    assert [(each.name, each.read_text()) for each in folder.iterdir()] == [("copy.db", "an older copy")]


def test_backups_lie_beside_the_database_and_never_replace_one_another(store: Store, run: int) -> None:
    assert store.location.path is not None
    for _ in range(2):
        assert invoke("backup").startswith(f"{store.location}: copied to {store.location.path.parent}")
    backups = list(store.location.path.parent.glob(f"{store.location.path.stem}-*.db"))
    assert len(backups) == 2
    for backup in backups:
        with Store.open(backup, read_only=True) as copied:
            assert copied.run(run).id == run


def test_there_is_nothing_to_copy_or_forget_where_there_is_no_database(tmp_path: Path) -> None:
    for command in (("backup",), ("copy", "x.db"), ("forget", "--run", "1")):
        with pytest.raises(UserError, match="there is no database at"):
            invoke(*command, "--db", str(tmp_path / "none.db"))
    assert list(tmp_path.iterdir()) == []


def test_forget_says_what_is_gone(store: Store, run: int) -> None:
    store.record_trial(run, trial())
    store.end_run(run, RunState.FINISHED)
    assert invoke("forget", "--run", str(run)) == f"{store.location}: forgot 1 trial\n"
    with pytest.raises(UserError, match="nothing to forget is named"):
        invoke("forget")
    with pytest.raises(UserError, match="use one of ok, constraint"):
        invoke("forget", "--status", "lost")
    with pytest.raises(UserError, match="there is no run 99"):
        invoke("forget", "--run", "99")


def test_a_mistake_is_left_to_the_entry_point() -> None:
    with pytest.raises(UserError, match="there is no database at"):
        CliRunner().invoke(app, ["merge", "missing.db"], catch_exceptions=False)


def test_a_warning_is_shown(own_database: Path) -> None:
    output = invoke("upgrade", "--db", f"sqlite:///file:{own_database}?vfs=unix-dotfile&uri=true")
    assert "warning: " in output
    assert "does not use a write-ahead log" in output


def test_the_command_is_defined_without_anything_heavy() -> None:
    code = (
        "import sys, autotune.cli.db;"
        "sys.exit(' '.join(sys.modules.keys() & {'sqlalchemy', 'alembic', 'optuna', 'numpy'}) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_forgetting_a_config_that_no_trial_has_is_told(store: Store, run: int) -> None:
    with pytest.raises(UserError, match=r"no trial in .* has nope=1: autotune top"):
        invoke("forget", "--config", "nope=1")
