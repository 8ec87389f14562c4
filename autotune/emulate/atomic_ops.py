"""Read-modify-write operations, shared by global, buffer, flat and LDS atomics.

Lanes that hit the same address take effect one after another in lane order. CDNA3 ISA guide, "Memory
atomics".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from autotune.emulate.registers import Array

# (old words uint32[k, n], data words uint32[k', n]) -> new words uint32[k, n]
Combine = Callable[[Array, Array], Array]


@dataclass(frozen=True, slots=True)
class Atomic:
    """An operation on `size` bytes a lane that takes `data` bytes of registers (twice `size` for cmpswap)."""

    size: int
    data: int
    function: Combine


def _typed(dtype: Any, function: Callable[[Array, Array], Array]) -> Combine:
    """Works on values of 4 or 8 bytes instead of words."""
    wide = np.dtype(dtype).itemsize == 8

    def run(old: Array, data: Array) -> Array:
        if not wide:
            result = function(old.view(dtype), data.view(dtype)).astype(dtype)
            return np.ascontiguousarray(result).view(np.uint32)
        a, b = (np.ascontiguousarray(words.T).view(dtype)[:, 0] for words in (old, data))
        new = np.ascontiguousarray(function(a, b).astype(dtype))
        return np.ascontiguousarray(new.view(np.uint32).reshape(-1, 2).T)

    return run


def _pairs(function: Callable[[Array, Array], Array]) -> Combine:
    """Works on the two 16-bit halves of each word."""

    def run(old: Array, data: Array) -> Array:
        a, b = (np.ascontiguousarray(words[0]).view(np.uint16) for words in (old, data))
        return np.ascontiguousarray(function(a, b)).view(np.uint32)[None, :]

    return run


def _add_f16(a: Array, b: Array) -> Array:
    total: Array = a.view(np.float16) + b.view(np.float16)
    return total.view(np.uint16)


def bf16_to_f32(a: Array) -> Array:
    """uint16 codes to float32."""
    return (a.astype(np.uint32) << np.uint32(16)).view(np.float32)


def f32_to_bf16(a: Array) -> Array:
    """float32 to uint16 codes, nearest even; NaN stays NaN."""
    bits = a.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(a), bits >> np.uint32(16) | np.uint32(0x40), rounded).astype(np.uint16)


def _add_bf16(a: Array, b: Array) -> Array:
    return f32_to_bf16(bf16_to_f32(a) + bf16_to_f32(b))


def _increment(old: Array, limit: Array) -> Array:
    return np.asarray(np.where(old >= limit, 0, old + old.dtype.type(1)))


def _decrement(old: Array, limit: Array) -> Array:
    return np.where((old == 0) | (old > limit), limit, old - old.dtype.type(1))


def _compare_swap(words: int) -> Combine:
    """Data is the new value followed by the value to compare with."""

    def run(old: Array, data: Array) -> Array:
        same = (old == data[words:]).all(axis=0)
        return np.where(same, data[:words], old)

    return run


def _integers(suffix: str, unsigned: Any, signed: Any, size: int) -> dict[str, Atomic]:
    table: dict[str, tuple[Any, Callable[[Array, Array], Array]]] = {
        "add": (unsigned, lambda a, b: a + b),
        "sub": (unsigned, lambda a, b: a - b),
        "smin": (signed, np.minimum),
        "umin": (unsigned, np.minimum),
        "smax": (signed, np.maximum),
        "umax": (unsigned, np.maximum),
        "and": (unsigned, lambda a, b: a & b),
        "or": (unsigned, lambda a, b: a | b),
        "xor": (unsigned, lambda a, b: a ^ b),
        "swap": (unsigned, lambda a, b: b),
        "inc": (unsigned, _increment),
        "dec": (unsigned, _decrement),
    }
    operations = {
        name + suffix: Atomic(size, size, _typed(dtype, function))
        for name, (dtype, function) in table.items()
    }
    return operations | {"cmpswap" + suffix: Atomic(size, 2 * size, _compare_swap(size // 4))}


ATOMICS: dict[str, Atomic] = {
    **_integers("", np.uint32, np.int32, 4),
    **_integers("_x2", np.uint64, np.int64, 8),
    "add_f32": Atomic(4, 4, _typed(np.float32, lambda a, b: a + b)),
    "pk_add_f16": Atomic(4, 4, _pairs(_add_f16)),
    "pk_add_bf16": Atomic(4, 4, _pairs(_add_bf16)),
    "add_f64": Atomic(8, 8, _typed(np.float64, lambda a, b: a + b)),
    "min_f64": Atomic(8, 8, _typed(np.float64, np.fmin)),
    "max_f64": Atomic(8, 8, _typed(np.float64, np.fmax)),
}


def in_rounds(
    addresses: Array, data: Array, combine: Combine,
    load: Callable[[Array], Array], store: Callable[[Array, Array], None],
) -> Array:  # fmt: skip
    """Applies an atomic to all lanes and returns the old words uint32[k, n], lane by lane as they found them.

    Args:
        addresses: int64[n].
        data: uint32[k', n].
        combine: the operation.
        load, store: words at addresses int64[m], uint32[k, m].
    """
    left = np.arange(len(addresses))
    result: Array | None = None
    while len(left):
        # Every round takes the first of the remaining lanes at each address.
        _, first = np.unique(addresses[left], return_index=True)
        chosen = left[np.sort(first)]
        old = load(addresses[chosen])
        if result is None:
            result = np.zeros((len(old), len(addresses)), np.uint32)
        result[:, chosen] = old
        store(addresses[chosen], combine(old, np.ascontiguousarray(data[:, chosen])))
        left = np.setdiff1d(left, chosen, assume_unique=True)
    assert result is not None
    return result
