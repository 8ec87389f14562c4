"""Assembly text into instructions, labels and descriptors."""

from __future__ import annotations

import pytest

from autotune.emulate.errors import NotEmulated
from autotune.emulate.parser import (
    Imm,
    KernelArgument,
    Operand,
    Reg,
    Symbol,
    parse_instruction,
    parse_operand,
    parse_program,
)
from tests.emulate.asm import kernel


@pytest.mark.parametrize(
    ("text", "operand"),
    [
        ("v7", Operand(Reg("v", 7, 1))),
        ("v[4:7]", Operand(Reg("v", 4, 4))),
        ("a[2]", Operand(Reg("a", 2, 1))),
        ("s[100:101]", Operand(Reg("s", 100, 2))),
        ("vcc", Operand(Reg("s", 106, 2))),
        ("exec_hi", Operand(Reg("s", 127, 1))),
        ("m0", Operand(Reg("s", 124, 1))),
        ("-v1", Operand(Reg("v", 1, 1), neg=True)),
        ("|s3|", Operand(Reg("s", 3, 1), abs=True)),
        ("-|v3|", Operand(Reg("v", 3, 1), neg=True, abs=True)),
        ("sext(v3)", Operand(Reg("v", 3, 1), sext=True)),
        ("0x7fff", Operand(Imm(0x7FFF))),
        ("-16", Operand(Imm(-16))),
        ("-4.0", Operand(Imm(-4.0))),
        ("0.15915494", Operand(Imm(0.15915494))),
        ("off", Operand(Symbol("off"))),
        (".LBB0_2", Operand(Symbol(".LBB0_2"))),
    ],
)
def test_operands(text: str, operand: Operand) -> None:
    assert parse_operand(text) == operand


def test_integer_and_float_constants_differ() -> None:
    assert Imm(1) != Imm(1.0)
    assert Imm(0.0) != Imm(-0.0)
    assert len({Imm(1), Imm(1.0), Imm(1)}) == 2


def test_instruction_with_modifiers() -> None:
    found = parse_instruction("  buffer_load_dwordx4 v[0:3], v4, s[8:11], 0 offen offset:16 sc1", 12)
    assert (found.line, found.opcode, len(found.operands)) == (12, "buffer_load_dwordx4", 4)
    assert found.modifiers == {"offen": "", "offset": "16", "sc1": ""}
    packed = parse_instruction("v_pk_fma_f32 v[0:1], v[2:3], s[4:5], v[6:7] op_sel:[0,1,0] neg_lo:[1,0,0]")
    assert packed.modifiers == {"op_sel": "[0,1,0]", "neg_lo": "[1,0,0]"}


def test_waits_and_hardware_registers_are_operands() -> None:
    assert [o.base for o in parse_instruction("s_waitcnt vmcnt(0) & lgkmcnt(3)").operands] == [
        Symbol("vmcnt(0)"),
        Symbol("lgkmcnt(3)"),
    ]
    assert len(parse_instruction("s_setreg_imm32_b32 hwreg(HW_REG_MODE, 4, 2), 3").operands) == 2


@pytest.mark.parametrize("text", ["v_mov_b32 v0 offset:1, v1", "ds_read_b32 v0, v1 offset:1 offset:2"])
def test_malformed(text: str) -> None:
    with pytest.raises(NotEmulated, match="line 3"):
        parse_instruction(text, 3)


def test_program() -> None:
    text = kernel(
        "    v_mov_b32_e32 v1, 0   ; comment\n.L1:\n    s_branch .L1 // other comment", pointers=2, numbers=1
    )
    program = parse_program(text)
    assert [i.opcode for i in program.instructions] == ["v_mov_b32_e32", "s_branch", "s_endpgm"]
    assert program.labels == {"k": 0, ".L1": 1}
    info = program.kernels["k"]
    assert info.directive("user_sgpr_count") == 2
    assert info.directive("not_there", 7) == 7
    assert info.note("max_flat_workgroup_size") == 64
    assert info.arguments == [
        KernelArgument(0, 8, "global_buffer"),
        KernelArgument(8, 8, "global_buffer"),
        KernelArgument(16, 4, "by_value"),
    ]
    assert text.splitlines()[program.instructions[1].line - 1].strip().startswith("s_branch")


def test_data_sections_are_no_code() -> None:
    text = (
        kernel("    s_nop 0")
        + '\n    .section .debug_str,"MS",@progbits,1\n.Linfo:\n    .asciz "v_mov; // x"\n'
    )
    assert [i.opcode for i in parse_program(text).instructions] == ["s_nop", "s_endpgm"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("gfx942", "gfx90a"),
        ("    s_endpgm", "    ??? what"),
        (".amdhsa_user_sgpr_count 2", ".amdhsa_user_sgpr_count two"),
    ],
)
def test_refused(old: str, new: str) -> None:
    text = kernel("    s_nop 0").replace(old, new, 1)
    with pytest.raises(NotEmulated):
        parse_program(text).kernels["k"].directive("user_sgpr_count")
