"""Compiles a captured launch as Triton's own launcher would specialise it."""

from collections.abc import Mapping
from typing import Any

from autotune.engines.kernels import Launch

_POINTERS = {
    "torch.int8": "*i8",
    "torch.uint8": "*u8",
    "torch.int32": "*i32",
    "torch.int64": "*i64",
    "torch.float32": "*fp32",
    "torch.bfloat16": "*bf16",
    "torch.float16": "*fp16",
    "torch.float8_e4m3fn": "*fp8e4nv",
    "torch.float8_e4m3fnuz": "*fp8e4b8",
}


def compile_launch(launch: Launch, target: Any) -> Any:
    """Triton's compiled kernel: `.asm`, `.metadata`.

    An integer of one and None become constants; other integers and pointers are marked as multiples of 16
    where they are, as torch's allocations are; on AMD's cards tensors below 2 GiB are marked as such, which
    lets the compiler use buffer instructions. The launch then finds this very binary in Triton's disk cache.

    Raises:
        Exception: whatever the compiler raises.
    """
    import triton
    from triton.compiler import ASTSource

    kernel = launch.kernel
    names = list(kernel.arg_names)
    keywords = {name: value for name, value in launch.keywords.items() if name in names}
    values = dict(zip(names, launch.arguments, strict=False)) | keywords
    options = {name: value for name, value in launch.keywords.items() if name not in names}
    signature: dict[str, str] = {}
    constants: dict[str, Any] = {}
    attributes: dict[tuple[int, ...], list[list[Any]]] = {}
    for index, parameter in enumerate(kernel.params):
        # Triton's launcher has an entry for each: without, its cache takes this for another kernel.
        attributes[(index,)] = []
        value = values.get(parameter.name, parameter.default)
        kind, multiple = _kind(value)
        if parameter.is_constexpr or kind is None:
            signature[parameter.name], constants[parameter.name] = "constexpr", value
            continue
        signature[parameter.name] = kind
        if multiple:
            attributes[(index,)].append(["tt.divisibility", 16])
        if target.backend == "hip" and _is_small_tensor(value) and triton.knobs.amd.use_buffer_ops:
            attributes[(index,)].append(["tt.pointer_range", 32])
    source = ASTSource(kernel, signature, constants, attributes)
    return triton.compile(source, target=target, options=_known(options, target))


def _kind(value: Any) -> tuple[str | None, bool]:
    """A run-time argument's type and whether it is a multiple of 16; None: a constant."""
    if value is None or value is True or value is False or (isinstance(value, int) and value == 1):
        return None, False
    if isinstance(value, int):
        return ("i32" if -(2**31) <= value < 2**31 else "i64"), value % 16 == 0
    dtype = str(getattr(value, "dtype", ""))
    return (_POINTERS[dtype], True) if dtype in _POINTERS else (None, False)


def _is_small_tensor(value: Any) -> bool:
    return hasattr(value, "element_size") and value.numel() * value.element_size() < 2**31


def _known(options: Mapping[str, Any], target: Any) -> dict[str, Any]:
    """Compile options without what only the launcher takes."""
    return {name: value for name, value in options.items() if name not in ("grid", "warmup", "stream")}
