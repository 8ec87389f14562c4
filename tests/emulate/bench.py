"""A bench for single instructions: set registers, execute text, look at registers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from autotune.emulate.blocks import decode
from autotune.emulate.lds import Lds
from autotune.emulate.memory import Memory
from autotune.emulate.parser import parse_instruction
from autotune.emulate.registers import FULL, LANES, Wave

_WAVE = Wave()

# EXEC patterns that every vector instruction is tried with.
EXECS = {"full": FULL, "partial": 0xF0F0_1234_8000_0001, "none": 0}


def fresh(execution: int = FULL, lds_bytes: int = 0) -> Wave:
    """A wave with every register defined and random, a memory, and an LDS of that size."""
    wave = _WAVE
    wave.reset(0, np.random.default_rng(5))
    wave.define((1 << 640) - 1)
    wave.memory, wave.lds = Memory(), Lds(lds_bytes)
    wave.set_exec(execution)
    return wave


def execute(wave: Wave, *lines: str) -> None:
    """Decodes and runs instructions one after another, with the hazard checks of the run loop."""
    for number, text in enumerate(lines, 1):
        with np.errstate(all="ignore"):
            decoded = decode(parse_instruction(text, number), [])
            touched = decoded.reads | decoded.writes
            if touched & wave.hazard:
                queue = wave.vm if decoded.joins == "vm" else wave.lgkm if decoded.joins else None
                wave.check_hazard(decoded.reads, decoded.writes, queue)
            decoded.run(wave)


def put(wave: Wave, row: int, values: Any, count: int = 1) -> None:
    """Sets `count` registers from an array of 64 values of any type of that width."""
    raw = np.ascontiguousarray(values).view(np.uint32)
    wave.v[row : row + count] = raw.reshape(LANES, count).T


def get(wave: Wave, row: int, dtype: Any, count: int = 1) -> np.ndarray:
    """Reads `count` registers as 64 values of a type of that width."""
    return wave.v[row : row + count].T.copy().view(dtype)[:, 0]


def active(execution: int) -> np.ndarray:
    """EXEC as bool[64]."""
    return np.array([bool(execution >> lane & 1) for lane in range(LANES)])


def bits(values: Any) -> np.ndarray:
    """Any 4-byte values as uint32, so that NaN compares with NaN."""
    return np.ascontiguousarray(values).view(np.uint32)


def lanewise(function: Callable[..., Any], dtype: Any, *columns: Iterable[Any]) -> np.ndarray:
    """Applies a function of Python numbers to each lane: the reference that knows nothing of vectors."""
    with np.errstate(all="ignore"):
        return np.array([function(*lane) for lane in zip(*columns, strict=True)]).astype(dtype)
