"""How a checkpoint holds its experts, read from the `quantization_config` of its config.json.

Methods as transformers 5.24, vLLM 0.33.0 and SGLang 0.5.23 read them. A method, format or strategy that is
not known here becomes a scheme under its own name, which no backend takes.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from autotune.arithmetic import Scales, Scheme
from autotune.errors import UserError

_Read = Callable[[Mapping[str, Any], str], Scheme | None]

_EXPERTS: Final = tuple(
    tuple(f"{root}layers.{layer}.{part}.{projection}" for layer in (3, 11))
    for root in ("model.", "model.language_model.", "language_model.model.", "")
    for part in ("mlp.experts.0", "block_sparse_moe.experts.0", "feed_forward.experts.0", "mlp.experts")
    for projection in ("gate_proj", "gate_up_proj", "w1", "up_proj")
)
"""Names that routed experts have in checkpoints, in two layers that every model has."""
_IGNORES: Final = ("ignore", "ignored_layers", "modules_to_not_convert", "exclude", "exclude_modules")


def read_scheme(raw: Mapping[str, Any], path: Path) -> Scheme | None:
    """The scheme of the routed experts; None: they are not quantised.

    Raises:
        UserError: a value has the wrong type, or groups of layers with unlike schemes hold the experts.
    """
    method = str(raw.get("quant_method") or raw.get("quant_algo") or "unknown").lower().replace("_", "-")
    read = _METHODS.get(method, _unknown)
    try:
        # Together: some files name every layer by itself.
        if _left_out([name for key in _IGNORES for name in raw.get(key) or ()]):
            return None
        return read(raw, f"quantization_config.quant_method={raw.get('quant_method', method)}")
    except (TypeError, ValueError, AttributeError, KeyError, IndexError, re.error) as error:
        raise UserError(
            f"{path}: quantization_config cannot be read as {method} ({error!r}): correct the config.json"
        ) from error


def _left_out(names: Any) -> bool:
    """Whether a list of names that are not quantised holds the routed experts."""
    if not isinstance(names, list):
        return False
    return _name([str(name) for name in names if "expert" in str(name) and "shared" not in str(name)])


def _name(patterns: Sequence[str]) -> bool:
    """Whether patterns name the routed experts, of one layer as of another."""
    tests = [
        re.compile(p[3:]).match if p.startswith("re:") else re.compile(_anywhere(p)).search for p in patterns
    ]
    return any(all(any(test(module) for test in tests) for module in layers) for layers in _EXPERTS)


def _anywhere(pattern: str) -> str:
    """A module's name or a part of its path, with stars."""
    text = re.escape(pattern).replace(r"\*", ".*")
    return rf"(^|\.){text}($|\.)"


def _whole(value: Any, key: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{key} is {value!r}, not a whole number")
    return value


def _unknown(raw: Mapping[str, Any], source: str) -> Scheme:
    return Scheme(f"{raw.get('quant_method') or 'unknown'}-quantised", Scales.UNKNOWN, source=source)


def _fp8(raw: Mapping[str, Any], source: str) -> Scheme:
    static = raw.get("activation_scheme", "dynamic") == "static"
    fmt = str(raw.get("fmt", "e4m3"))
    weights = "fp8" if "e4m3" in fmt else f"fp8 {fmt}"
    block = raw.get("weight_block_size")
    if block is None:
        return Scheme(weights, Scales.TENSOR, None, "fp8", static, source=source)
    n, k = (_whole(side, "weight_block_size") for side in block)
    where = f"quantization_config.weight_block_size=[{n}, {k}]"
    return Scheme(weights, Scales.BLOCK, (n, k), f"fp8 in groups of {k}", static, source=where)


def _channel_fp8(raw: Mapping[str, Any], source: str) -> Scheme:
    return Scheme("fp8", Scales.CHANNEL, None, "fp8", source=source)


def _named(weights: str, group: int, activations: str = "bf16") -> Any:
    def read(raw: Mapping[str, Any], source: str) -> Scheme:
        return Scheme(weights, Scales.GROUP, (1, group), activations, source=source)

    return read


def _integer(bits: Any, group: Any, zeros: bool, source: str) -> Scheme:
    weights, size = f"int{_whole(bits, 'bits')}", _whole(-1 if group is None else group, "group_size")
    if size <= 0:
        return Scheme(weights, Scales.CHANNEL, zero_points=zeros, source=source)
    return Scheme(weights, Scales.GROUP, (1, size), zero_points=zeros, source=f"{source}, group_size={size}")


def _awq(raw: Mapping[str, Any], source: str) -> Scheme:
    bits = raw.get("bits", raw.get("w_bit", 4))
    return _integer(
        bits, raw.get("group_size", raw.get("q_group_size", 128)), raw.get("zero_point", True) is True, source
    )


def _gptq(raw: Mapping[str, Any], source: str) -> Scheme:
    order = ", desc_act=true" if raw.get("desc_act") is True else ""
    made = _integer(raw.get("bits", 4), raw.get("group_size", 128), raw.get("sym", True) is not True, source)
    if order:
        return Scheme(
            f"{made.weights} in another order of K", made.scales, made.block, source=f"{made.source}{order}"
        )
    return made


def _wna16(raw: Mapping[str, Any], source: str) -> Scheme:
    return (_awq if raw.get("linear_quant_method") == "awq" or "zero_point" in raw else _gptq)(raw, source)


def _compressed(raw: Mapping[str, Any], source: str) -> Scheme | None:
    form = str(raw.get("format") or "")
    groups = raw.get("config_groups") or {}
    if not groups:
        return _by_format(form, source)
    made = {
        _compressed_group(group, str(group.get("format") or form), source)
        for group in groups.values()
        if _targeted(group.get("targets") or ["Linear"])
    }
    if len(made) > 1:
        raise ValueError("config_groups hold experts in unlike schemes")
    return next(iter(made), None)


def _targeted(targets: list[str]) -> bool:
    return any(target in ("Linear", "FusedMoE", "RoutedExperts") for target in targets) or _name(targets)


def _by_format(form: str, source: str) -> Scheme:
    source = f"{source}, format={form}"
    if form.startswith(("mxfp4", "nvfp4")):
        return Scheme(form[:5], Scales.GROUP, (1, 32 if form.startswith("mxfp4") else 16), source=source)
    return Scheme(f"compressed-tensors {form or 'of no known format'}", Scales.UNKNOWN, source=source)


def _compressed_group(group: Mapping[str, Any], form: str, source: str) -> Scheme:
    if form.startswith(("mxfp4", "nvfp4")):
        return _by_format(form, source)
    weights, inputs = group["weights"], group.get("input_activations")
    kind = f"{'fp' if weights.get('type') == 'float' else 'int'}{_whole(weights['num_bits'], 'num_bits')}"
    zeros = weights.get("symmetric", True) is not True
    strategy, size, where = weights.get("strategy"), weights.get("group_size"), source
    scales, block = Scales.TENSOR, None
    if strategy == "channel":
        scales = Scales.CHANNEL
    elif strategy in ("group", "tensor_group") and size and size > 0:
        scales, block = Scales.GROUP, (1, _whole(size, "group_size"))
        where = f"{source}, group_size={size}"
    elif strategy == "block":
        n, k = (_whole(side, "block_structure") for side in weights["block_structure"])
        scales, block, where = Scales.BLOCK, (n, k), f"{source}, block_structure=[{n}, {k}]"
    elif strategy != "tensor":
        return Scheme(f"{kind} by {strategy}", Scales.UNKNOWN, source=f"{source}, strategy={strategy}")
    activations, static = "bf16", False
    if inputs:
        activations = (
            f"{'fp' if inputs.get('type') == 'float' else 'int'}{_whole(inputs['num_bits'], 'num_bits')}"
        )
        static = inputs.get("dynamic") is not True
        by = inputs.get("strategy")
        if by in ("group", "tensor_group", "block"):
            activations = f"{activations} in groups of {inputs.get('group_size')}"
        elif by == "tensor" and not static:
            activations = f"{activations} by tensor"
    return Scheme(kind, scales, block, activations, static, zeros, source=where)


_QUARK: Final = {
    "fp8_e4m3": "fp8",
    "int4": "int4",
    "int8": "int8",
    "uint4": "uint4",
    "fp4": "fp4",
    "fp8_e5m2": "fp8 e5m2",
}
_QUARK_SCALES: Final = {"per_tensor": Scales.TENSOR, "per_channel": Scales.CHANNEL, "per_group": Scales.GROUP}


def _quark(raw: Mapping[str, Any], source: str) -> Scheme | None:
    layers = raw.get("layer_quant_config") or {}
    own = [config for pattern, config in layers.items() if _name([str(pattern)])]
    config = own[0] if own else raw.get("global_quant_config")
    if not config or not config.get("weight"):
        return None
    weight, inputs = config["weight"], config.get("input_tensors")
    parts = weight if isinstance(weight, list) else [weight]
    last = parts[-1]  # FP8 by tensor, then INT4 by channel: what is stored is the last
    kinds = [_QUARK.get(str(part["dtype"]), str(part["dtype"])) for part in parts]
    scales = _QUARK_SCALES.get(str(last.get("qscheme")))
    names = "+".join(kinds)
    where = f"{source}, weight {names} {last.get('qscheme')}"
    if scales is None:
        return Scheme(f"quark {names} {last.get('qscheme')}", Scales.UNKNOWN, source=where)
    block = (1, _whole(last["group_size"], "group_size")) if scales is Scales.GROUP else None
    kind = kinds[-1] if kinds in (["int4"], ["int8"], ["fp8"], ["fp8", "int4"]) else names
    if kinds[-1] == "fp4" and block == (1, 32):
        kind = "mxfp4"
    activations, static = "bf16", False
    if inputs:
        first = inputs[-1] if isinstance(inputs, list) else inputs
        activations = _QUARK.get(str(first["dtype"]), str(first["dtype"]))
        static = first.get("is_dynamic") is not True
        if str(first.get("qscheme")) == "per_group":
            activations = f"{activations} in groups of {first.get('group_size')}"
    zeros = last.get("symmetric") is False
    return Scheme(kind, scales, block, activations, static, zeros, source=where)


def _modelopt(raw: Mapping[str, Any], source: str) -> Scheme | None:
    inner = raw.get("quantization") if isinstance(raw.get("quantization"), dict) else raw
    assert inner is not None
    if _left_out(inner.get("exclude_modules")):
        return None
    algorithm = str(inner.get("quant_algo") or "unknown").upper()
    where = f"{source}, quant_algo={algorithm}"
    match algorithm:
        case "FP8":
            return Scheme("fp8", Scales.TENSOR, None, "fp8", True, source=where)
        case "FP8_PER_CHANNEL_PER_TOKEN":
            return Scheme("fp8", Scales.CHANNEL, None, "fp8", source=where)
        case "NVFP4" | "W4A16_NVFP4" | "NVFP4_AWQ":
            return Scheme("nvfp4", Scales.GROUP, (1, 16), source=where)
    return Scheme(f"modelopt {algorithm}", Scales.UNKNOWN, source=where)


_METHODS: Final[Mapping[str, _Read]] = {
    "fp8": _fp8,
    "fbgemm-fp8": _channel_fp8,
    "ptpc-fp8": _channel_fp8,
    "mxfp4": _named("mxfp4", 32),
    "mxfp8": _named("mxfp8", 32, "mxfp8"),
    "nvfp4": _named("nvfp4", 16),
    "awq": _awq,
    "awq-marlin": _awq,
    "gptq": _gptq,
    "gptq-marlin": _gptq,
    "auto-round": _gptq,
    "moe-wna16": _wna16,
    "compressed-tensors": _compressed,
    "quark": _quark,
    "modelopt": _modelopt,
    "modelopt-fp4": _modelopt,
    "experts-int8": lambda raw, source: Scheme("int8", Scales.CHANNEL, source=source),
    "w8a8-int8": lambda raw, source: Scheme("int8", Scales.CHANNEL, None, "int8", source=source),
    "w8a8-fp8": _channel_fp8,
}
