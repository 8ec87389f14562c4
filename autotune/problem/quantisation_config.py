"""Reads how a checkpoint holds its experts from the `quantization_config` of its config.json.

Methods as transformers 5.24, vLLM 0.33.0 and SGLang 0.5.23 read them. A method, format or strategy that is
not known here becomes a scheme under its own name, which no backend takes.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from autotune.errors import UserError
from autotune.problem.arithmetic import Scales, Scheme

_Named = Callable[[Sequence[str]], bool]
"""Whether patterns name one projection of the experts of one layer."""
_Read = Callable[[Mapping[str, Any], str, _Named], Scheme | None]

_PARTS: Final = {
    "gate": ("gate_proj", "gate_up_proj", "w1"),
    "up": ("up_proj", "gate_up_proj", "w3"),
    "down": ("down_proj", "w2"),
}
_IGNORES: Final = ("ignore", "ignored_layers", "modules_to_not_convert", "exclude", "exclude_modules")


class _Projection:
    """One projection of one layer's routed experts, under the names that it has in checkpoints."""

    def __init__(self, layer: int, part: str) -> None:
        self.modules = [
            f"{root}layers.{layer}.{block}.{name}"
            for root in ("model.", "model.language_model.", "language_model.model.", "")
            for block in (*(f"{mlp}.experts.0" for mlp in _BLOCKS), "mlp.experts")
            for name in _PARTS[part]
        ]
        paths = [module.split(".") for module in self.modules]
        self._parts = {
            ".".join(path[first : last + 1])
            for path in paths
            for first in range(len(path))
            for last in range(first, len(path))
        }

    def named(self, patterns: Sequence[str]) -> bool:
        """Whether one of the patterns names it: a module, a part of its path, with stars, or `re:`."""
        return any(self._named(pattern) for pattern in patterns)

    def _named(self, pattern: str) -> bool:
        if pattern.startswith("re:"):
            return any(map(re.compile(pattern[3:]).match, self.modules))
        if "*" not in pattern:
            return pattern in self._parts
        text = re.escape(pattern).replace(r"\*", ".*")
        return any(map(re.compile(rf"(^|\.){text}($|\.)").search, self.modules))


_BLOCKS: Final = ("mlp", "block_sparse_moe", "feed_forward")


def read_scheme(raw: Mapping[str, Any], path: Path, layers: Sequence[int] = (3, 11)) -> Scheme | None:
    """The scheme of the routed experts; None: they are not quantised.

    Layers whose experts are not quantised stand aside where others' are. Where the experts of two layers, or
    the projections of one, are in unlike numbers, the scheme is of a kind of its own, which nobody takes.

    Args:
        layers: some that have experts; what is said of single layers is read for these.

    Raises:
        UserError: a value has the wrong type or is missing.
    """
    method = str(raw.get("quant_method") or raw.get("quant_algo") or "unknown").lower().replace("_", "-")
    read = _METHODS.get(method, _unknown)
    source = f"quantization_config.quant_method={raw.get('quant_method', method)}"
    try:
        # Together: some files name every layer by itself.
        left_out = [name for key in _IGNORES for name in _names(raw.get(key))]
        held: dict[int, dict[str, Scheme | None]] = {}
        for layer in layers:
            for part in _PARTS:
                named = _Projection(layer, part).named
                held.setdefault(layer, {})[part] = None if named(left_out) else read(raw, source, named)
    except (TypeError, ValueError, AttributeError, KeyError, IndexError, re.error) as error:
        why = f"{error} is missing" if isinstance(error, KeyError) else error
        raise UserError(
            f"{path}: quantization_config cannot be read as {method} ({why}): correct the config.json"
        ) from error
    return _alike(held, source)


def _names(value: Any) -> list[str]:
    names = [value] if isinstance(value, str) else value or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"{value!r} is not a list of modules")
    return names


def _alike(held: Mapping[int, Mapping[str, Scheme | None]], source: str) -> Scheme | None:
    """The scheme of all, else one that says what is unlike."""
    for parts in held.values():
        for part, scheme in parts.items():
            if scheme != parts["gate"]:
                return _unlike({"gate": parts["gate"], part: scheme}, source)
    layers = {f"layer {layer}": parts["gate"] for layer, parts in held.items() if parts["gate"] is not None}
    first = next(iter(layers.values()), None)
    for layer, scheme in layers.items():
        if scheme != first:
            return _unlike({next(iter(layers)): first, layer: scheme}, source)
    return first


def _unlike(schemes: Mapping[str, Scheme | None], source: str) -> Scheme:
    which = "; ".join(f"{name}: {scheme or 'not quantised'}" for name, scheme in schemes.items())
    return Scheme(f"unlike ({which})", Scales.UNKNOWN, source=source)


def _whole(value: Any, key: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{key} is {value!r}, not a whole number")
    return value


def _object(part: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """What a key holds; empty where it is missing, null or empty."""
    value = part.get(key) or {}
    if not isinstance(value, dict):
        raise TypeError(f"{key} is {value!r}, not an object")
    return value


def _block(value: Any, key: str) -> tuple[int, int]:
    """(N, K) of a block: two numbers, or text as `128x128`."""
    sides = [int(side) for side in value.split("x")] if isinstance(value, str) else value
    if len(sides) != 2 or min(_whole(side, key) for side in sides) < 1:
        raise ValueError(f"{key} is {value!r}, not two sides of a block")
    return sides[0], sides[1]


def _unknown(raw: Mapping[str, Any], source: str, named: _Named) -> Scheme:
    return Scheme(f"{raw.get('quant_method') or 'unknown'}-quantised", Scales.UNKNOWN, source=source)


def _fp8(raw: Mapping[str, Any], source: str, named: _Named) -> Scheme:
    activations, fmt = raw.get("activation_scheme", "dynamic"), raw.get("fmt", "e4m3")
    if activations not in ("dynamic", "static"):
        raise ValueError(f"activation_scheme is {activations!r}, neither dynamic nor static")
    static = activations == "static"
    weights = "fp8" if fmt in ("e4m3", "e4m3fn", "float8_e4m3fn") else f"fp8 {fmt}"
    block = raw.get("weight_block_size")
    if block is None:
        return Scheme(weights, Scales.TENSOR, None, "fp8", static, source=source)
    n, k = _block(block, "weight_block_size")
    where = f"quantization_config.weight_block_size=[{n}, {k}]"
    return Scheme(weights, Scales.BLOCK, (n, k), f"fp8 in groups of {k}", static, source=where)


def _channel_fp8(raw: Mapping[str, Any], source: str, named: _Named) -> Scheme:
    return Scheme("fp8", Scales.CHANNEL, None, "fp8", source=source)


def _named(weights: str, group: int, activations: str = "bf16") -> Any:
    def read(raw: Mapping[str, Any], source: str, named: _Named) -> Scheme:
        return Scheme(weights, Scales.GROUP, (1, group), activations, source=source)

    return read


def _integer(bits: Any, group: Any, zeros: bool, source: str) -> Scheme:
    weights, size = f"int{_whole(bits, 'bits')}", _whole(-1 if group is None else group, "group_size")
    if size == -1:
        return Scheme(weights, Scales.CHANNEL, zero_points=zeros, source=source)
    if size < 1:
        raise ValueError(f"group_size is {size}, neither a group's size nor -1")
    return Scheme(weights, Scales.GROUP, (1, size), zero_points=zeros, source=f"{source}, group_size={size}")


_AWQ: Final = (("bits", "w_bit"), ("group_size", "q_group_size"))


def _awq(raw: Mapping[str, Any], source: str, named: _Named) -> Scheme:
    bits, group = (raw[key] if key in raw else raw[other] for key, other in _AWQ)
    order = raw.get("version") or "gemm"
    if str(order).lower() != "gemm":
        return Scheme(f"awq {order}", Scales.UNKNOWN, source=f"{source}, version={order}")
    return _integer(bits, group, raw.get("zero_point", True) is True, source)


_GPTQ_PACKING: Final = {
    "checkpoint_format": ("gptq", "gptq_v2"),
    "format": ("gptq", "gptq_v2"),
    "pack_dtype": ("int32",),
}
"""How values are packed: others (`marlin`, `bitblas`) lie as one kernel wants them."""


def _gptq(raw: Mapping[str, Any], source: str, named: _Named) -> Scheme | None:
    """`dynamic` has other settings for modules that match (`+:`), or leaves them out (`-:`)."""
    for key, known in _GPTQ_PACKING.items():
        if raw.get(key) not in (None, *known):
            return Scheme(f"gptq {raw[key]}", Scales.UNKNOWN, source=f"{source}, {key}={raw[key]}")
    listed = raw.get("modules_in_block_to_quantize")
    if listed and not named([str(name) for names in listed for name in names]):
        return None
    for pattern, changes in _object(raw, "dynamic").items():
        if named([f"re:{pattern.removeprefix('+:').removeprefix('-:')}"]):
            if pattern.startswith("-:"):
                return None
            raw = {**raw, **changes}
            break
    scheme = _integer(raw["bits"], raw["group_size"], raw.get("sym", True) is not True, source)
    return _reordered(scheme, f"{scheme.source}, desc_act=true") if raw.get("desc_act") is True else scheme


def _reordered(scheme: Scheme, source: str) -> Scheme:
    return Scheme(f"{scheme.weights} in another order of K", scheme.scales, scheme.block, source=source)


def _auto_round(raw: Mapping[str, Any], source: str, named: _Named) -> Scheme | None:
    """`extra_config` has other settings for modules, by name or expression; 16 bits: not quantised."""
    for pattern, changes in _object(raw, "extra_config").items():
        if named([pattern, f"re:{pattern}"]):
            raw = {**raw, **changes}
    if _whole(raw.get("bits", 4), "bits") >= 16:
        return None
    kind, inputs = str(raw.get("data_type") or "int"), _whole(raw.get("act_bits") or 16, "act_bits")
    if kind != "int" or inputs < 16:
        where = f"{source}, data_type={kind}, bits={raw.get('bits', 4)}, act_bits={inputs}"
        return Scheme(f"auto-round {kind}{raw.get('bits', 4)}a{inputs}", Scales.UNKNOWN, source=where)
    return _integer(raw.get("bits", 4), raw.get("group_size", 128), raw.get("sym", True) is not True, source)


def _wna16(raw: Mapping[str, Any], source: str, named: _Named) -> Scheme | None:
    awq = raw.get("linear_quant_method") == "awq" or "zero_point" in raw
    return (_awq if awq else _gptq)(raw, source, named)


def _compressed(raw: Mapping[str, Any], source: str, named: _Named) -> Scheme | None:
    form = str(raw.get("format") or "")
    groups = _object(raw, "config_groups")
    sparse = _object(raw, "sparsity_config").get("format")
    if sparse not in (None, "dense"):
        return Scheme(f"{sparse} compressed", Scales.UNKNOWN, source=f"{source}, sparsity_config")
    if _object(raw, "transform_config").get("config_groups"):
        return Scheme("transformed", Scales.UNKNOWN, source=f"{source}, transform_config")
    if not groups:
        return _by_format(form, source)
    schemes = {
        _compressed_group(group, str(group.get("format") or form), source)
        for group in groups.values()
        if _targeted(group.get("targets") or ["Linear"], named)
    }
    if len(schemes) > 1:
        return _unlike({f"group {i}": scheme for i, scheme in enumerate(schemes)}, source)
    return next(iter(schemes), None)


def _targeted(targets: list[str], named: _Named) -> bool:
    return any(target in ("Linear", "FusedMoE", "RoutedExperts") for target in targets) or named(targets)


_FORMATS: Final = ("", "mixed-precision", *(f"{how}-quantized" for how in ("pack", "int", "float", "naive")))


def _by_format(form: str, source: str) -> Scheme:
    source = f"{source}, format={form}"
    if form.startswith(("mxfp4", "nvfp4")):
        return Scheme(form[:5], Scales.GROUP, (1, 32 if form.startswith("mxfp4") else 16), source=source)
    return Scheme(f"compressed-tensors {form or 'of no known format'}", Scales.UNKNOWN, source=source)


def _compressed_group(group: Mapping[str, Any], form: str, source: str) -> Scheme:
    if form not in _FORMATS:  # 2:4 sparse ones among them (marlin-24)
        return _by_format(form, source)
    weights, inputs = group["weights"], _object(group, "input_activations")
    if not isinstance(weights, dict):
        raise TypeError(f"weights is {weights!r}, not an object")
    kind = f"{'fp' if weights.get('type') == 'float' else 'int'}{_whole(weights['num_bits'], 'num_bits')}"
    zeros = weights.get("symmetric", True) is not True
    size, where = weights.get("group_size"), source
    # Where none is named, compressed-tensors goes by the group's size.
    unnamed = "tensor" if size is None else "channel" if size == -1 else "group"
    strategy = weights.get("strategy") or unnamed
    scales, block = Scales.TENSOR, None
    if strategy == "channel":
        scales = Scales.CHANNEL
    elif strategy in ("group", "tensor_group") and size and _whole(size, "group_size") > 0:
        scales, block = Scales.GROUP, (1, size)
        where = f"{source}, group_size={size}"
    elif strategy == "block":
        n, k = _block(weights["block_structure"], "block_structure")
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
        if inputs.get("symmetric", True) is not True:
            activations = f"{activations} with zero points"
    scheme = Scheme(kind, scales, block, activations, static, zeros, source=where)
    # By weight alone the order is undone when it is written; by group it is not.
    if weights.get("actorder") in ("group", "dynamic", True):
        return _reordered(scheme, f"{where}, actorder={weights['actorder']}")
    return scheme


_QUARK: Final = {
    "fp8_e4m3": "fp8",
    "int4": "int4",
    "int8": "int8",
    "uint4": "uint4",
    "fp4": "fp4",
    "fp8_e5m2": "fp8 e5m2",
}
_QUARK_SCALES: Final = {"per_tensor": Scales.TENSOR, "per_channel": Scales.CHANNEL, "per_group": Scales.GROUP}


def _quark(raw: Mapping[str, Any], source: str, named: _Named) -> Scheme | None:
    own = [config for pattern, config in _object(raw, "layer_quant_config").items() if named([pattern])]
    by_type = _object(raw, "layer_type_quant_config").get("Linear")
    config = own[0] if own else by_type or raw["global_quant_config"]
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
        elif str(first.get("qscheme")) == "per_tensor" and not static and kind != "int4":
            # Of INT4 weights Quark's own checkpoints say so, and engines quantise by token.
            activations = f"{activations} by tensor"
        if first.get("symmetric") is False:
            activations = f"{activations} with zero points"
    zeros = last.get("symmetric") is False
    return Scheme(kind, scales, block, activations, static, zeros, source=where)


def _modelopt(raw: Mapping[str, Any], source: str, named: _Named) -> Scheme | None:
    inner = raw.get("quantization") if isinstance(raw.get("quantization"), dict) else raw
    assert inner is not None
    if named(_names(inner.get("exclude_modules"))):
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
    "auto-round": _auto_round,
    "inc": _auto_round,
    "moe-wna16": _wna16,
    "compressed-tensors": _compressed,
    "quark": _quark,
    "modelopt": _modelopt,
    "modelopt-fp4": _modelopt,
    "experts-int8": lambda raw, source, named: Scheme("int8", Scales.CHANNEL, source=source),
    "w8a8-int8": lambda raw, source, named: Scheme("int8", Scales.CHANNEL, None, "int8", source=source),
    "w8a8-fp8": _channel_fp8,
}
