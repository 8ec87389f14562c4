"""Vector comparisons and their lane masks."""

from __future__ import annotations

import math
import operator

import numpy as np
import pytest

from autotune.emulate.parser import EXEC, VCC
from tests.emulate.bench import EXECS, execute, fresh, put

INTEGER = {
    "lt": operator.lt,
    "le": operator.le,
    "eq": operator.eq,
    "ne": operator.ne,
    "gt": operator.gt,
    "ge": operator.ge,
    "t": lambda a, b: True,
    "f": lambda a, b: False,
}
nan = math.isnan
FLOAT = {
    "lt": operator.lt,
    "le": operator.le,
    "eq": operator.eq,
    "gt": operator.gt,
    "ge": operator.ge,
    "lg": lambda a, b: a < b or a > b,
    "o": lambda a, b: not (nan(a) or nan(b)),
    "u": lambda a, b: nan(a) or nan(b),
    "nge": lambda a, b: not a >= b,
    "nlg": lambda a, b: not (a < b or a > b),
    "ngt": lambda a, b: not a > b,
    "nle": lambda a, b: not a <= b,
    "neq": operator.ne,
    "nlt": lambda a, b: not a < b,
    "tru": lambda a, b: True,
    "f": lambda a, b: False,
}
DTYPES = {
    "i32": np.int32,
    "u32": np.uint32,
    "i16": np.int16,
    "u16": np.uint16,
    "i64": np.int64,
    "u64": np.uint64,
    "f32": np.float32,
    "f16": np.float16,
    "f64": np.float64,
}


def operands(kind: str, row: int, wave) -> tuple[str, str, list, list]:
    dtype = np.dtype(DTYPES[kind])
    rng = np.random.default_rng(2)
    if kind[0] == "f":
        pool = np.array([0.0, -0.0, 1.0, -1.0, 2.5, np.inf, -np.inf, np.nan], dtype)
    else:
        info = np.iinfo(dtype)
        pool = np.array([0, 1, info.max, info.min, info.max // 2, info.max - 1], dtype)
    texts, columns = [], []
    for _ in range(2):
        column = rng.choice(pool, 64)
        if dtype.itemsize == 2:
            # What lies in the high half must not matter.
            put(
                wave,
                row,
                column.view(np.uint16).astype(np.uint32) | rng.integers(0, 1 << 16, 64, np.uint32) << 16,
            )
        else:
            put(wave, row, column, dtype.itemsize // 4)
        texts.append(f"v{row}" if dtype.itemsize < 8 else f"v[{row}:{row + 1}]")
        columns.append(column.tolist())
        row += 2
    return *texts, *columns


CASES = [(name, kind) for kind in DTYPES for name in (FLOAT if kind[0] == "f" else INTEGER)]


@pytest.mark.parametrize("exec_name", EXECS)
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_compare(name: str, kind: str, exec_name: str) -> None:
    for row, target, encoding in ((2, VCC, "e32"), (220, 40, "e64")):
        wave = fresh(EXECS[exec_name])
        a, b, x, y = operands(kind, row, wave)
        where = "vcc" if encoding == "e32" else "s[40:41]"
        execute(wave, f"v_cmp_{name}_{kind}_{encoding} {where}, {a}, {b}")
        relation = (FLOAT if kind[0] == "f" else INTEGER)[name]
        expected = sum(bool(relation(*lane)) << i for i, lane in enumerate(zip(x, y, strict=True)))
        assert wave.get64(target) == expected & EXECS[exec_name]


def test_cmpx_narrows_exec_and_writes_its_mask() -> None:
    wave = fresh(0xFF)
    put(wave, 1, np.arange(64, dtype=np.int32))
    execute(wave, "v_cmpx_gt_i32_e64 s[4:5], 5, v1")
    assert wave.get64(4) == wave.exec == wave.get64(EXEC) == 0x1F


def test_float_modifiers_and_constants() -> None:
    wave = fresh()
    put(wave, 1, np.linspace(-2, 2, 64).astype(np.float32))
    execute(wave, "v_cmp_lt_f32_e64 s[4:5], |v1|, 1.0", "v_cmp_gt_f32_e64 s[6:7], -v1, 0.5")
    x = np.linspace(-2, 2, 64).astype(np.float32)
    assert [bool(wave.get64(4) >> i & 1) for i in range(64)] == (np.abs(x) < 1).tolist()
    assert [bool(wave.get64(6) >> i & 1) for i in range(64)] == (-x > 0.5).tolist()


CLASSES = np.array(
    [0x7F800001, 0x7FC00000, 0xFF800000, 0xBF800000, 0x80000001, 0x80000000, 0, 1, 0x3F800000, 0x7F800000],
    np.uint32,
)


@pytest.mark.parametrize("bit", range(10))
def test_class(bit: int) -> None:
    wave = fresh()
    put(wave, 1, np.resize(CLASSES, 64))
    put(wave, 2, np.full(64, 1 << bit, np.uint32))
    execute(wave, "v_cmp_class_f32_e64 s[4:5], v1, v2")
    assert wave.get64(4) & 0x3FF == 1 << bit


def test_sdwa_compare() -> None:
    wave = fresh()
    put(wave, 1, np.arange(64, dtype=np.uint32) << np.uint32(16))
    put(wave, 2, np.full(64, 30, np.uint32))
    execute(wave, "v_cmp_lt_u32_sdwa s[4:5], v1, v2 src0_sel:WORD_1 src1_sel:DWORD")
    assert wave.get64(4) == (1 << 30) - 1
