"""`autotune verify`: exit codes and what is printed, on our own operator's bundle."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from autotune.cli import app
from autotune.config import Config
from autotune.export.content import Place
from autotune.export.operator_json import operator_content
from autotune.kernels.config import Stage1Config, Stage2Config
from autotune.results import LayerConfig
from tests.export.winners import winner
from tests.verify.conftest import write_as_bundle

RUNNER = CliRunner()


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    one, two = vars(Stage1Config(16, 64, 512, 4, 3)), vars(Stage2Config(16, 64, 256, 4, 2))
    won = replace(winner(4, backend="triton"), config=LayerConfig(Config(one), Config(two)))
    place = Place("/opt/b")
    write_as_bundle(tmp_path / "deploy", operator_content([won], place), place)
    return tmp_path / "deploy"


def test_a_bundle_that_is_used_as_meant_gives_exit_code_0(bundle: Path) -> None:
    done = RUNNER.invoke(app, ["verify", str(bundle)])
    assert done.exit_code == 0, done.output
    assert "ok   stage1 at 4 tokens" in done.output
    assert "verified: found by the engine\n" in done.output


def test_a_lookup_that_finds_estimates_says_that_they_are_such(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    (bundle / "manifest.json").write_text(json.dumps({**manifest, "measured": False}))
    done = RUNNER.invoke(app, ["verify", str(bundle)])
    assert "verified: found by the engine; its times are estimates" in done.output
    (found,) = json.loads(RUNNER.invoke(app, ["verify", str(bundle), "--json"]).output)
    assert found["estimated"]


def test_one_that_is_not_gives_1_and_the_reason(bundle: Path) -> None:
    file = bundle / "moe_w4a8.json"
    file.write_text(file.read_text().replace('"tile_k": 512', '"tile_k": 256'))
    done = RUNNER.invoke(app, ["verify", str(bundle), "--json"])
    assert done.exit_code == 1
    (found,) = json.loads(done.output)
    assert not found["ok"]
    assert any(reason.startswith("bucket: stage1 at 4 tokens") for reason in found["reasons"])
    assert "moe_w4a8.json was changed since the export" in found["reasons"]


def test_the_variable_missing_is_told(bundle: Path) -> None:
    (bundle / "autotune.env").write_text("# empty\n")
    done = RUNNER.invoke(app, ["verify", str(bundle)])
    assert done.exit_code == 1
    assert "does not set AUTOTUNE_MOE_CONFIG" in done.output


def test_an_unknown_engine_or_folder_is_a_mistake(bundle: Path, tmp_path: Path) -> None:
    from autotune.errors import UserError

    with pytest.raises(UserError, match="unknown engine"):
        RUNNER.invoke(app, ["verify", str(bundle), "--engine", "tgi"], catch_exceptions=False)
    with pytest.raises(UserError, match="is no bundle"):
        RUNNER.invoke(app, ["verify", str(tmp_path / "none")], catch_exceptions=False)
