"""The script that compares INT8 with FP8 activations reads a checkpoint and tells the layer's errors."""

import json
from pathlib import Path
from typing import Any

import compare_activations
import pytest
import torch

from tests.serving.checkpoints import SHARDS, small
from tests.serving.layer_cases import CONFIGS

PREFIX = "model.layers.3.mlp.experts"


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    experts = small()
    config = {
        "hidden_size": 128,
        "moe_intermediate_size": 64,
        "num_experts_per_tok": 2,
        "quantization_config": CONFIGS["quark reorder"],
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    named = {
        f"{expert}.{SHARDS[shard]}.{suffix}": tensor
        for (expert, shard), tensors in experts.tensors("quark reorder").items()
        for suffix, tensor in tensors.items()
    }
    monkeypatch.setattr(compare_activations, "_tensors", lambda *_: iter(named.items()))
    return tmp_path


def compared(checkpoint: Path, *arguments: str) -> Any:
    options = compare_activations._parser().parse_args(
        ["--checkpoint", str(checkpoint), "--layer", PREFIX, *arguments]
    )
    return compare_activations.compare(options)


def test_even_activations_lose_less_in_int8_and_outliers_less_in_fp8(checkpoint: Path) -> None:
    """127 even steps against 3 bits at every magnitude: what decides is the activations' tail."""
    even = compared(checkpoint, "--tokens", "64")
    assert 1e-3 < even["INT8 per token"][0] < even["FP8 e4m3fn per token"][0] < 0.1
    x = torch.randn(64, 128, generator=torch.Generator().manual_seed(1))
    x[:, 5] *= 300
    torch.save(x, checkpoint / "x.pt")
    spiked = compared(checkpoint, "--activations", str(checkpoint / "x.pt"))
    assert spiked["INT8 per token"][0] > even["INT8 per token"][0]
    assert all(worst >= error for error, worst in spiked.values())


def test_a_checkpoint_of_another_kind_is_refused(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq"}
    (checkpoint / "config.json").write_text(json.dumps(config))
    arguments = ["compare", "--checkpoint", str(checkpoint), "--layer", PREFIX]
    monkeypatch.setattr("sys.argv", arguments)
    assert compare_activations.main() == 2
