"""`autotune db`: thin, and quick to answer."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from autotune.cli.db import app
from autotune.errors import UserError
from autotune.store.migrations import revisions
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
        f"{own_database}: added 1 environments, 1 problems, 1 runs, 1 trials, 0 confirmations, 0 winners,"
        " 0 exports, 0 verdicts\n"
    )


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
