"""`autotune verify`: exit codes and what is printed, on our own operator's bundle."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from autotune.backends.sglang.verify import SglangVerifier
from autotune.backends.triton.export import operator_content
from autotune.cli import app
from autotune.engines import verify as engines_verify
from autotune.kernels.config import Stage1Config, Stage2Config
from autotune.kernels.tuned import Gpu
from autotune.machine.devices import DEVICES, Device
from autotune.protocol.exporter import Place
from autotune.protocol.lookup import Verification
from autotune.results import LayerConfig
from autotune.space.config import Config
from autotune.verify.verify import verify_bundle
from tests.export.winners import winner
from tests.verify.conftest import write_as_bundle

RUNNER = CliRunner()


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """No GPU here, unless a test says otherwise: the tests are the same on a machine with one."""
    monkeypatch.setattr("autotune.verify.verify.gpu_here", lambda: None)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return bundle_of(tmp_path)


def bundle_of(tmp_path: Path, **environment: object) -> Path:
    """A bundle of our operator, of a winner on an MI325X or what `environment` says."""
    one, two = vars(Stage1Config(16, 64, 512, 4, 3)), vars(Stage2Config(16, 64, 256, 4, 2))
    won = replace(winner(4, backend="triton", **environment), config=LayerConfig(Config(one), Config(two)))
    place = Place("/opt/b")
    write_as_bundle(tmp_path / "deploy", operator_content([won], place), place, won)
    return tmp_path / "deploy"


def test_a_bundle_that_is_used_as_meant_gives_exit_code_0(bundle: Path) -> None:
    done = RUNNER.invoke(app, ["verify", str(bundle)])
    assert done.exit_code == 0, done.output
    assert "ok   stage1 at 4 tokens" in done.output
    unchecked = "it is for AMD Instinct MI325X (304 compute units), and there is no GPU here to compare"
    assert f"verified: found by the engine; {unchecked}\n" in done.output


def gpu(name: str, compute_units: int) -> Device:
    """The GPU that a probe tells of."""
    return replace(DEVICES["h100"], name=name, compute_units=compute_units)


H100, H200 = Gpu("NVIDIA H100 80GB HBM3", 132), Gpu("NVIDIA H200", 132)


@pytest.mark.parametrize(("measured_on", "here"), [(H100, H200), (H200, H100)])
def test_another_gpus_bundle_is_not_used_as_meant(
    measured_on: Gpu, here: Gpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are sm_90 with 132 SMs, and the engine would find the file: it is refused by the name."""
    monkeypatch.setattr("autotune.verify.verify.gpu_here", lambda: gpu(here.name, here.compute_units))
    folder = bundle_of(tmp_path, device=measured_on.name, arch="sm_90", compute_units=132)
    done = RUNNER.invoke(app, ["verify", str(folder)])
    assert done.exit_code == 1
    assert f"gpu: it is for {measured_on}, and the serving GPU is {here}: tune on that one" in done.output
    monkeypatch.setattr(
        "autotune.verify.verify.gpu_here", lambda: gpu(measured_on.name, measured_on.compute_units)
    )
    done = RUNNER.invoke(app, ["verify", str(folder)])
    assert (done.exit_code, done.output.splitlines()[-1].strip()) == (0, "verified: found by the engine")


def test_the_serving_gpu_may_be_named_where_there_is_none(tmp_path: Path) -> None:
    folder = bundle_of(tmp_path, device=H100.name, arch="sm_90", compute_units=132)
    for name, code in ((H100.name, 0), ("NVIDIA_H100_80GB_HBM3", 0), (H200.name, 1)):
        assert RUNNER.invoke(app, ["verify", str(folder), "--device-name", name]).exit_code == code


def test_a_part_of_the_gpu_is_another_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An eighth of an MI325X in CPX mode has the whole one's name."""
    monkeypatch.setattr("autotune.verify.verify.gpu_here", lambda: gpu("AMD Instinct MI325X", 38))
    done = RUNNER.invoke(app, ["verify", str(bundle_of(tmp_path))])
    assert done.exit_code == 1
    assert "the serving GPU is AMD Instinct MI325X (38 compute units)" in done.output


def test_an_estimate_for_a_card_is_for_that_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = bundle_of(tmp_path, device="offline:mi325x")
    for name, code in (("AMD Instinct MI325X", 0), ("AMD Instinct MI300X", 1)):
        here = gpu(name, 304)
        monkeypatch.setattr("autotune.verify.verify.gpu_here", lambda here=here: here)
        assert RUNNER.invoke(app, ["verify", str(folder)]).exit_code == code


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
    with pytest.raises(UserError, match="is not a bundle"):
        RUNNER.invoke(app, ["verify", str(tmp_path / "none")], catch_exceptions=False)


@pytest.mark.parametrize("version", [None, 0, 2, "1"])
def test_a_manifest_of_another_version_is_not_guessed_at(bundle: Path, version: object) -> None:
    from autotune.errors import UserError

    manifest = json.loads((bundle / "manifest.json").read_text())
    (bundle / "manifest.json").write_text(json.dumps({**manifest, "version": version}))
    with pytest.raises(UserError, match="reads 1: use the autotune that wrote it"):
        RUNNER.invoke(app, ["verify", str(bundle)], catch_exceptions=False)


@pytest.mark.parametrize(("named", "asked"), [("AMD Instinct MI325X", None), (None, "9.9.9")])
def test_a_named_card_is_asked_with_the_bundles_triton_the_card_here_with_this_machines(
    named: str | None, asked: str | None, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    sizes = dict.fromkeys(("experts", "model_dim", "inter_dim", "top_k"), 8)
    names = {"device_name": "AMD", "arch": "gfx942", "intended": {"stage1": {}, "stage2": {}}}
    lookup = {"sglang": {**sizes, **names, "quantisation": {"dtype": "int8_w8a8"}}}
    (bundle / "manifest.json").write_text(json.dumps({**manifest, "lookups": lookup}))
    seen: dict[str, object] = {}

    def look_up(*_: object, **asking: object) -> Verification:
        seen.update(asking)
        return Verification("sglang", (), (), ())

    monkeypatch.setattr(engines_verify, "open_source", lambda *_: None)
    monkeypatch.setattr(engines_verify, "gpu_here", lambda: gpu("the card here", 132))
    monkeypatch.setattr(SglangVerifier, "triton_here", lambda _: "9.9.9")
    monkeypatch.setattr(SglangVerifier, "look_up", look_up)
    verify_bundle(bundle, engine="sglang", sources=[], device_name=named)
    assert (seen["device_name"], seen["triton_version"]) == (named or "the card here", asked)
