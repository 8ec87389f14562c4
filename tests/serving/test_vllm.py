"""The vLLM plugin: what it claims, and a layer of a small checkpoint through vLLM's own classes."""

import contextlib
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from autotune.errors import UserError
from autotune.serving import layers, versions
from autotune.serving import vllm as plugin
from tests.damaged import damaged
from tests.serving.layer_cases import compressed, quark
from tests.verify.engines import subset

ANSWERED = dict[str, Any]
BOUND = 1.5e-2
"""Of the layer against float32: quantisation of the sum between the stages, and of ranks' parts of it."""
REFUSED = [
    ("packing", "pack_method is 'interleaved'"),
    ("activation", "its activation is gelu, and the kernels have SiLU"),
    ("no scales", "w13_weight_scale is not in the checkpoint for every expert"),
    ("twice", "its weights were converted already and cannot be loaded anew"),
    ("anew", "its weights were converted already and cannot be loaded anew"),
    ("zero points", "its INT4 is not symmetric, so it has zero points"),
    ("pair in groups", "its INT4 has a scale per_group"),
    ("FP8 by channel", "its FP8 has a scale per_channel, not per_tensor"),
    ("rotated", "its activations are rotated (transform_config)"),
]
"""What neither engine can be given, and why."""


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> ANSWERED:
    return driven("vllm", tmp_path_factory.mktemp("vllm"))


def driven(engine: str, folder: Path) -> ANSWERED:
    """What `layer_cases` finds out, by Triton's interpreter."""
    from importlib import import_module

    root = subset(engine, folder, import_module(f"bench.plugin_{engine}").FILES)
    repository = Path(__file__).parents[2]
    path = os.pathsep.join([str(repository / "scripts"), str(repository)])
    done = subprocess.run(
        [sys.executable, "-m", "tests.serving.layer_cases", engine, str(root)],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found: ANSWERED = json.loads(done.stdout)
    return found


@pytest.mark.slow
def test_every_layout_and_every_split_gives_the_layer_of_the_float32_reference(answered: ANSWERED) -> None:
    assert len(answered["errors"]) == 12
    assert {case: error for case, error in answered["errors"].items() if not error < BOUND} == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "told"),
    [
        ("not asked", "W4A8 FP8 MoE requires ROCm AITER"),  # vLLM's own method for it
        ("groups", "have a scale per group"),
        *REFUSED,
    ],
)
def test_what_cannot_be_served_is_refused_by_name(answered: ANSWERED, case: str, told: str) -> None:
    assert told in answered["refused"][case]


@pytest.mark.slow
def test_no_tokens_odd_dimensions_and_uneven_shares_of_the_experts_are_computed(answered: ANSWERED) -> None:
    assert answered["empty"] == [0, 128]
    assert {case: error for case, error in answered["edges"].items() if not error < BOUND} == {}


@pytest.mark.slow
def test_a_model_of_which_no_layer_is_ours_does_not_start(answered: ANSWERED) -> None:
    assert "no layer of the model took our kernels" in answered["unasked"]
    assert answered["asked"] == answered["others"] == "ModuleList"


@pytest.mark.slow
def test_layers_that_the_checkpoint_leaves_out_keep_vllm_s_own_method(answered: ANSWERED) -> None:
    assert answered["left alone"] == "_Unquantized"


@pytest.mark.slow
def test_the_log_says_once_what_runs(answered: ANSWERED) -> None:
    for told in (
        "the checkpoint declares FP8 activations; its experts run with INT8 ones",
        "6 experts of 128 x 64, top-2 run the default configs: AUTOTUNE_MOE_CONFIG names no bundle",
        "run fused_moe_w4a8, first in model.layers.3.mlp.experts; layout Quark's, pack_method order",
    ):
        assert sum(told in line for line in answered["log"]) == 1


GPTQ = {"quant_method": "gptq", "bits": 4}


@pytest.mark.parametrize(
    ("checkpoint", "user", "asked", "claimed"),
    [
        (compressed("pack-quantized"), None, False, True),  # vLLM has nothing for it on a GPU
        (compressed("pack-quantized"), plugin.NAME, False, True),
        (compressed("pack-quantized"), "humming", False, False),
        (compressed("pack-quantized", "group", 128), None, False, False),
        (quark("order"), None, False, False),  # INT8 in place of FP8 is the user's choice
        (quark("order"), None, True, True),
        (quark("order"), plugin.NAME, False, True),
        (quark("order"), "quark", True, False),
        (GPTQ, None, True, False),
    ],
)
def test_which_checkpoints_are_claimed(
    monkeypatch: pytest.MonkeyPatch, checkpoint: dict[str, Any], user: str | None, asked: bool, claimed: bool
) -> None:
    monkeypatch.setenv("AUTOTUNE_W4A8_INT8_FOR_FP8", "1" if asked else "0")
    assert plugin.claims(checkpoint, user) is claimed


@pytest.mark.parametrize(
    ("checkpoint", "told"),
    [(GPTQ, r"quant_method 'gptq'"), (compressed("pack-quantized", "group", 32), "a scale per group")],
)
def test_asked_for_a_checkpoint_that_it_cannot_read_it_says_so(checkpoint: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        plugin.claims(checkpoint, plugin.NAME)


def test_whatever_a_checkpoint_s_config_has_in_a_place_no_start_ends_in_the_claim(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """vLLM asks for every checkpoint, whosever it is."""
    monkeypatch.setenv("AUTOTUNE_W4A8_INT8_FOR_FP8", "1")

    for whole in (quark("order"), compressed("pack-quantized")):
        for junk in (None, 1, "x", [], {}, [{}], [1, 2], {"a": None}):
            for content in damaged(whole, junk):
                if isinstance(content, dict):
                    assert plugin.claims(content, None) in (True, False)
                    with contextlib.suppress(UserError):
                        plugin.claims(content, plugin.NAME)


class Base:
    """In place of vLLM's `QuantizationConfig`."""


def engine(monkeypatch: pytest.MonkeyPatch, version: str, **quantization: Any) -> None:
    """A vLLM with these attributes of its package of quantisations."""
    monkeypatch.setattr(plugin.humming_plugin, "register", lambda: None)
    for name, values in {
        "vllm": {"__version__": version},
        "vllm.model_executor": {},
        "vllm.model_executor.layers": {},
        plugin._QUANTIZATION: quantization,
        f"{plugin._QUANTIZATION}.base_config": {"QuantizationConfig": Base},
    }.items():
        module = ModuleType(name)
        module.__dict__.update(values)
        monkeypatch.setitem(sys.modules, name, module)
    plugin.config_class.cache_clear()
    layers._told.clear()


def test_it_registers_once_and_warns_of_a_version_that_was_not_tested(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    methods: list[str] = ["fp8"]

    def register(name: str) -> Any:
        methods.append(name)
        return lambda made: made

    engine(monkeypatch, "0.34.1", QUANTIZATION_METHODS=methods, register_quantization_config=register)
    plugin.register()
    plugin.register()
    assert methods == ["fp8", "autotune_w4a8"]
    warnings = [line.getMessage() for line in caplog.records if line.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert f"tested with vllm {versions.tested('vllm')}, and 0.34.1 is here" in warnings[0]


def test_another_vllm_starts_as_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine(monkeypatch, "0.99.0")
    plugin.register()
    assert f"serve with vLLM {versions.tested('vllm')}" in caplog.text


def test_what_a_layer_cannot_be_is_refused() -> None:
    parallel = SimpleNamespace(use_all2all_kernels=True, enable_eplb=False)
    moe = SimpleNamespace(
        activation=SimpleNamespace(value="silu"),
        moe_parallel_config=parallel,
        has_bias=False,
        swiglu_limit=None,
        is_lora_enabled=False,
        hidden_dim=128,
        hidden_dim_unpadded=None,
    )
    with pytest.raises(UserError, match=r"layers\.1: it is spread by all-to-all"):
        plugin._require_served(moe, "layers.1")
    parallel.use_all2all_kernels, parallel.enable_eplb = False, True
    with pytest.raises(UserError, match="EPLB"):
        plugin._require_served(moe, "layers.1")
    parallel.enable_eplb, moe.swiglu_limit = False, 7.0
    with pytest.raises(UserError, match="SwiGLU is clamped"):
        plugin._require_served(moe, "layers.1")
