"""What commit 47827f5 stored is resumed, merged and exported as its own: nothing is tried again.

The files are in `tests/of_47827f5`; its README tells how they were written.
"""

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
from typer.testing import CliRunner

from autotune.cli import app
from autotune.compile.pool import CompilePool
from autotune.replay.machine import ReplayMachine
from autotune.resources import data_dir
from autotune.store.merge import merge
from autotune.store.store import Store

THEN: Final = Path(__file__).parent / "of_47827f5"
TABLE: Final = data_dir("db") / "tables" / "h100-kimi-k2.5-w4a8-tp8.table.json.gz"
REPLAY: Final = ("--target", f"replay:{TABLE}", "--shape", "m4", "--trials", "12")


@pytest.fixture
def tries_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that compiles or measures a candidate fails."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a stored candidate was tried again")

    for machine in (CompilePool, ReplayMachine):
        monkeypatch.setattr(machine, "submit", refuse)


def unpacked(name: str, folder: Path) -> Path:
    path = folder / name
    path.write_bytes(gzip.decompress((THEN / f"{name}.gz").read_bytes()))
    return path


def autotune(*words: str | Path) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def resumed(database: Path, options: tuple[str, ...]) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(autotune("run", *options, "--db", database, "--json"))
    return content


@pytest.mark.usefixtures("tries_nothing")
@pytest.mark.slow
def test_the_same_command_tries_nothing_again(tmp_path: Path) -> None:
    """On a recorded table, which has its own space. The offline trials are of kernels that changed since."""
    database = unpacked("replay.db", tmp_path)
    result = resumed(database, REPLAY)
    assert (result["resumed"], result["trials"]) == (24, {})
    with Store.open(database) as store:
        before, now = store.runs()
        assert before.environment == now.environment, "both runs are on one stack"
        assert {trial.compile_s + trial.measure_s for trial in store.trials_of(now.id)} <= {0.0}


def test_its_winners_export_as_they_did(tmp_path: Path) -> None:
    database, bundle = unpacked("offline.db", tmp_path), tmp_path / "bundle"
    options = ("--db", database, "--allow-estimates", "--bundle-path", "/srv/autotune")
    autotune("export", *options, "--out", bundle)
    names = [path.relative_to(bundle) for path in sorted(bundle.rglob("*")) if path.is_file()]
    assert names == [path.relative_to(THEN / "bundle") for path in sorted((THEN / "bundle").rglob("*.*"))]
    for name in names:
        assert as_then(bundle / name) == as_then(THEN / "bundle" / name), name


def as_then(path: Path) -> str:
    """A file of a bundle without what 47827f5 did not say: a note on estimates, and the GPU.

    The hashes in the manifest are of files with those words.
    """
    text = path.read_text()
    if path.suffix != ".json":
        return "".join(line for line in text.splitlines(keepends=True) if not line.startswith("# ESTIMATES"))
    content = json.loads(text)
    for key in ("note", "gpu", "files"):
        content.pop(key, None)
    return json.dumps(content, indent=2)


def test_merged_into_a_later_versions_database_it_is_of_the_same_stack(tmp_path: Path) -> None:
    old = unpacked("offline.db", tmp_path)
    with Store.open(old) as store:
        (then,) = store.runs()
    assert then.environment is not None
    with Store.open(tmp_path / "new.db") as store:
        store.begin_run("autotune run", {}, 0, replace(then.environment, tool_version="0.2.0"))
        added = merge(store, old)
        assert (added.environments, added.trials) == (0, 10)
        assert [run.tool_version for run in store.runs()][1] == "0.1.0"
        assert {trial.environment.tool_version for trial in store.trials_of(2)} == {"0.1.0"}
