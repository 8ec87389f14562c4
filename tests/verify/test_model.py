"""What verify asks an engine by, from the model that is served; no engine is needed to know."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autotune.backends.sglang.verify import SglangVerifier
from autotune.backends.vllm.verify import VllmVerifier
from autotune.engines.verify import FusedMoeVerifier
from autotune.problem.layer import Layer
from autotune.problem.models import Model, from_hf_config
from autotune.protocol.bundle import Bundle
from autotune.protocol.lookup import Serving
from autotune.verify.verify import served_layer

LOOKUP = {"quantisation": {"dtype": "fp8_w8a8", "block_shape": None, "per_channel": True}}


def bundle(layer: Layer, backend: str = "sglang_fp8", **more: Any) -> Bundle:
    return Bundle(Path(), {"layer": layer.dims, "backend": backend, **more}, {})


def asked(bundle: Bundle, model: Model | None = None, by: FusedMoeVerifier | None = None) -> dict[str, Any]:
    """What the engine asks by, SGLang unless another is given."""
    layer, family, _ = served_layer(bundle, model)
    return (by or SglangVerifier()).asked(Serving(layer=layer, family=family), LOOKUP)


def reason(bundle: Bundle) -> str:
    return served_layer(bundle, None)[2]


DEEPSEEK = Layer("deepseek-v3", 7168, 256, 256, 8, 8)


def test_a_checkpoint_in_blocks_is_asked_for_by_its_blocks_and_its_fused_expert() -> None:
    served = bundle(DEEPSEEK)
    assert "weight_block_size=[128, 128]" in reason(served)
    by_sglang = asked(served)
    assert by_sglang["quantisation"] == {"dtype": "fp8_w8a8", "block_shape": (128, 128), "per_channel": False}
    assert (by_sglang["experts"], by_sglang["top_k"]) == (257, 9)
    assert asked(served, by=VllmVerifier())["experts"] == 256


def test_a_bundle_of_requantised_experts_is_asked_for_as_its_backend_has_them() -> None:
    served = bundle(DEEPSEEK, requantised=True)
    assert reason(served) == ""
    assert asked(served)["quantisation"] == LOOKUP["quantisation"]


@pytest.mark.parametrize(
    ("layer", "backend", "words"),
    [
        (Layer("nemotron_h", 2688, 232, 128, 6, 8), "sglang_bf16", "relu2"),
        (replace(DEEPSEEK, model="deepseek-v3+shared", experts=257, top_k=9), "sglang_fp8", "[128, 128]"),
        (Layer("gpt-oss-120b", 2880, 720, 128, 4, 4), "triton", "clamped"),
        (Layer("qwen3_moe", 2048, 96, 128, 8, 8), "sglang_w4a16", "K=96 is not a whole number of pairs"),
        (Layer("qwen3_moe", 2048, 96, 128, 8, 8), "aiter", "K in 64s, not 2048 x 96"),
        (Layer("kimi-k2.5-w4a8", 7168, 256, 384, 8, 8), "triton", ""),
    ],
)  # fmt: skip
def test_an_older_bundle_is_judged_by_what_is_known_of_its_model(
    layer: Layer, backend: str, words: str
) -> None:
    told = reason(bundle(layer, backend))
    assert (words in told) if words else told == ""


def test_a_model_that_is_told_is_taken_for_the_one_that_is_served(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    dims = {
        "hidden_size": 4096,
        "moe_intermediate_size": 1408,
        "n_routed_experts": 128,
        "num_experts_per_tok": 8,
    }
    path.write_text(json.dumps({"model_type": "glm4_moe", "n_shared_experts": 1, **dims}))
    glm = from_hf_config(path)
    by = asked(bundle(Layer("mine", 4096, 352, 128, 8, 4)), glm)
    assert (by["experts"], by["top_k"], by["inter_dim"]) == (129, 9, 352)
    # A layer with the shared expert counted in is compared with the model's, counted in likewise.
    by = asked(bundle(Layer("mine+shared", 4096, 352, 129, 9, 4)), glm)
    assert (by["experts"], by["top_k"]) == (129, 9)


def test_a_bundle_that_was_tuned_for_another_group_is_not_the_checkpoints(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    dims = {"hidden_size": 4096, "moe_intermediate_size": 1536, "num_experts": 128, "num_experts_per_tok": 8}
    gptq = {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True}
    path.write_text(json.dumps({"model_type": "qwen3_moe", **dims, "quantization_config": gptq}))
    layer = Layer("mine", 4096, 384, 128, 8, 4)
    told = served_layer(bundle(layer, "sglang_w4a16"), from_hf_config(path))[2]
    assert "a scale per group of 128" in told
    assert "the kernels take INT4 weights, a scale every 32 values of K" in told
    assert served_layer(bundle(layer, "sglang_w4a16_g128"), from_hf_config(path))[2] == ""


def test_a_bundle_that_names_no_layer_is_asked_for_as_it_says() -> None:
    served = Bundle(Path(), {}, {})
    assert (reason(served), asked(served)) == ("", {})
