"""The page "add a backend" leads to one that works: ranked offline, measured, exported, verified."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.cli.helper import ROOT, command, env

PAGE = (ROOT / "docs" / "add-a-backend.md").read_text()
TOY = ROOT / "docs" / "examples" / "toy"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example as pip installs it: its modules, and the entry points that its pyproject.toml names."""
    site = tmp_path_factory.mktemp("site")
    for path in TOY.glob("*.py"):
        shutil.copy(path, site)
    project = tomllib.loads((TOY / "pyproject.toml").read_text())["project"]
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    groups = (
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in points.items())
        for group, points in project["entry-points"].items()
    )
    (info / "entry_points.txt").write_text("".join(groups))
    return site


def ran(site: Path, folder: Path, *arguments: str, status: int = 0) -> str:
    """What a command prints that is started in `folder`."""
    where = env(PYTHONPATH=f"{ROOT}:{site}", AUTOTUNE_DB=str(folder / "autotune.db"))
    done = subprocess.run(arguments, cwd=folder, env=where, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("name", sorted(path.name for path in TOY.glob("*.*")))
def test_the_page_shows_the_very_files_that_run_here(name: str) -> None:
    kind = {"py": "python", "toml": "toml"}[name.rpartition(".")[2]]
    assert f"```{kind}\n{(TOY / name).read_text()}```" in PAGE


def test_the_example_is_small() -> None:
    lines = [line for path in TOY.glob("*.py") for line in path.read_text().splitlines()]
    assert sum(bool(line.strip()) for line in lines) <= 200


def test_it_is_offered_like_any_other(site: Path, tmp_path: Path) -> None:
    assert "repeat" in ran(site, tmp_path, *command("spaces", "--backend", "toy"))


@pytest.mark.slow
def test_its_offline_run_ranks_refuses_and_merges(site: Path, tmp_path: Path) -> None:
    options = ("--backend", "toy", "--target", "offline:mi325x", "--workers", "1")
    result = json.loads(ran(site, tmp_path, *command("run", *options, "--json")))
    assert result["trials"] == {"ok": 10, "compile_error": 4}
    assert result["merged"] == 4
    (winner,) = result["winners"]
    assert winner["kind"] == "estimate"
    assert winner["config"]["stage1"]["repeat"] == 1
    again = ran(site, tmp_path, *command("run", *options))
    assert "autotune export --backend toy --out deploy --allow-estimates" in again


@pytest.mark.slow
def test_it_is_measured_exported_and_verified_and_a_changed_file_fails(site: Path, tmp_path: Path) -> None:
    measured = ran(site, tmp_path, sys.executable, str(site / "measure_on_cpu.py"))
    gain = re.search(
        r"^m4: (\d+)% faster than the default,\n  stage1: .*repeat=1; stage2: .*repeat=1$", measured, re.M
    )
    assert gain is not None, measured
    assert int(gain[1]) > 20
    ran(site, tmp_path, *command("export", "--backend", "toy", "--out", "deploy"))
    manifest = json.loads((tmp_path / "deploy/manifest.json").read_text())
    assert manifest["measured"]
    table = tmp_path / "deploy/toy/toy.json"
    assert json.loads(table.read_text())["4"]["stage1"]["repeat"] == 1
    assert "verified" in ran(site, tmp_path, *command("verify", "deploy"))
    table.write_text(table.read_text().replace('"repeat": 1', '"repeat": 3'))
    said = ran(site, tmp_path, *command("verify", "deploy"), status=1)
    assert "toy/toy.json was changed since the export" in said
    assert "FAIL 4 tokens" in said
    shutil.rmtree(table.parent)
    assert "FAIL 4 tokens: nothing" in ran(site, tmp_path, *command("verify", "deploy"), status=1)
