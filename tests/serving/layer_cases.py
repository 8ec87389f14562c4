"""Drives a layer of a small checkpoint through an engine's own classes; prints what came of it as JSON.

`python -m tests.serving.layer_cases ENGINE ROOT` with TRITON_INTERPRET=1: a process of its own, since it puts
an engine and its stand-ins into `sys.modules`.
"""

import json
import logging
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from autotune.kernels.reference import layer_reference
from tests.serving.checkpoints import SHARDS, Small, small

FP8 = {"dtype": "fp8_e4m3", "qscheme": "per_tensor", "is_dynamic": False}
INT4 = {"dtype": "int4", "qscheme": "per_channel", "symmetric": True, "ch_axis": 0, "is_dynamic": False}


def quark(pack_method: str, exclude: tuple[str, ...] = ("lm_head",)) -> dict[str, Any]:
    """As amd/Kimi-K2.5-W4A8's `quantization_config`."""
    return {
        "quant_method": "quark",
        "export": {"pack_method": pack_method, "kv_cache_group": []},
        "exclude": list(exclude),
        "global_quant_config": {
            "weight": [FP8, INT4],
            "input_tensors": {**FP8, "is_dynamic": True},
            "output_tensors": None,
            "bias": None,
        },
        "layer_quant_config": {},
        "layer_type_quant_config": {},
    }


def compressed(form: str, strategy: str = "channel", group_size: int | None = None) -> dict[str, Any]:
    weights = {"num_bits": 4, "type": "int", "strategy": strategy, "symmetric": True, "dynamic": False}
    inputs = {"num_bits": 8, "type": "int", "strategy": "token", "symmetric": True, "dynamic": True}
    group = {
        "targets": ["Linear"],
        "weights": {**weights, "group_size": group_size},
        "input_activations": inputs,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
    }


ROTATED = {"type": "hadamard", "apply": [{"targets": ["re:.*down_proj$"], "location": "input"}]}
CONFIGS = {
    "quark order": quark("order"),
    "quark reorder": quark("reorder"),
    "pack-quantized": compressed("pack-quantized"),
    "int-quantized": compressed("int-quantized"),
}
TOKENS, TOP_K = 5, 2


def main(engine: str, root: Path) -> None:
    heard: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: heard.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(logging.INFO)
    harness = import_module(f"bench.plugin_{engine}")
    harness.install(root)
    import_module(f"autotune.serving.{engine}").register()
    harness.config(CONFIGS["quark order"], harness.USER)
    unasked = _refusal(harness, lambda harness: harness.load_model(harness.USER))
    answer = {
        "unasked": unasked,
        "others": harness.load_model("fp8"),
        "errors": {
            f"{name}, {ranks} ranks{' of experts' if ep else ''}": _error(harness, name, ranks, ep=ep)
            for name in CONFIGS
            for ranks, ep in ((1, False), (2, False), (2, True))
        },
        "edges": {name: _error(harness, "pack-quantized", **case) for name, case in EDGES.items()},
        "padded": _padded(harness) if engine == "sglang" else [],
        "compiled": _compiled(harness) if engine == "sglang" else "",
        "empty": _empty(harness),
        "scaled": _error(harness, "quark order", 1, ep=False, factor=2.5) if engine == "sglang" else 0.0,
        "refused": {name: _refusal(harness, wrong) for name, wrong in WRONG.items()},
        "asked": harness.load_model(harness.USER),
        "left alone": _left_alone(harness),
        "stand-ins": harness.stand_ins(),
    }
    print(json.dumps({**answer, "log": heard}))


EDGES: dict[str, dict[str, Any]] = {
    "no multiple of a tile": {"ranks": 1, "ep": False, "inter_dim": 40, "model_dim": 136},
    "experts that ranks cannot share evenly": {"ranks": 2, "ep": True, "experts": 7},
}


def _layer(harness: Any, quantisation: dict[str, Any], **more: Any) -> Any:
    _, config = harness.config(quantisation, harness.USER)
    shape = {"experts": 6, "model_dim": 128, "inter_dim": 64, "top_k": TOP_K, "tp": 1, "rank": 0, "ep": False}
    return harness.layer(config, **{**shape, **more})


def _error(
    harness: Any, name: str, ranks: int, *, ep: bool, factor: float | None = None, **dims: int
) -> float | str:
    """Relative, of the sum over ranks; or why there is none.

    Args:
        factor: the model's routed scaling factor, which SGLang leaves to the layer.
        dims: those of the layer that are others.
    """
    experts = small(**dims)
    x, weights, ids = _step(experts)
    total = torch.zeros(TOKENS, experts.model_dim)
    for rank in range(ranks):
        scaled = {} if factor is None else {"routed_scaling_factor": factor}
        try:
            layer = _loaded(harness, name, experts, tp=ranks, rank=rank, ep=ep, **scaled)
        except (AssertionError, ValueError) as error:
            return type(error).__name__
        total += harness.runner(layer)(x, weights, ids).float()
    w1, w2, w1_scale, w2_scale = experts.operator()
    reference = (factor or 1.0) * layer_reference(x, w1, w2, w1_scale, w2_scale, weights, ids)
    return float((total - reference).norm() / reference.norm())


def _step(experts: Small, tokens: int = TOKENS) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Activations, router weights and expert ids."""
    generator, count = torch.Generator().manual_seed(1), experts.experts
    x = torch.randn(tokens, experts.model_dim, generator=generator).bfloat16()
    ids = torch.stack([torch.randperm(count, generator=generator)[:TOP_K] for _ in range(tokens)]).int()
    return x, torch.softmax(torch.randn(tokens, TOP_K, generator=generator), -1), ids


def _loaded(harness: Any, name: str, experts: Small, **more: Any) -> Any:
    """A layer with a checkpoint of a layout."""
    dims = {part: getattr(experts, part) for part in ("experts", "model_dim", "inter_dim")}
    layer = _layer(harness, CONFIGS[name], **{**dims, **more})
    _load(harness, layer, name, experts)
    harness.process(layer)
    return layer


def _load(harness: Any, layer: Any, name: str, experts: Small) -> None:
    harness.load(
        layer,
        (
            (f"{expert}.{SHARDS[shard]}.{suffix}", tensor)
            for (expert, shard), named in experts.tensors(name).items()
            for suffix, tensor in named.items()
        ),
    )


def _padded(harness: Any) -> list[str]:
    """What a router that masks padded tokens changes: of the last tokens, and of the others."""
    experts = small()
    run = harness.runner(_loaded(harness, "quark order", experts))
    x, weights, ids = _step(experts, tokens=20)
    whole = run(x, weights, ids)
    masked = ids.clone()
    masked[-2:] = -1
    own = torch.empty_like
    torch.empty_like = lambda like: torch.full_like(like, torch.nan)  # what memory may hold
    try:
        padded = run(x, weights, masked)
    finally:
        torch.empty_like = own
    told = [] if torch.equal(padded[:-2], whole[:-2]) else ["the others differ"]
    return told if not padded[-2:].any() else [*told, "padded tokens are not zero"]


def _compiled(harness: Any) -> str:
    """How a step that torch compiles differs; "": not at all."""
    experts = small()
    run = harness.runner(_loaded(harness, "quark order", experts))
    step = _step(experts)
    compiled = torch.compile(lambda *tensors: run(*tensors) * 2, backend="eager")
    try:
        return "" if torch.equal(compiled(*step), run(*step) * 2) else "other numbers"
    except Exception as error:  # noqa: BLE001 whatever it is, the test reads it
        return f"{type(error).__name__}: {error}"


def _empty(harness: Any) -> list[int]:
    """The shape of what comes of no tokens at all."""
    experts = small()
    x, weights, ids = _step(experts)
    return list(harness.runner(_loaded(harness, "quark order", experts))(x[:0], weights[:0], ids[:0]).shape)


def _twice(harness: Any) -> None:
    harness.process(_loaded(harness, "quark order", small()))


def _anew(harness: Any) -> None:
    _load(harness, _loaded(harness, "quark order", small()), "quark order", small())


def _pair(part: int, **changes: Any) -> Any:
    """Makes a layer whose pair of FP8 and INT4 is another."""
    weights = [FP8, INT4]
    weights[part] = {**weights[part], **changes}
    whole = quark("order")
    spec = {**whole["global_quant_config"], "weight": weights}
    return lambda harness: _layer(harness, {**whole, "global_quant_config": spec})


def _without_scales(harness: Any) -> None:
    layer = _layer(harness, CONFIGS["pack-quantized"])
    named = small().tensors("pack-quantized")
    harness.load(
        layer,
        (
            (f"{expert}.{SHARDS[shard]}.weight_packed", tensors["weight_packed"])
            for (expert, shard), tensors in named.items()
        ),
    )
    harness.process(layer)


def _not_asked(harness: Any) -> None:
    asked = os.environ.pop("AUTOTUNE_W4A8_INT8_FOR_FP8", None)
    try:
        harness.layer(
            harness.config(CONFIGS["quark order"], None)[1], experts=6, model_dim=128, inter_dim=64, top_k=2
        )
    finally:
        if asked is not None:
            os.environ["AUTOTUNE_W4A8_INT8_FOR_FP8"] = asked


WRONG: dict[str, Any] = {
    "not asked": _not_asked,
    "groups": lambda harness: _layer(harness, compressed("pack-quantized", "group", 32)),
    "packing": lambda harness: _layer(harness, quark("interleaved")),
    "activation": lambda harness: _layer(harness, CONFIGS["quark order"], activation="gelu"),
    "no scales": _without_scales,
    "twice": _twice,
    "anew": _anew,
    "zero points": _pair(1, symmetric=False),
    "pair in groups": _pair(1, qscheme="per_group", group_size=32),
    "FP8 by channel": _pair(0, qscheme="per_channel"),
    "rotated": lambda harness: _layer(
        harness, {**CONFIGS["pack-quantized"], "transform_config": {"config_groups": {"R4": ROTATED}}}
    ),
}


def _refusal(harness: Any, act: Any) -> str:
    try:
        act(harness)
    except Exception as error:  # noqa: BLE001 whatever it is, the test reads it
        return f"{type(error).__name__}: {error}"
    return ""


def _left_alone(harness: Any) -> str:
    """The class of the method of a layer that the checkpoint leaves out of quantisation."""
    layer = _layer(harness, quark("order", ("lm_head", harness.PREFIX)), bare=True)
    return type(layer).__name__


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
