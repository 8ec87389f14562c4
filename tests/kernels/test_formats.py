"""The formats beside INT8 x INT4, and the gate in them: right numbers pass, every likely mistake does not."""

import pytest
import torch

from autotune.errors import UserError
from autotune.kernels.formats import BLOCK, GROUPS, PEAKS, Format, float8, quantise, ties, weight_scales
from autotune.kernels.layout import unpack_int4
from autotune.measure.gate import Case, Incorrect, make_cases
from autotune.measure.workload import make_activations, make_weights
from autotune.problem.layer import Layer
from autotune.protocol.runtime import Activations, Launch, Output, Path, What, format_of
from tests.gate import check_launch

LAYER = Layer("tiny", model_dim=256, inter_dim=128, experts=6, top_k=2, tp=1)
WEIGHTS = make_weights(LAYER, "cpu", seed=1)
OTHERS = [form for form in Format if form is not Format.INT8]


def case(form: Format) -> Case:
    return make_cases(LAYER, WEIGHTS, 4, None, 1, "cpu", 3, thorough=False, form=form)[0]


def down(inputs: Activations, made: Case, scales: torch.Tensor) -> torch.Tensor:
    """Stage 2 written as a loop over slots; bfloat16 [tokens, model_dim]."""
    out = torch.zeros(made.tokens, LAYER.model_dim)
    for token in range(made.tokens):
        for slot, expert in enumerate(made.step.ids[token].tolist()):
            weights, scale = unpack_int4(WEIGHTS.w2[expert]).float(), scales[expert].float()
            if scale.dim() == 2:
                weights = weights * scale.T.repeat_interleave(GROUPS.get(made.form, BLOCK), dim=1)
                scale = torch.ones(1)
            y = weights @ inputs.a2[token, slot].float() * inputs.a2_scale[token, slot] * scale
            out[token] += made.step.router[token, slot] * y
    return out.bfloat16()


def of_each(scale: torch.Tensor, k: int) -> torch.Tensor:
    """A row's scale, or those of its groups, for each of its `k` values; [rows, 1] or [rows, k]."""
    return scale[:, None] if scale.dim() == 1 else scale.repeat_interleave(k // scale.shape[1], dim=1)


def judged(form: Format, scales: torch.Tensor) -> float:
    made = case(form)
    output = Output.allocate((made.tokens, LAYER.model_dim), "cpu")

    def run() -> None:
        output.tensor.copy_(down(made.inputs, made, scales))

    return check_launch(Launch(run, output.tensor), made, What.STAGE2, Path())


def scales_of(form: Format) -> torch.Tensor:
    return weight_scales(form, WEIGHTS.w2_scale, LAYER.inter_dim)


@pytest.mark.parametrize("form", Format)
def test_the_gate_passes_right_numbers_in_every_format(form: Format) -> None:
    assert judged(form, scales_of(form)) < 0.003


@pytest.mark.parametrize("form", OTHERS)
def test_a_neighbours_scale_is_found_out(form: Format) -> None:
    with pytest.raises(Incorrect):
        judged(form, scales_of(form).roll(1, dims=-1))


def test_a_neighbouring_groups_scale_is_found_out() -> None:
    with pytest.raises(Incorrect):
        judged(Format.GROUPED, scales_of(Format.GROUPED).roll(1, dims=1))


@pytest.mark.parametrize("form", [Format.GROUPED, Format.GROUPED_128, Format.BF16, Format.INT8_BF16_SCALES])
def test_a_weight_times_its_scale_is_an_exact_bfloat16(form: Format) -> None:
    scales = scales_of(form)
    products = torch.arange(-8, 8).view(-1, *[1] * scales.dim()) * scales.float()
    assert torch.equal(products.bfloat16().float(), products)


@pytest.mark.parametrize("form", OTHERS)
def test_activations_come_in_the_formats_dtype(form: Format) -> None:
    inputs = make_activations(LAYER, 3, "cpu", 1, form)
    expected = float8(form) if form in PEAKS else torch.bfloat16
    if form is Format.INT8_BF16_SCALES:
        expected = torch.int8
    assert inputs.a1.dtype == inputs.a2.dtype == expected
    restored = inputs.a1.float() * of_each(inputs.a1_scale, LAYER.model_dim)
    assert torch.allclose(restored, inputs.hidden.float(), rtol=1 / 16, atol=0.02)


@pytest.mark.parametrize("form", PEAKS)
def test_no_fp8_value_hangs_on_the_last_bit_of_a_division(form: Format) -> None:
    x, most = make_activations(LAYER, 8, "cpu", 1, form).hidden, PEAKS[form]
    q, scale = quantise(form, x)
    assert float(q.float().abs().max()) == most
    for factor in (1 - 2.0**-12, 1 + 2.0**-12):
        moved = (x.float() / of_each(scale, x.shape[1]) * factor).clamp(-most, most).to(float8(form))
        assert torch.equal(moved.float(), q.float())
    assert not bool(ties(Format.GROUPED, x).any())


def test_k_that_is_no_pair_of_groups_is_refused() -> None:
    with pytest.raises(UserError, match="choose another --tp"):
        weight_scales(Format.GROUPED, torch.ones(1, 8), 96)


def test_a_runtime_that_says_nothing_is_int8() -> None:
    assert format_of(object()) is Format.INT8
