"""The SGLang plugin: a layer of a small checkpoint through SGLang's own hooks, configs and layer."""

import logging
import sys

import pytest

from autotune.serving import sglang as plugin
from tests.serving.test_vllm import ANSWERED, BOUND, REFUSED, driven


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> ANSWERED:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOTUNE_W4A8_INT8_FOR_FP8", "1")
        return driven("sglang", tmp_path_factory.mktemp("sglang"))


@pytest.mark.slow
def test_every_layout_and_every_split_gives_the_layer_of_the_float32_reference(answered: ANSWERED) -> None:
    assert len(answered["errors"]) == 12
    assert {case: error for case, error in answered["errors"].items() if not error < BOUND} == {}


@pytest.mark.slow
def test_the_model_s_routed_scaling_factor_is_in_the_sum(answered: ANSWERED) -> None:
    assert answered["scaled"] < BOUND


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "told"),
    [
        (
            "not asked",
            "the checkpoint declares FP8 activations, which SGLang does not serve with INT4 weights",
        ),
        *REFUSED,
    ],
)
def test_what_cannot_be_served_is_refused_by_name(answered: ANSWERED, case: str, told: str) -> None:
    assert told in answered["refused"][case]


@pytest.mark.slow
def test_tokens_that_the_router_masks_as_padding_come_out_as_zeros(answered: ANSWERED) -> None:
    assert answered["padded"] == []


@pytest.mark.slow
def test_a_model_that_torch_compiles_runs_the_layer_as_it_is(answered: ANSWERED) -> None:
    assert answered["compiled"] == ""


@pytest.mark.slow
def test_no_tokens_and_odd_dimensions_are_computed_and_ranks_that_cannot_share_are_sglang_s_to_refuse(
    answered: ANSWERED,
) -> None:
    assert answered["empty"] == [0, 128]
    assert answered["edges"]["no multiple of a tile"] < BOUND
    assert answered["edges"]["experts that ranks cannot share evenly"] == "AssertionError"


@pytest.mark.slow
def test_what_is_not_ours_goes_to_sglang(answered: ANSWERED) -> None:
    assert answered["refused"]["groups"] == ""  # SGLang's own scheme, here a stand-in
    assert answered["left alone"] == "NoneType"  # SGLang's answer for experts that are not quantised


@pytest.mark.slow
def test_hooks_that_did_not_fire_end_the_start(answered: ANSWERED) -> None:
    assert "SGLang's hooks did not fire" in answered["unasked"]
    assert answered["asked"] == answered["others"] == "a model"


@pytest.mark.slow
def test_the_log_says_once_what_runs(answered: ANSWERED) -> None:
    for told in (
        "Applied 1 hook(s) to sglang.srt.layers.quantization.quark.quark.QuarkConfig.get_quant_method",
        "as AUTOTUNE_W4A8_INT8_FOR_FP8=1 asks",
        "first in model.layers.3.mlp.experts; layout compressed-tensors' pack-quantized",
    ):
        assert sum(told in line for line in answered["log"]) == 1


def test_another_sglang_starts_as_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "sglang", None)
    plugin.register()
    assert [line.levelno for line in caplog.records] == [logging.WARNING]
    assert "this SGLang has no hooks" in caplog.text
