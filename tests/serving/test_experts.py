"""Which config a served layer runs, and what the log says of the bundle."""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import triton

from autotune.kernels import operator
from autotune.kernels.config import LayerDims, Stage1Config, Stage2Config
from autotune.kernels.tuned import Gpu, TunedLayer, default_config, load_tuned
from autotune.serving import experts
from autotune.serving.checkpoint import Experts
from autotune.serving.experts import MOST_TOKENS, Choice, chosen, run

DIMS = LayerDims(7168, 256, 384, 8)
H100 = Gpu("NVIDIA H100 80GB HBM3", 132)
TUNED = TunedLayer(Stage1Config(tile_n=32, tile_k=64), Stage2Config(tile_n=32, tile_k=64, reduce="loop"))
LOG = "vllm.autotune"


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operator, "this_gpu", lambda: H100)
    monkeypatch.setattr(operator, "this_arch", lambda: "sm_90")
    chosen.cache_clear()


def bundle(folder: Path, triton_version: str | None = triton.__version__, **changes: Any) -> str:
    content = {
        "format": "autotune-moe-w4a8",
        "version": 1,
        "gpu": {"name": H100.name, "compute_units": H100.compute_units},
        **{name: getattr(DIMS, name) for name in ("model_dim", "inter_dim", "experts", "top_k")},
        "entries": [{"tokens": 4, "stage1": TUNED.stage1.knobs(), "stage2": TUNED.stage2.knobs()}],
        **changes,
    }
    path = folder / "moe_w4a8.json"
    path.write_text(json.dumps(content))
    if triton_version is not None:
        listed = {path.name: {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}}
        manifest = {"files": listed, "environments": {"a": {"triton": triton_version}}}
        (folder / "manifest.json").write_text(json.dumps(manifest))
    return str(path)


def test_a_bundle_that_fits_is_used_where_it_was_tuned_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for _ in range(2):  # every layer asks
        choice = chosen(bundle(tmp_path), DIMS, LOG)
    assert choice.at(4) == choice.at(3) == TUNED
    assert choice.at(64) == default_config(64, DIMS, "sm_90")
    assert caplog.text.count("(sha256 ") == 1
    assert "at 4 tokens, which fits this GPU and Triton" in caplog.text


@pytest.mark.parametrize(
    ("version", "changes", "reason"),
    [
        (triton.__version__, {"gpu": {"name": "NVIDIA H200", "compute_units": 132}}, "is for NVIDIA H200"),
        (triton.__version__, {"experts": 48}, "tune this layer"),
        ("3.4.0", {}, f"was measured with Triton 3.4.0, and {triton.__version__} is here"),
        (None, {}, "keep manifest.json beside it"),
        (triton.__version__, {"version": 2}, "version 2"),
        (triton.__version__, {"entries": []}, "no entries"),
    ],
)
def test_one_that_does_not_fit_gives_way_to_the_default_with_a_warning(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    version: str | None,
    changes: dict[str, Any],
    reason: str,
) -> None:
    choice = chosen(bundle(tmp_path, version, **changes), DIMS, LOG)
    assert choice.at(4) == default_config(4, DIMS, "sm_90")
    warnings = [line.getMessage() for line in caplog.records if line.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert reason in warnings[0]


def test_a_file_that_is_not_there_gives_way_as_well(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert chosen(str(tmp_path / "no.json"), DIMS, LOG).tuned is None
    assert "No such file" in caplog.text


def test_one_that_was_changed_by_hand_gives_way_since_its_configs_were_not_measured(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = Path(bundle(tmp_path))
    path.write_text(path.read_text().replace('"tile_n": 32', '"tile_n": 0'))
    assert chosen(str(path), DIMS, LOG).tuned is None
    assert "is not the file that manifest.json beside it lists" in caplog.text


def test_a_variable_that_is_empty_is_one_that_is_not_set(caplog: pytest.LogCaptureFixture) -> None:
    assert chosen("", DIMS, LOG).tuned is None
    assert [line.levelno for line in caplog.records if line.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("damage", ["{", "[" * 100_000, "\xff", "null", "[]", '{"format": []}'])
def test_a_damaged_file_or_manifest_or_a_folder_gives_way(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    path = Path(bundle(tmp_path))
    (tmp_path / "manifest.json").write_text(damage, encoding="latin-1")
    assert chosen(str(path), DIMS, LOG).tuned is None
    chosen.cache_clear()
    path.write_text(damage, encoding="latin-1")
    load_tuned.cache_clear()
    assert chosen(str(path), DIMS, LOG).tuned is None
    assert chosen(str(tmp_path), DIMS, LOG).tuned is None
    assert [line.levelno for line in caplog.records].count(logging.WARNING) == 3


def test_more_tokens_than_scratch_is_kept_for_are_split(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def layer(x: torch.Tensor, *rest: Any, config: TunedLayer, absent: bool) -> torch.Tensor:
        calls.append((len(x), len(rest[-1]), config))
        return x * 2

    monkeypatch.setattr(operator, "fused_moe_w4a8", layer)
    choice = Choice(DIMS, "sm_90")
    tokens = 2 * MOST_TOKENS + 5
    x = torch.arange(tokens).float()[:, None].repeat(1, 4)
    nothing = torch.zeros(0)
    weights = Experts(nothing, nothing, nothing, nothing)
    out = run(weights, choice, x, torch.zeros(tokens, 8), torch.zeros(tokens, 8, dtype=torch.int32))
    assert torch.equal(out, x * 2)
    assert [count for count, _, _ in calls] == [MOST_TOKENS, MOST_TOKENS, 5]
    assert [config for _, _, config in calls] == [
        choice.at(MOST_TOKENS),
        choice.at(MOST_TOKENS),
        choice.at(5),
    ]
    assert experts.CONFIG_VARIABLE == operator.CONFIG_VARIABLE
