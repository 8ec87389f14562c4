"""The scripts under db/ make what the schema says, and db/README.md tells all of it."""

import re
import shlex
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, create_engine, inspect, text

from autotune.errors import UserError
from autotune.machine.fingerprint import Fingerprint
from autotune.resources import data_dir
from autotune.store import database, migrations
from autotune.store.base import Base
from autotune.store.schema import Environment
from autotune.store.store import Store
from autotune.text import command_line, without_passwords
from tests import template
from tests.store.examples import begin


@pytest.fixture
def migrated(path: Path) -> Engine:
    return create_engine(f"sqlite:///{path}")


def test_the_scripts_make_the_schema(migrated: Engine) -> None:
    with migrated.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_the_scripts_make_the_checks_too(migrated: Engine) -> None:
    """Alembic does not compare CHECK constraints."""
    declared = create_engine("sqlite://")
    Base.metadata.create_all(declared)
    ours, theirs = inspect(declared), inspect(migrated)
    for table in Base.metadata.tables:
        checks = {check["name"]: check["sqltext"] for check in ours.get_check_constraints(table)}
        assert {check["name"]: check["sqltext"] for check in theirs.get_check_constraints(table)} == checks


def test_every_constraint_has_a_name_by_which_a_script_can_change_it(migrated: Engine) -> None:
    inspector = inspect(migrated)
    for table in Base.metadata.tables:
        constraints = [
            *inspector.get_check_constraints(table),
            *inspector.get_foreign_keys(table),
            *inspector.get_unique_constraints(table),
            inspector.get_pk_constraint(table),
        ]
        assert all(constraint["name"] for constraint in constraints), table


def test_the_readme_tells_every_column() -> None:
    text = (data_dir("db") / "README.md").read_text()
    told = {}
    for section in text.split("\n### ")[1:]:
        rows = re.findall(r"^\| `(\w+)` \|", section.partition("\n## ")[0], re.MULTILINE)
        told[section.partition("\n")[0]] = rows
    assert told == {
        name: [column.name for column in table.columns]
        for name, table in ((name, Base.metadata.tables[name]) for name in told)
    }
    assert told.keys() == Base.metadata.tables.keys()


def test_an_environment_has_every_field_of_a_fingerprint() -> None:
    columns = {column.name for column in Environment.__table__.columns}
    assert columns == {"id", "key", *Fingerprint.__dataclass_fields__}


def test_the_scripts_can_be_undone(migrated: Engine) -> None:
    from alembic import command

    with migrated.begin() as connection:
        command.downgrade(migrations.config(connection), "base")
    assert inspect(migrated).get_table_names() == ["alembic_version"]


def test_no_configuration_in_the_working_folder_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "alembic.ini").write_text("[alembic]\nscript_location = elsewhere\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(migrations, "upgrade", template.migrate)
    Store.open(tmp_path / "made.db").close()


@pytest.fixture
def next_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A tool whose schema has moved on: db/ with one more script, to be filled in."""
    scripts = tmp_path / "100% db"
    shutil.copytree(data_dir("db"), scripts)
    monkeypatch.setattr(migrations, "data_dir", lambda _: scripts)
    migrations.revisions.cache_clear()
    yield scripts / "versions" / f"{NEXT}_next.py"
    migrations.revisions.cache_clear()


LATEST = migrations.revisions()[-1]
NEXT = f"{int(LATEST) + 1:04}"
SCRIPT = f"""
import sqlalchemy as sa
from alembic import op

revision, down_revision, branch_labels, depends_on = "{NEXT}", "{LATEST}", None, None


def upgrade():
    op.add_column("runs", sa.Column("note", sa.Text()))
"""


def columns(path: Path, table: str) -> list[str]:
    with sqlite3.connect(path) as connection:
        return [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]


def test_an_older_database_is_upgraded_when_it_is_opened(path: Path, next_version: Path) -> None:
    next_version.write_text(SCRIPT)
    assert "note" not in columns(path, "runs")
    with Store.open(path) as store:
        assert (store.upgraded_from, store.version) == (LATEST, NEXT)
        begin(store)
    assert "note" in columns(path, "runs")


def test_an_upgrade_that_fails_changes_nothing(path: Path, next_version: Path) -> None:
    next_version.write_text(SCRIPT + "    raise RuntimeError('half way')\n")
    with pytest.raises(RuntimeError, match="half way"):
        Store.open(path)
    assert "note" not in columns(path, "runs")
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchone() == (LATEST,)


def test_a_backup_is_made_before_an_upgrade(path: Path, next_version: Path) -> None:
    with Store.open(path) as store:
        run = begin(store)
    was = columns(path, "runs")
    next_version.write_text(SCRIPT)
    migrations.revisions.cache_clear()
    with Store.open(path) as store:
        (warning,) = store.warnings
    (backup,) = path.parent.glob(f"{path.stem}-version-*.db")
    assert warning.endswith(f"as it was it is kept in {backup}")
    assert "note" in columns(path, "runs")
    assert columns(backup, "runs") == was
    with sqlite3.connect(backup) as connection:
        assert connection.execute("SELECT id FROM runs").fetchall() == [(run,)]


def test_an_older_database_is_read_through_an_upgraded_copy(path: Path, next_version: Path) -> None:
    with Store.open(path) as store:
        run = begin(store)
    before = path.read_bytes()
    next_version.write_text(SCRIPT)
    migrations.revisions.cache_clear()
    with Store.open(path, read_only=True) as store:
        assert store.run(run).id == run
        assert store.location.path == path
        (warning,) = store.warnings
        assert "`autotune db upgrade` upgrades the file" in warning
        with pytest.raises(UserError, match="is read-only"):
            begin(store)
    assert path.read_bytes() == before


def test_a_large_file_that_is_copied_to_be_read_is_told_before_and_needs_room(
    path: Path, next_version: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    next_version.write_text(SCRIPT)
    Store.open(path, read_only=True).close()
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(database, "_LARGE_BYTES", 1)
    Store.open(path, read_only=True).close()
    told = f"{path} is older than this tool: run `autotune db upgrade` on it first; "
    assert capsys.readouterr().err.startswith(f"{told}until then every command copies it, 0.0 GB, to ")
    monkeypatch.setattr(database.shutil, "disk_usage", lambda _: SimpleNamespace(free=1))
    with pytest.raises(UserError, match="has no room to copy it") as refused:
        Store.open(path, read_only=True)
    assert str(refused.value).startswith(told)


SECRET = "s3cret of ours"


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://me:{SECRET}@head/autotune?sslmode=require",
        f"postgresql+psycopg://:{SECRET}@head",
        f"postgresql://head/autotune?user=me&password={SECRET}&sslmode=require",
        f"postgresql://head/autotune?sslpassword={SECRET}",
    ],
)
@pytest.mark.parametrize("whole", [True, False], ids=["a command line", "no command line"])
def test_passwords_that_earlier_versions_kept_are_masked_as_new_ones_are(
    path: Path, url: str, whole: bool
) -> None:
    from alembic import command

    arguments = ["run", "--try", "stage1:tile_k=256", "--db", url]
    old = shlex.join(["autotune", *arguments]) if whole else f"it's {url}"
    engine = create_engine(f"sqlite:///{path}")
    with Store.open(path) as store:
        run, other = begin(store), begin(store)
        before = store.run(other).command
    with engine.begin() as connection:
        command.downgrade(migrations.config(connection), "0005")
        connection.execute(text("UPDATE runs SET command = :old WHERE id = :run"), {"old": old, "run": run})
    engine.dispose()
    with Store.open(path) as store:
        shown = store.run(run).command
        assert shown == (command_line(arguments) if whole else f"it's {without_passwords(url)}")
        assert store.run(other).command == before
    assert SECRET not in shown
    assert SECRET.encode() not in path.read_bytes()


def test_the_scripts_do_not_import_the_schema() -> None:
    """They must still do the same when the schema has moved on."""
    for script in (data_dir("db") / "versions").glob("*.py"):
        assert "autotune" not in script.read_text(), script
