"""Every layout gives the operator's tensors, and what is not of a layout is refused by name."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from autotune.errors import UserError
from autotune.serving.checkpoint import Experts, Loading, compressed, converted, parameters, quark
from tests.serving.checkpoints import LAYOUTS, Small, small


def load(
    name: str, experts: Small, tensors: dict[tuple[int, str], dict[str, torch.Tensor]]
) -> tuple[Loading, dict[str, torch.Tensor]]:
    """Loads a checkpoint's tensors as an engine does, without tensor parallelism."""
    layout = LAYOUTS[name]
    loading = Loading(layout, "layers.3", experts.model_dim, experts.inter_dim, tp=1)
    places = {
        wanted.name: torch.full(wanted.shape, wanted.fill, dtype=getattr(torch, wanted.dtype))
        for wanted in parameters(layout, experts.experts, experts.model_dim, experts.inter_dim)
    }

    def copy(param: Any, loaded: torch.Tensor, *, weight_name: str, shard_id: str, expert_id: int) -> None:
        place = param[expert_id]
        if weight_name == "w13_weight_scale" and place.shape == (2,):
            place[int(shard_id == "w3")] = loaded.reshape(())
        elif weight_name.startswith("w2") or weight_name.endswith("shape"):
            place.copy_(loaded.reshape(place.shape))
        else:
            place.chunk(2)[int(shard_id == "w3")].copy_(loaded)

    for (expert, shard), named in tensors.items():
        for suffix, tensor in named.items():
            target = f"{'w2' if shard == 'w2' else 'w13'}_{suffix}"
            loader = loading.checked(target, copy)
            loader(places[target], tensor, weight_name=target, shard_id=shard, expert_id=expert)
    return loading, places


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_checkpoint_s_tensors_become_the_operator_s(name: str) -> None:
    experts = small()
    loading, places = load(name, experts, experts.tensors(name))
    loading.require_all(places)
    got = converted(LAYOUTS[name], places)
    w1, w2, w1_scale, w2_scale = experts.operator()
    assert torch.equal(got.w1, w1)
    assert torch.equal(got.w2, w2)
    torch.testing.assert_close(got.w1_scale, w1_scale, rtol=1e-6, atol=0)
    torch.testing.assert_close(got.w2_scale, w2_scale, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_operator_s_weights_lie_where_the_checkpoint_s_were(name: str) -> None:
    experts = small()
    _, places = load(name, experts, experts.tensors(name))
    weights = places[f"w13_{LAYOUTS[name].weight}"]
    got: Experts = converted(LAYOUTS[name], places)
    assert got.w1.data_ptr() == weights.data_ptr()
    assert got.w1.numel() * 2 == experts.experts * 2 * experts.inter_dim * experts.model_dim


def finished(name: str, experts: Small, tensors: dict[tuple[int, str], dict[str, torch.Tensor]]) -> None:
    loading, places = load(name, experts, tensors)
    loading.require_all(places)


Change = Callable[[dict[tuple[int, str], dict[str, torch.Tensor]]], object]


def widened(suffix: str) -> Change:
    """A group's scales in place of a channel's, or words of another width."""
    return lambda tensors: tensors[2, "w1"].update(
        {suffix: tensors[2, "w1"][suffix].reshape(64, -1).repeat(1, 4)}
    )


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("quark order", widened("weight"), r"expert 2, w1: weight is int32 \[64, 64\].*int32 or uint32"),
        ("pack-quantized", widened("weight_scale"), r"weight_scale is bfloat16 \[64, 4\]"),
        (
            "int-quantized",
            lambda tensors: tensors[1, "w2"].update(weight=tensors[1, "w2"]["weight"].int()),
            r"expert 1, w2: weight is int32 \[128, 64\], and compressed-tensors' int-quantized .* has int8",
        ),
        (
            "int-quantized",
            lambda tensors: tensors[1, "w2"]["weight"].fill_(9),
            r"expert 1, w2: weight has values out of -8..7",
        ),
        (
            "pack-quantized",
            lambda tensors: tensors[0, "w3"].update(weight_shape=torch.tensor([64, 256])),
            r"weight_shape is \[64, 256\], and the layer's weights are 64 x 128",
        ),
        (
            "quark order",
            lambda tensors: tensors[0, "w3"].update(weight_scale=torch.ones(64)),
            r"weight_scale is float32 \[64\]",
        ),
        (
            "quark reorder",
            lambda tensors: tensors[5, "w2"].pop("weight_scale_2"),
            "w2_weight_scale_2 is not in the",
        ),
        ("pack-quantized", lambda tensors: tensors[5, "w1"].pop("weight_packed"), "loaded 11 times for 6"),
        ("int-quantized", lambda tensors: tensors[0, "w1"]["weight_scale"].fill_(torch.inf), "not finite"),
    ],
)
def test_what_is_not_of_the_layout_is_refused_by_name(name: str, change: Change, told: str) -> None:
    experts = small()
    tensors = experts.tensors(name)
    change(tensors)
    with pytest.raises(UserError, match=told):
        finished(name, experts, tensors)


def test_layouts_that_nobody_knows_are_refused_by_name() -> None:
    with pytest.raises(UserError, match="pack_method is 'interleaved'"):
        quark("interleaved")
    with pytest.raises(UserError, match="format is 'marlin-24'"):
        compressed("marlin-24")
    with pytest.raises(UserError, match="on a rank is 60, no multiple of 8"):
        list(parameters(quark("order"), 4, 128, 60))


def test_weights_that_were_converted_are_not_converted_again() -> None:
    """They look the same, and would become other numbers."""
    experts = small()
    loading, places = load("quark order", experts, experts.tensors("quark order"))
    loading.require_all(places)
    with pytest.raises(UserError, match="converted already"):
        loading.require_all(places)
