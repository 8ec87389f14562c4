"""Parts of the engines' plugins that are alike: a layer's parameters and their end, refusals, the log."""

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

from autotune.errors import UserError
from autotune.kernels.config import LayerDims
from autotune.serving.checkpoint import Loading, converted, parameters
from autotune.serving.experts import CONFIG_VARIABLE, chosen

_told: set[str] = set()


def mapping(value: Any) -> Mapping[str, Any]:
    """A part of a checkpoint's config, where it is a mapping; else an empty one: plugins see every config."""
    return value if isinstance(value, Mapping) else {}


def quark_weights(config: Mapping[str, Any]) -> list[Any]:
    """The `weight` of each of the specs of Quark's `quantization_config`."""
    specs = [config.get("global_quant_config"), *mapping(config.get("layer_quant_config")).values()]
    return [mapping(spec).get("weight") for spec in specs]


def is_int4_pair(weight: Any) -> bool:
    """Whether Quark's `weight` is FP8 on top of INT4."""
    if not isinstance(weight, list) or not all(isinstance(part, Mapping) for part in weight):
        return False
    return [part.get("dtype") for part in weight] == ["fp8_e4m3", "int4"]


def pair_refusals(spec: Mapping[str, Any]) -> dict[str, bool]:
    """What experts of such a pair may have that the kernels do not compute, for `refuse`.

    Args:
        spec: Quark's, of the layer; `is_int4_pair` of its `weight`.
    """
    whole, fine = spec["weight"]
    inputs = spec.get("input_tensors")
    if isinstance(inputs, list) and len(inputs) == 1:
        (inputs,) = inputs
    dtype = inputs.get("dtype") if isinstance(inputs, Mapping) else None
    channels = fine.get("qscheme") == "per_channel" and fine.get("ch_axis") == 0
    return {
        f"its FP8 has a scale {whole.get('qscheme')}, not per_tensor": whole.get("qscheme") != "per_tensor",
        f"its INT4 has a scale {fine.get('qscheme')}, ch_axis {fine.get('ch_axis')}, and the kernels take one"
        " per_channel, ch_axis 0": not channels,
        "its INT4 is not symmetric, so it has zero points": fine.get("symmetric") is not True,
        "its weights are quantised as they are used": any(part.get("is_dynamic") for part in (whole, fine)),
        f"its activations are {dtype}, not fp8_e4m3": dtype != "fp8_e4m3",
        "its outputs or biases are quantised": bool(spec.get("output_tensors") or spec.get("bias")),
    }


def compressed_refusals(config: Any) -> dict[str, bool]:
    """The same of compressed-tensors, whose engine's config this is."""
    raw = mapping(getattr(config, "config", None))
    sparse = getattr(config, "sparsity_scheme_map", None) or {}
    return {
        "its activations are rotated (transform_config)": bool(
            getattr(config, "transform_config", None) or raw.get("transform_config")
        ),
        "its weights are stored sparse (sparsity_config)": any(
            getattr(scheme, "format", None) != "dense" for scheme in dict(sparse).values()
        ),
    }


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
        parameter = torch.nn.Parameter(
            torch.full(wanted.shape, wanted.fill, dtype=getattr(torch, wanted.dtype)), requires_grad=False
        )
        layer.register_parameter(wanted.name, parameter)
        loader = loading.checked(wanted.name, extra["weight_loader"])
        loader.supports_moe_loading = True  # type: ignore[attr-defined]
        for name, value in {**extra, "weight_loader": loader, "quant_method": wanted.kind or None}.items():
            setattr(parameter, name, value)


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
        parameter = torch.nn.Parameter(getattr(experts, part), requires_grad=False)
        parameter.weight_loader = loading.refuse_again  # type: ignore[attr-defined]
        layer.register_parameter(name, parameter)
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
