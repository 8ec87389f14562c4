"""Every opcode of the tables is one that the assembler knows for gfx942: nothing is emulated that does not
exist.
"""

from __future__ import annotations

import pytest

from autotune.emulate import (
    atomic_ops,
    compare,
    crosslane,
    float_ops,
    integer_ops,
    packed,
    scalar,
    shared,
    vmem,
)
from tests.emulate.test_matrix import BYTES, SHAPES

pytest.importorskip("triton")
libtriton = pytest.importorskip("triton._C.libtriton")
libtriton.llvm.init_targets()
amd = libtriton.amd

WIDE = {"u64", "i64", "f64"}


def vector(first: int, count: int = 1, file: str = "v") -> str:
    return f"{file}{first}" if count == 1 else f"{file}[{first}:{first + count - 1}]"


def valu(name: str, operation) -> str:
    """An instruction of a table entry with plain operands."""
    result = vector(2, 2 if operation.result in WIDE else 1)
    sources = [
        "vcc" if kind == "lanes" else vector(4 + 2 * i, 2 if kind in WIDE else 1)
        for i, kind in enumerate(operation.sources)
    ]
    for constant, position in (("fmamk", 1), ("fmaak", 2)):
        if constant in name:
            sources[position] = "0x40490fdb" if name.endswith("f32") else "0x4248"
    if name == "v_accvgpr_write_b32":
        result = "a2"
    elif name == "v_accvgpr_read_b32":
        sources = ["a4"]
    elif name == "v_accvgpr_mov_b32":
        result, sources = "a2", ["a4"]
    return f"{name} {result}, {', '.join(sources)}"


def lines() -> list[str]:
    """One instruction for each opcode of each table."""
    found = [
        valu(name, operation)
        for name, operation in (integer_ops.INTEGER | integer_ops.INTEGER16 | float_ops.FLOAT).items()
    ]
    found += [
        f"{name} v2, " + ", ".join(f"v{4 + i}" for i in range(len(op.sources)))
        for name, op in packed.PACKED16.items()
    ]
    found += [
        f"{name} v[2:3], " + ", ".join(vector(4 + 2 * i, 2) for i in range(len(op.sources)))
        for name, op in packed.PACKED32.items()
    ]
    for relation in compare.INTEGER:
        found += [f"v_cmp_{relation}_{kind} vcc, v2, v4" for kind in ("i16", "u16", "i32", "u32")]
        found += [f"v_cmpx_{relation}_{kind} vcc, v[2:3], v[4:5]" for kind in ("i64", "u64")]
    for relation in compare.FLOAT:
        found += [f"v_cmp_{relation}_{kind} vcc, v2, v4" for kind in ("f16", "f32")]
    found += [
        f"{name} v2, vcc, v4, v6" + (", vcc" if carry else "")
        for name, (_, _, carry) in crosslane.CARRY.items()
    ]
    for name, (m, k, blocks, kind, _) in SHAPES.items():
        count, outputs = m * k * blocks // 64 * BYTES[kind] // 4, blocks * m * m // 64
        found.append(f"{name} {vector(32, outputs)}, {vector(0, count)}, {vector(4, count)}, 0")
    found += scalar_lines() + memory_lines()
    return found


def pair(bits: int, first: int) -> str:
    return f"s[{first}:{first + 1}]" if bits == 64 else f"s{first}"


def scalar_lines() -> list[str]:
    two = {name: (bits, sources) for name, (bits, sources, _) in (scalar.SCC2 | scalar.PLAIN2).items()}
    one = {name: (bits, source) for name, (bits, source, _) in (scalar.SCC1 | scalar.PLAIN1).items()}
    found = [f"{name} {pair(bits, 2)}, {pair(a, 4)}, {pair(b, 6)}" for name, (bits, (a, b)) in two.items()]
    found += [f"{name} {pair(bits, 2)}, {pair(source, 4)}" for name, (bits, source) in one.items()]
    found += [f"{name} s[2:3], s[4:5]" for name in scalar.SAVEEXEC]
    found += [f"s_cmp_{relation}_{kind} s2, s4" for relation in scalar.RELATIONS for kind in ("i32", "u32")]
    found += [f"s_cmpk_{relation}_{kind} s2, 5" for relation in scalar.RELATIONS for kind in ("i32", "u32")]
    return found + [
        name + (" 0" if name in {"s_nop", "s_sleep", "s_setprio"} else "") for name in scalar.NOTHING
    ]


def memory_lines() -> list[str]:
    found = []
    for space, address in (("global", "v[8:9], {}off"), ("flat", "v[8:9]{}"), ("scratch", "v8, {}off")):
        for name, access in vmem.LOADS.items():
            data = vector(2, -(-access.size // 4))
            found.append(f"{space}_load_{name} {data}, {address.format('')}")
        for name, access in vmem.STORES.items():
            data = vector(2, -(-access.size // 4))
            found.append(
                f"{space}_store_{name} " + address.format(f", {data}" if space == "flat" else f"{data}, ")
            )
    for direction, table in (("load", vmem.LOADS), ("store", vmem.STORES)):
        found += [
            f"buffer_{direction}_{name} {vector(2, -(-access.size // 4))}, v8, s[4:7], 0 offen"
            for name, access in table.items()
        ]
    for name, atomic in atomic_ops.ATOMICS.items():
        data = vector(2, atomic.data // 4)
        found.append(f"global_atomic_{name} v[8:9], {data}, off")
    for name, access in shared.READS.items():
        found.append(f"ds_read_{name} {vector(4, -(-access.size // 4))}, v8")
    for name, access in shared.WRITES.items():
        found.append(f"ds_write_{name} v8, {vector(4, -(-access.size // 4))}")
    return found


@pytest.mark.parametrize("text", sorted(lines()))
def test_assembler_knows_it(text: str, capfd: pytest.CaptureFixture[str]) -> None:
    failed = False
    try:
        amd.assemble_amdgcn(f".text\n{text}\n", "amdgcn-amd-amdhsa", "gfx942", "")
    except RuntimeError:
        failed = True
    message = capfd.readouterr().err
    assert not failed, message
    assert "error" not in message, message


def test_the_assembler_would_complain(capfd: pytest.CaptureFixture[str]) -> None:
    try:
        amd.assemble_amdgcn(
            ".text\nv_mfma_f32_16x16x32_bf16 v[8:11], v[0:3], v[4:7], 0\n", "amdgcn-amd-amdhsa", "gfx942", ""
        )
    except RuntimeError:
        return
    assert "error" in capfd.readouterr().err
