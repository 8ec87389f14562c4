"""What a model needs against what a backend computes: refused by name, and the same offline as on the card."""

# ruff: noqa: E501 a table has a row a line

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from autotune.backends.aiter.backend import spaces
from autotune.backends.aiter.pack import flydsl_weights
from autotune.backends.aiter_main.pack import ck_weights
from autotune.cli import app
from autotune.errors import UserError
from autotune.kernels.formats import Format, weight_scales
from autotune.machine.devices import DEVICES
from autotune.problem.arithmetic import Needs, Scales, Scheme, refusals
from autotune.problem.layer import Layer, Stage
from autotune.problem.models import from_hf_config, preset
from autotune.problem.quantisation_config import read_scheme
from autotune.protocol.legality import (
    declared,
    fuses_shared,
    pick_backend,
    require_computed,
    require_default,
    require_layout,
)
from autotune.protocol.registry import backend_names, load_backend
from tests.spaces import KIMI

PLAIN = {"hidden_size": 2048, "moe_intermediate_size": 1024, "num_experts": 128, "num_experts_per_tok": 8}
COMPUTES = dict(declared())


def group(
    bits: int, kind: str = "int", *, inputs: dict[str, Any] | None = None, **weights: Any
) -> dict[str, Any]:
    """A compressed-tensors file with one group."""
    held = {"num_bits": bits, "type": kind, "symmetric": True, **weights}
    return {
        "quant_method": "compressed-tensors",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": held, "input_activations": inputs}},
    }


BY_TOKEN = {"num_bits": 8, "type": "int", "dynamic": True, "strategy": "token"}
QUARK_W4A8 = {
    "quant_method": "quark",
    "global_quant_config": {
        "weight": [
            {"dtype": "fp8_e4m3", "qscheme": "per_tensor"},
            {"dtype": "int4", "qscheme": "per_channel", "symmetric": True},
        ],
        "input_tensors": {"dtype": "fp8_e4m3", "qscheme": "per_tensor", "is_dynamic": True},
    },
}


def quark(qscheme: str, **inputs: Any) -> dict[str, Any]:
    """Quark's FP8 by channel, with activations of a `qscheme`."""
    held = {"weight": {"dtype": "fp8_e4m3", "qscheme": "per_channel"}}
    held["input_tensors"] = {"dtype": "fp8_e4m3", "qscheme": qscheme, "is_dynamic": True, **inputs}
    return {"quant_method": "quark", "global_quant_config": held}


W4A8_BACKENDS = {"triton", "flydsl", "aiter"}
GROUPED = {"sglang_w4a16", "vllm_w4a16", "aiter_main_w4a16", "humming_w4a16"}
IN_64 = {"sglang_w4a16_g64", "vllm_w4a16_g64"}
IN_128 = {"humming_w4a16_g128", "sglang_w4a16_g128", "vllm_w4a16_g128"}
IN_BLOCKS = {"sglang_fp8_block", "vllm_fp8_block"}

# A quantization_config and the backends that take it.
CHECKPOINTS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "DeepSeek-V3": ({"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}, IN_BLOCKS),
    "FP8 in other blocks": ({"quant_method": "fp8", "weight_block_size": [64, 64]}, set()),
    "FP8 by tensor": ({"quant_method": "fp8", "activation_scheme": "static"}, set()),
    "FP8-dynamic": (group(8, "float", strategy="channel", inputs={**BY_TOKEN, "type": "float"}), {"sglang_fp8", "vllm_fp8"}),
    "FP8 blocks of compressed-tensors": (group(8, "float", strategy="block", block_structure=[128, 128], inputs={**BY_TOKEN, "type": "float", "strategy": "group", "group_size": 128}), IN_BLOCKS),
    "fbgemm": ({"quant_method": "fbgemm_fp8"}, {"sglang_fp8", "vllm_fp8"}),
    "INT8": (group(8, strategy="channel", inputs=BY_TOKEN), {"sglang", "vllm"}),
    "INT8 weights": (group(8, strategy="channel"), {"sglang_w8a16", "vllm_w8a16"}),
    "Kimi-K2.5": (group(4, strategy="group", group_size=32), GROUPED),
    "INT4 in groups of 128": (group(4, strategy="group", group_size=128), IN_128),
    "INT4 in groups of 64": (group(4, strategy="group", group_size=64), IN_64),
    "INT4 in groups of 256": (group(4, strategy="group", group_size=256), set()),
    "INT4 with zero points": (group(4, strategy="group", group_size=32, symmetric=False), set()),
    "INT4 x INT8": (group(4, strategy="channel", inputs=BY_TOKEN), {*W4A8_BACKENDS, "humming_w4a8"}),
    "INT4 by channel": (group(4, strategy="channel"), {"humming_w4a16_channel"}),
    "Kimi-K2.5-W4A8": (QUARK_W4A8, {*W4A8_BACKENDS, "aiter_main"}),
    "AWQ": ({"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}, set()),
    "AWQ in groups of 32": ({"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": False}, GROUPED),
    "GPTQ": ({"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True}, IN_128),
    "GPTQ in groups of 32": ({"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": True}, GROUPED),
    "GPTQ by activation order": ({"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": True, "desc_act": True}, set()),
    "GPTQ by channel": ({"quant_method": "gptq", "bits": 4, "group_size": -1}, {"humming_w4a16_channel"}),
    "GPTQ with zero points": ({"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": False}, set()),
    "GPTQ as one kernel wants it": ({"quant_method": "gptq", "bits": 4, "group_size": 128, "checkpoint_format": "marlin"}, set()),
    "GPTQ in other words": ({"quant_method": "gptq", "bits": 4, "group_size": 128, "pack_dtype": "int8"}, set()),
    "AWQ for another kernel": ({"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": False, "version": "gemv"}, set()),
    "INT4 in 2:4 sparse weights": ({**group(4, strategy="group", group_size=128), "format": "marlin-24"}, set()),
    "a format of tomorrow": ({**group(4, strategy="group", group_size=128), "format": "trellis-quantized"}, set()),
    "INT4 in groups that no strategy names": (group(4, group_size=128), IN_128),
    "INT4 x INT8 in groups": (group(4, strategy="group", group_size=128, inputs=BY_TOKEN), set()),
    "INT8 in groups": (group(8, strategy="group", group_size=128), set()),
    "FP8 of e5m2": ({"quant_method": "fp8", "fmt": "e5m2", "weight_block_size": [128, 128]}, set()),
    "FP8 of another bias": ({"quant_method": "fp8", "fmt": "float8_e4m3fnuz", "weight_block_size": [128, 128]}, set()),
    "Quark's FP8 by channel": (quark("per_channel"), {"sglang_fp8", "vllm_fp8"}),
    "Quark's FP8, activations by tensor": (quark("per_tensor"), set()),
    "Quark's FP8, activations with zero points": (quark("per_channel", symmetric=False), set()),
    "MXFP4": ({"quant_method": "mxfp4"}, set()),
    "NVFP4": ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, set()),
    "mxfp4-pack-quantized": ({"quant_method": "compressed-tensors", "format": "mxfp4-pack-quantized"}, set()),
    "experts_int8": ({"quant_method": "experts_int8"}, {"sglang_w8a16", "vllm_w8a16"}),
    "bitsandbytes": ({"quant_method": "bitsandbytes", "load_in_4bit": True}, set()),
    "a method of tomorrow": ({"quant_method": "int3_hadamard", "bits": 3}, set()),
    "no method at all": ({"bits": 4}, set()),
}  # fmt: skip


def checkpoint(folder: Path, **changes: Any) -> Layer:
    path = folder / "config.json"
    path.write_text(json.dumps({"model_type": "qwen3_moe", **PLAIN, **changes}))
    return Layer.of(from_hf_config(path), 4)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_checkpoint_is_for_the_backends_that_compute_it(name: str, tmp_path: Path) -> None:
    raw, takers = CHECKPOINTS[name]
    layer = checkpoint(tmp_path, quantization_config=raw)
    assert layer.needs is not None
    assert {b for b, computes in COMPUTES.items() if not list(refusals(computes, layer.needs))} == takers


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_refusal_names_what_the_backend_takes_and_who_takes_the_checkpoint(
    name: str, tmp_path: Path
) -> None:
    raw, takers = CHECKPOINTS[name]
    layer = checkpoint(tmp_path, quantization_config=raw)
    for backend in takers:
        require_computed(load_backend(backend), backend, layer)
    for backend in set(backend_names()) - takers:
        with pytest.raises(UserError, match="--requantised") as told:
            require_computed(load_backend(backend), backend, layer)
        assert f"the kernels take {COMPUTES[backend].words}" in str(told.value)
        assert all(taker in str(told.value) for taker in takers)


@pytest.mark.parametrize("backend", backend_names())
def test_who_quantises_himself_may_name_any_backend(backend: str, tmp_path: Path) -> None:
    require_computed(load_backend(backend), backend, checkpoint(tmp_path))
    raw, _ = CHECKPOINTS["Kimi-K2.5"]
    (tmp_path / "config.json").write_text(json.dumps({**PLAIN, "quantization_config": raw}))
    model = from_hf_config(tmp_path / "config.json").requantised()
    require_computed(load_backend(backend), backend, Layer.of(model, 4))


def test_nothing_is_requantised_that_is_not_quantised() -> None:
    with pytest.raises(UserError, match="leave out --requantised"):
        preset("qwen3-235b-a22b").requantised()


@pytest.mark.parametrize("ignore", ["re:.*mlp.experts.*", "model.layers.*.mlp.experts.*", "*experts*"])
def test_experts_that_the_quantisation_leaves_out_are_not_quantised(ignore: str, tmp_path: Path) -> None:
    raw, _ = CHECKPOINTS["Kimi-K2.5"]
    assert checkpoint(tmp_path, quantization_config={**raw, "ignore": [ignore]}).needs is None
    every = [f"model.layers.{layer}.mlp.experts" for layer in range(48)]
    assert checkpoint(tmp_path, quantization_config={**raw, "ignore": every}).needs is None
    assert (
        checkpoint(tmp_path, quantization_config={**raw, "ignore": every[:1] + every[3:4]}).needs is not None
    )
    rest = ["lm_head", "re:.*self_attn.*", "re:.*shared_experts.*"]
    assert checkpoint(tmp_path, quantization_config={**raw, "ignore": rest}).needs is not None


INT4 = {"weights": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32}}
FP8 = {
    "weights": {"num_bits": 8, "type": "float", "strategy": "channel"},
    "input_activations": {**BY_TOKEN, "type": "float"},
}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": True}
ROUND = {**GPTQ, "quant_method": "auto-round"}
QUARK_INT4 = {"weight": {"dtype": "int4", "qscheme": "per_group", "group_size": 32}}


def groups(**targets: dict[str, Any]) -> dict[str, Any]:
    """A compressed-tensors file with groups for some projections or layers."""
    places = {"halves": "re:.*experts.*(gate|up)_proj", "down": "re:.*experts.*down_proj"}
    places |= {"early": r"re:.*layers\.[0-9]\..*experts", "late": r"re:.*layers\.[1-9][0-9]\..*experts"}
    places |= {"attention": "re:.*self_attn.*", "experts": "re:.*mlp.experts.*"}
    return {
        "quant_method": "compressed-tensors",
        "config_groups": {name: {"targets": [places[name]], **held} for name, held in targets.items()},
    }


@pytest.mark.parametrize(("raw", "told"), [
    (groups(halves=FP8, down=INT4), "unlike (gate: fp8 weights, a scale per channel, times fp8; down: int4"),
    (groups(down=INT4), "unlike (gate: not quantised; down: int4"),
    (groups(early=FP8, late=INT4), "unlike (layer 3: fp8 weights, a scale per channel, times fp8; layer 11: int4"),
    ({**CHECKPOINTS["Kimi-K2.5"][0], "ignore": ["re:.*experts.*down_proj"]}, "down: not quantised"),
    ({**QUARK_W4A8, "layer_quant_config": {"*experts*down_proj": QUARK_INT4}}, "unlike (gate: int4"),
    ({**QUARK_W4A8, "layer_quant_config": {"*layers.3.*experts*": QUARK_INT4}}, "unlike (layer 3: int4"),
    ({**GPTQ, "dynamic": {r"+:.*experts.*": {"bits": 8}}}, "int8 weights, a scale per group of 32"),
    ({**GPTQ, "dynamic": {r"+:.*down_proj": {"bits": 8}}}, "unlike (gate: int4"),
    ({**ROUND, "extra_config": {".*experts.*": {"bits": 8}}}, "int8 weights, a scale per group of 32"),
    ({**ROUND, "data_type": "mx_fp", "act_bits": 4}, "auto-round mx_fp4a4 weights"),
    ({**ROUND, "act_bits": 8}, "auto-round int4a8 weights"),
    (group(4, strategy="group", group_size=32, actorder="group"), "int4 in another order of K"),
    ({**group(8, strategy="channel", inputs=BY_TOKEN), "sparsity_config": {"format": "sparse-24-bitmask"}}, "sparse-24"),
    ({**group(8, strategy="channel", inputs=BY_TOKEN), "transform_config": {"config_groups": {"R1": {}}}}, "transformed"),
    (group(8, strategy="channel", inputs={**BY_TOKEN, "symmetric": False}), "times int8 with zero points"),
])  # fmt: skip
def test_what_is_said_of_some_modules_counts_and_unlike_ones_are_taken_by_nobody(
    raw: dict[str, Any], told: str, tmp_path: Path
) -> None:
    layer = checkpoint(tmp_path, quantization_config=raw)
    for backend in backend_names():
        with pytest.raises(UserError) as error:
            require_computed(load_backend(backend), backend, layer)
        assert told in str(error.value)


@pytest.mark.parametrize("raw", [
    groups(attention=FP8, experts=INT4),
    # Layers that are not quantised are looked up under another name, and stand aside.
    groups(early=INT4),
    {**ROUND, "extra_config": {"lm_head": {"bits": 8}}},
    {**GPTQ, "dynamic": {r"-:.*self_attn.*": {}}},
    {**group(4, strategy="group", group_size=32, actorder="weight"), "sparsity_config": {"format": "dense"}},
])  # fmt: skip
def test_what_is_said_of_other_modules_changes_nothing(raw: dict[str, Any], tmp_path: Path) -> None:
    needs = checkpoint(tmp_path, quantization_config=raw).needs
    assert needs is not None
    assert needs.scheme == Scheme("int4", Scales.GROUP, (1, 32))


@pytest.mark.parametrize("raw", [
    {**GPTQ, "dynamic": {r"-:.*experts.*": {}}},
    {**GPTQ, "modules_in_block_to_quantize": [["self_attn.q_proj"]]},
    {**ROUND, "extra_config": {".*experts.*": {"bits": 16}}},
    groups(attention=FP8),
    {**CHECKPOINTS["DeepSeek-V3"][0], "modules_to_not_convert": ["mlp"]},
])  # fmt: skip
def test_experts_that_no_rule_quantises_are_not_quantised(raw: dict[str, Any], tmp_path: Path) -> None:
    assert checkpoint(tmp_path, quantization_config=raw).needs is None


def test_layers_are_looked_at_from_the_first_with_experts_to_the_last(tmp_path: Path) -> None:
    raw = CHECKPOINTS["DeepSeek-V3"][0]
    change = {"num_hidden_layers": 30, "first_k_dense_replace": 5}
    every = [f"model.layers.{layer}.mlp.experts" for layer in range(5, 30)]
    assert checkpoint(tmp_path, quantization_config={**raw, "ignored_layers": every}, **change).needs is None
    some = {**raw, "ignored_layers": every[:15]}
    assert checkpoint(tmp_path, quantization_config=some, **change).needs is not None


def test_modelopts_own_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "hf_quant_config.json").write_text(json.dumps({"quantization": {"quant_algo": "NVFP4"}}))
    needs = checkpoint(tmp_path).needs
    assert needs is not None
    assert needs.scheme == Scheme("nvfp4", Scales.GROUP, (1, 16))


@pytest.mark.parametrize("raw", [
    {"quant_method": "fp8", "weight_block_size": [128]},
    {"quant_method": "fp8", "weight_block_size": [128.0, 128]},
    {"quant_method": "awq", "bits": "four"},
    {"quant_method": "fp8", "weight_block_size": [0, 128]},
    {"quant_method": "fp8", "ignored_layers": 3},
    {"quant_method": "gptq", "dynamic": {"+:([": {}}},
    {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": None}}},
    {"quant_method": "compressed-tensors", "config_groups": {"group_0": 4}},
    {"quant_method": "compressed-tensors", "config_groups": [1]},
    {"quant_method": "quark", "global_quant_config": {"weight": {"qscheme": "per_channel"}}},
    {"quant_method": "quark"},
    {"quant_method": "fp8", "activation_scheme": "blockwise"},
    {"quant_method": "gptq", "bits": 4},
    {"quant_method": "gptq", "bits": 4, "group_size": 0},
    {"quant_method": "awq", "group_size": 128},
    {"quant_method": "fp8", "ignored_layers": [3]},
])  # fmt: skip
def test_a_broken_quantisation_is_one_sentence(raw: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config\.json: quantization_config cannot be read as"):
        checkpoint(tmp_path, quantization_config=raw)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=5,
)
KEYS = ("bits", "group_size", "config_groups", "format", "weight_block_size", "ignore", "global_quant_config")


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(["fp8", "compressed-tensors", "quark", "awq", "gptq", "modelopt", "mxfp4", "moe_wna16"]),
    st.dictionaries(st.sampled_from([*KEYS, "layer_quant_config", "quantization"]), json_values, max_size=4),
)
def test_whatever_stands_in_a_quantisation_is_a_scheme_or_one_sentence(
    method: str, rest: dict[str, Any]
) -> None:
    try:
        scheme = read_scheme({"quant_method": method, **rest}, Path("config.json"))
    except UserError as error:
        told = str(error)
    else:
        told = "config.json: quantization_config" if scheme is None or str(scheme) else ""
    assert "config.json: quantization_config" in told


@pytest.mark.parametrize(("change", "told"), [
    ({"hidden_act": "gelu"}, "hidden_act='gelu' (the kernels compute silu)"),
    ({"hidden_act": "silu", "activation_function": "gelu"}, "activation_function='gelu' (the kernels compute silu)"),
    ({"model_type": "nemotron_h", "hidden_act": "silu"}, "activation='relu2', its family's"),
    ({"hidden_act": "situ"}, "hidden_act='situ' (the kernels compute silu)"),
    ({"mlp_hidden_act": "relu2"}, "experts without a gate, mlp_hidden_act='relu2'"),
    ({"model_type": "nemotron_h"}, "activation='relu2', its family's"),
    ({"model_type": "gpt_oss", "hidden_act": "silu"}, "a bias in the experts, bias=True, its family's"),
    ({"swiglu_limit": 7.0}, "clamped activations, swiglu_limit=7.0 (the kernels do not clamp)"),
    ({"swiglu_limits": [0, 0, 7.0]}, "clamped activations, swiglu_limits=[0, 0, 7.0]"),
    ({"swiglu_alpha": 1.702}, "swiglu_alpha=1.702"),
    ({"mlp_bias": True}, "a bias in the experts, mlp_bias=true (the kernels add none)"),
    ({"moe_apply_router_weight_on_input": True}, "router weights on the input"),
    ({"model_type": "llama4_text", "hidden_act": "silu"}, "router weights on the input, weighted_input=True, its family's"),
    ({"model_type": "inkling2_text", "hidden_act": "silu"}, "activation='swiglu with softcaps', its family's"),
    ({"model_type": "smallthinker"}, "activation='relu', its family's"),
    ({"hidden_act": "silu", "mlp_gate_softcap": 4.0}, "mlp_gate_softcap=4.0 (the kernels compute silu)"),
    ({"moe_activation": "gelu"}, "moe_activation='gelu' (the kernels compute silu)"),
    ({"gated_linear_unit": False}, "experts without a gate, gated_linear_unit=false"),
    ({"mlp_bias": 1}, "a bias in the experts, mlp_bias=1"),
    ({"ffn_config": {"ffn_act_fn": {"name": "gelu"}}}, "ffn_act_fn='gelu' (the kernels compute silu)"),
    ({"swiglu_beta": [0, 1.5]}, "swiglu_beta=[0, 1.5] (the kernels compute silu)"),
    ({"moe_config": {"hidden_act": "gelu"}}, "hidden_act='gelu' (the kernels compute silu)"),
    ({"quantization": {"qformat_weight": "fp8_e4m3"}}, "unknown-quantised weights"),
])  # fmt: skip
def test_what_no_kernel_computes_is_refused_with_value_and_key(
    change: dict[str, Any], told: str, tmp_path: Path
) -> None:
    layer = checkpoint(tmp_path, **change)
    for backend in backend_names():
        with pytest.raises(UserError) as error:
            require_computed(load_backend(backend), backend, layer)
        assert told in str(error.value)
        assert layer.model in str(error.value)


@pytest.mark.parametrize(
    "change",
    [
        *({"hidden_act": "swish"}, {"swiglu_limit": None}, {"swiglu_limits": [0, None]}, {"mlp_bias": False}),
        *({"mlp_gate_softcap": None}, {"moe_router_logit_softcapping": 30.0}, {"moe_aux_loss_alpha": 0.1}),
        {"swiglu_limits_shared": [0, 16.0]},
    ],
)
def test_what_a_file_says_it_has_not_is_nothing_to_refuse(change: dict[str, Any], tmp_path: Path) -> None:
    assert checkpoint(tmp_path, **change).needs is None


@pytest.mark.parametrize(
    "command", ["run", "measure", "export", "compare", "confirm", "check", "isa", "spaces"]
)
def test_every_command_refuses_before_it_looks_for_a_gpu_or_results(command: str, tmp_path: Path) -> None:
    checkpoint(tmp_path, mlp_hidden_act="relu2")
    more = {"compare": ["default", "default"], "isa": ["--config", "tile_k=128"]}.get(command, [])
    arguments = [command, *more, "--model-config", str(tmp_path / "config.json"), "--tp", "4"]
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, UserError), result.output
    assert "mlp_hidden_act='relu2'" in str(result.exception)


def test_presets_have_what_their_checkpoints_have() -> None:
    for name, told in (("deepseek-v3", "weight_block_size=[128, 128]"), ("gpt-oss-120b", "clamped")):
        with pytest.raises(UserError) as error:
            require_computed(load_backend("sglang_fp8"), "sglang_fp8", Layer.of(preset(name), 8))
        assert told in str(error.value)
    for backend in backend_names():
        require_computed(load_backend(backend), backend, KIMI)


def test_needs_are_no_part_of_a_layers_name() -> None:
    bare = preset("deepseek-v3").requantised()
    served, own = Layer.of(bare, 8), Layer.of(preset("deepseek-v3"), 8)
    assert served == own
    assert served.key == own.key == "deepseek-v3/tp8/d7168.i256.e256.k8"
    assert "needs" not in own.dims


def test_a_backend_that_does_not_say_what_it_computes_has_plain_models_only() -> None:
    require_computed(object(), "mine", KIMI)
    with pytest.raises(UserError, match="does not say what it computes"):
        require_computed(object(), "mine", replace(KIMI, needs=Needs(activation="gelu")))


# Layout: the rules of the spaces are those of the functions that lay weights out on the card.


def laid_out(backend: str, n: int, k: int) -> str | None:
    """What the runtime of a backend raises for an expert of N by K; None: nothing."""
    packed = torch.zeros((1, n, k // 2), dtype=torch.int8)
    try:
        if backend in GROUPED:
            weight_scales(Format.GROUPED, torch.ones((1, n)), k)
        if backend in IN_64 | IN_128:
            weight_scales(
                Format.GROUPED_64 if backend in IN_64 else Format.GROUPED_128, torch.ones((1, n)), k
            )
        if backend in IN_BLOCKS:
            weight_scales(Format.FP8_BLOCKS, torch.ones((1, n)), k)
        if backend in ("flydsl", "aiter", "aiter_main_w4a16"):
            flydsl_weights(packed)
        if backend == "aiter_main":
            ck_weights(packed)
    except UserError as error:
        return str(error)
    return None


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40).map(lambda n: 8 * n), st.integers(1, 40).map(lambda k: 8 * k))
def test_a_layout_is_refused_offline_where_it_is_on_the_card_and_nowhere_else(model: int, inter: int) -> None:
    layer = Layer("any", model, inter, 4, 2, 1)
    for backend, computes in COMPUTES.items():
        if backend.startswith("humming"):  # tests/backends/humming asks humming itself
            continue
        live = [laid_out(backend, 2 * inter, model), laid_out(backend, model, inter)]
        first = next((reason for reason in live if reason is not None), None)
        if first is None:
            require_layout(backend, computes, layer)
        else:
            with pytest.raises(UserError) as told:
                require_layout(backend, computes, layer)
            assert first.partition(":")[0] in str(told.value)


@pytest.mark.parametrize("backend", sorted(GROUPED - {"aiter_main_w4a16"}))
@pytest.mark.parametrize("inter", [96, 176, 360])
def test_groups_that_do_not_divide_k_leave_no_space(backend: str, inter: int) -> None:
    layer = replace(KIMI, inter_dim=inter)
    with pytest.raises(
        UserError, match=f"K={inter} is not a whole number of pairs of groups of 32, choose another"
    ):
        load_backend(backend).space(layer, 4, Stage.STAGE1, DEVICES["h100"])


def test_blocks_that_do_not_divide_an_expert_are_refused_with_the_degrees_that_would_do() -> None:
    qwen = Layer.of(replace(preset("qwen3-235b-a22b"), needs=preset("deepseek-v3").needs), 8)  # 192 a GPU
    with pytest.raises(
        UserError, match=r"K=192 is not a whole number of blocks of 128.*\(1, 2, 3, 4, 6, 12 would do"
    ):
        require_computed(load_backend("sglang_fp8_block"), "sglang_fp8_block", qwen)


@pytest.mark.parametrize("backend", backend_names())
def test_expert_parallelism_is_taken_by_name_only(backend: str) -> None:
    spread = Layer.of(replace(preset("kimi-k2.5-w4a8"), needs=None), 8, 8)
    if backend.startswith(("sglang", "vllm", "triton")):
        require_computed(load_backend(backend), backend, spread)
        return
    with pytest.raises(UserError, match="--tp 8 --ep 8: it is not known to take them; use --backend sglang"):
        require_computed(load_backend(backend), backend, spread)


@pytest.mark.parametrize(("backend", "tp", "ep"), [("vllm", 8, 4), ("sglang", 1, 8)])
def test_degrees_that_an_engine_does_not_have_are_refused(backend: str, tp: int, ep: int) -> None:
    with pytest.raises(UserError, match=r"--ep is 8 or a multiple|counts all GPUs in its --tp-size"):
        require_computed(load_backend(backend), backend, Layer.of(preset("kimi-k2.5-w4a8"), tp, ep))


def test_the_shared_expert_is_counted_in_where_the_engine_does_it_by_itself() -> None:
    deepseek, kimi = preset("deepseek-v3"), preset("kimi-k2.5-w4a8")
    assert fuses_shared(load_backend("sglang_fp8_block"), deepseek)
    for backend, model in (
        ("vllm_fp8_block", deepseek),
        ("sglang_fp8", deepseek.requantised()),  # what it does then is not known
        ("sglang", kimi),
        ("triton", deepseek),
    ):
        assert not fuses_shared(load_backend(backend), model)


def test_the_degrees_that_would_do_are_named() -> None:
    glm = Layer("glm", 4096, 176, 128, 8, 8)
    with pytest.raises(UserError, match=r"another --tp \(1, 2, 11, 22 would do\)"):
        require_layout("sglang_w4a16", COMPUTES["sglang_w4a16"], glm)


def test_what_ships_must_be_legal_where_the_kernel_does_not_check() -> None:
    aiter = load_backend("aiter")
    for layer, rule in ((KIMI, None), (replace(KIMI, model_dim=2240), "tile-k-even")):
        for tokens in (4, 160):
            space = spaces()[Stage.STAGE1].at(layer, tokens, DEVICES["mi325x"])
            if rule is None:
                require_default(aiter, layer, space)
                continue
            with pytest.raises(UserError, match=f"breaks {rule} .*choose another --tp or --backend"):
                require_default(aiter, layer, space)


def test_a_checkpoints_numbers_pick_the_backend_where_none_is_named(tmp_path: Path) -> None:
    path = tmp_path / "config.json"  # the checkpoint's folder is enough
    path.write_text(json.dumps({"model_type": "qwen3_moe", **PLAIN}))
    assert pick_backend(from_hf_config(tmp_path), "triton", lambda name: True) == ("triton", [])

    def told(raw: dict[str, Any], *here: str) -> tuple[str, list[str]]:
        path.write_text(json.dumps({"model_type": "qwen3_moe", **PLAIN, "quantization_config": raw}))
        return pick_backend(from_hf_config(tmp_path), "triton", lambda name: name in here)

    name, (sentence,) = told(CHECKPOINTS["DeepSeek-V3"][0], "vllm_fp8_block")
    assert name == "vllm_fp8_block"
    assert "weight_block_size=[128, 128]" in sentence
    assert "sglang_fp8_block would serve them too" in sentence
    assert told(CHECKPOINTS["DeepSeek-V3"][0])[0] == "sglang_fp8_block", (
        "none is here: it says how to get one"
    )
    assert told(QUARK_W4A8, "aiter")[0] == "triton"
    with pytest.raises(UserError, match=r"no backend here takes.*mxfp4.*--requantised"):
        told({"quant_method": "mxfp4"})
