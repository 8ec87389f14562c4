"""What the engines' plugins share of a layer: its parameters and their end, its refusals, the log."""

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

from autotune.errors import UserError
from autotune.kernels.config import LayerDims
from autotune.serving.checkpoint import Loading, converted, parameters
from autotune.serving.experts import CONFIG_VARIABLE, chosen

_told: set[str] = set()


def is_int4_pair(weight: Any) -> bool:
    """Whether Quark's `weight` is [fp8 per tensor, int4 per channel]."""
    if not isinstance(weight, list) or len(weight) != 2:
        return False
    return [part.get("dtype") for part in weight] == ["fp8_e4m3", "int4"]


def common_scheme(config: Any, layer: Any, projections: Sequence[str]) -> Mapping[str, Any] | None:
    """The scheme that compressed-tensors gives all projections of a layer's experts.

    Args:
        config: the engine's `CompressedTensorsConfig`.
        projections: their full names.

    Returns:
        None: they have none, or not all the same.
    """
    config._add_fused_moe_to_target_scheme_map()
    scheme, *others = (config.get_scheme_dict(layer, name) for name in projections)
    return scheme if all(other == scheme for other in others) else None


def int8_for_fp8(asked: str) -> str:
    """What is said where INT8 activations stand in for a checkpoint's FP8 ones.

    Args:
        asked: what asks for it.
    """
    return (
        "autotune: the checkpoint declares FP8 activations; its experts run with INT8 ones per token, as"
        f" {asked} asks: scripts/compare_activations.py compares both"
    )


def register_parameters(layer: Any, loading: Loading, experts: int, extra: Mapping[str, Any]) -> None:
    """Gives a layer the tensors that its checkpoint is loaded into.

    Args:
        extra: attributes that the engine wants on each; among them `weight_loader`.
    """
    import torch

    for wanted in parameters(loading.layout, experts, loading.model_dim, loading.inter_dim):
        made = torch.nn.Parameter(
            torch.full(wanted.shape, wanted.fill, dtype=getattr(torch, wanted.dtype)), requires_grad=False
        )
        layer.register_parameter(wanted.name, made)
        loader = loading.checked(wanted.name, extra["weight_loader"])
        loader.supports_moe_loading = True  # type: ignore[attr-defined]
        for name, value in {**extra, "weight_loader": loader, "quant_method": wanted.kind or None}.items():
            setattr(made, name, value)


def finish(layer: Any, loading: Loading, top_k: int, log: logging.Logger) -> None:
    """Turns a loaded layer's tensors into the operator's, in place, takes the others off the layer, and
    chooses its configs.

    Args:
        log: the engine's, which is told of both.
    """
    import torch

    names = [name for name, _ in layer.named_parameters(recurse=False)]
    wanted = {name: getattr(layer, name).data for name in names if name.startswith(("w13_", "w2_"))}
    loading.require_all(wanted)
    layer.autotune_experts = experts = converted(loading.layout, wanted)
    for name in wanted:
        delattr(layer, name)
    kept = {
        "w13_weight": "w1",
        "w2_weight": "w2",
        "w13_weight_scale": "w1_scale",
        "w2_weight_scale": "w2_scale",
    }
    for name, part in kept.items():
        layer.register_parameter(name, torch.nn.Parameter(getattr(experts, part), requires_grad=False))
    dims = LayerDims(loading.model_dim, loading.inter_dim, experts.w1.shape[0], top_k)
    layer.autotune_choice = chosen(os.environ.get(CONFIG_VARIABLE), dims, log.name)
    say(
        log,
        f"autotune: routed experts run fused_moe_w4a8, first in {loading.layer}; layout"
        f" {loading.layout.name}",
    )


def refuse(prefix: str, refusals: Mapping[str, bool], instead: str) -> None:
    """Refuses a layer that the kernels do not compute.

    Args:
        refusals: whether each reason is there.

    Raises:
        UserError: one is.
    """
    for reason, refused in refusals.items():
        if refused:
            raise UserError(f"{prefix}: {reason}: {instead}")


def say(log: logging.Logger, sentence: str, level: int = logging.INFO) -> None:
    """Once a process: every layer comes here."""
    if sentence not in _told:
        _told.add(sentence)
        log.log(level, "%s", sentence)
