"""Scalar instructions: SOP1, SOP2, SOPK, SOPC, and the SOPP ones that do nothing here.

Every function works on unsigned Python integers of the operation's width and returns the result, or the
result and SCC. CDNA3 ISA guide, "SOP2 / SOPK / SOP1 / SOPC instructions". Branches are in `blocks`, scalar
loads in `memory`.
"""

from __future__ import annotations

from collections.abc import Callable

from autotune.emulate.decoded import Decoded, Modifiers, expect, plain, touched
from autotune.emulate.errors import NotEmulated
from autotune.emulate.parser import Imm, Instruction, Operand
from autotune.emulate.registers import FULL, MASK32, Wave
from autotune.emulate.scalar_operands import getter, putter, signed


def _bits_reversed(value: int, bits: int) -> int:
    return int(f"{value:0{bits}b}"[::-1], 2)


def _first_bit(value: int) -> int:
    return (value & -value).bit_length() - 1  # -1 for 0, as the guide says


def _leading_zeros(value: int, bits: int) -> int:
    return bits - value.bit_length() if value else -1


def _leading_signs(value: int, bits: int) -> int:
    number = signed(value, bits)
    magnitude = ~number if number < 0 else number
    return -1 if magnitude == 0 else bits - magnitude.bit_length()


def _field(a: int, b: int, bits: int, is_signed: bool) -> int:
    """S_BFE: offset in b[4:0] (b[5:0] for 64 bits), width in b[22:16]."""
    width = b >> 16 & 0x7F
    number = signed(a, bits) if is_signed else a
    value = number >> (b & (bits - 1)) & ((1 << width) - 1)
    return signed(value, width) if is_signed and width else value


def _add(a: int, b: int, carry: int = 0) -> tuple[int, int]:
    total = a + b + carry
    return total, total >> 32 & 1


def _sub(a: int, b: int, borrow: int = 0) -> tuple[int, int]:
    return a - b - borrow, int(a < b + borrow)


def _signed_overflow(total: int) -> tuple[int, int]:
    return total, int(not -(1 << 31) <= total < 1 << 31)


def _nonzero(bits: int) -> Callable[[int], tuple[int, int]]:
    mask = (1 << bits) - 1
    return lambda value: (value, int(value & mask != 0))


def _lshl_add(shift: int) -> Callable[[int, int], tuple[int, int]]:
    def run(a: int, b: int) -> tuple[int, int]:
        total = (a << shift) + b
        return total, int(total > MASK32)

    return run


_NZ = {32: _nonzero(32), 64: _nonzero(64)}

# Name: (destination bits, source bits, function); the function returns (result, SCC).
SCC2: dict[str, tuple[int, tuple[int, int], Callable[[int, int], tuple[int, int]]]] = {
    "s_add_u32": (32, (32, 32), _add),
    "s_sub_u32": (32, (32, 32), _sub),
    "s_add_i32": (32, (32, 32), lambda a, b: _signed_overflow(signed(a) + signed(b))),
    "s_sub_i32": (32, (32, 32), lambda a, b: _signed_overflow(signed(a) - signed(b))),
    "s_min_i32": (32, (32, 32), lambda a, b: (min(signed(a), signed(b)), int(signed(a) < signed(b)))),
    "s_max_i32": (32, (32, 32), lambda a, b: (max(signed(a), signed(b)), int(signed(a) >= signed(b)))),
    "s_min_u32": (32, (32, 32), lambda a, b: (min(a, b), int(a < b))),
    "s_max_u32": (32, (32, 32), lambda a, b: (max(a, b), int(a >= b))),
    "s_absdiff_i32": (32, (32, 32), lambda a, b: _NZ[32](abs(signed(a) - signed(b)))),
    "s_bfe_u32": (32, (32, 32), lambda a, b: _NZ[32](_field(a, b, 32, False))),
    "s_bfe_i32": (32, (32, 32), lambda a, b: _NZ[32](_field(a, b, 32, True))),
    "s_bfe_u64": (64, (64, 32), lambda a, b: _NZ[64](_field(a, b, 64, False))),
    "s_bfe_i64": (64, (64, 32), lambda a, b: _NZ[64](_field(a, b, 64, True))),
    **{f"s_lshl{n}_add_u32": (32, (32, 32), _lshl_add(n)) for n in (1, 2, 3, 4)},
}


def _by_width(bits: int) -> dict[str, tuple[int, tuple[int, int], Callable[[int, int], tuple[int, int]]]]:
    """Bitwise operations and shifts, which exist for 32 and for 64 bits."""
    nonzero, low, pair, shift = _NZ[bits], bits - 1, (bits, bits), (bits, 32)
    return {
        f"s_and_b{bits}": (bits, pair, lambda a, b: nonzero(a & b)),
        f"s_or_b{bits}": (bits, pair, lambda a, b: nonzero(a | b)),
        f"s_xor_b{bits}": (bits, pair, lambda a, b: nonzero(a ^ b)),
        f"s_andn2_b{bits}": (bits, pair, lambda a, b: nonzero(a & ~b)),
        f"s_orn2_b{bits}": (bits, pair, lambda a, b: nonzero(a | ~b)),
        f"s_nand_b{bits}": (bits, pair, lambda a, b: nonzero(~(a & b))),
        f"s_nor_b{bits}": (bits, pair, lambda a, b: nonzero(~(a | b))),
        f"s_xnor_b{bits}": (bits, pair, lambda a, b: nonzero(~(a ^ b))),
        f"s_lshl_b{bits}": (bits, shift, lambda a, b: nonzero(a << (b & low))),
        f"s_lshr_b{bits}": (bits, shift, lambda a, b: nonzero(a >> (b & low))),
        f"s_ashr_i{bits}": (bits, shift, lambda a, b: nonzero(signed(a, bits) >> (b & low))),
    }


SCC2 |= _by_width(32) | _by_width(64)

# These leave SCC alone.
PLAIN2: dict[str, tuple[int, tuple[int, int], Callable[[int, int], int]]] = {
    "s_mul_i32": (32, (32, 32), lambda a, b: a * b),
    "s_mul_hi_u32": (32, (32, 32), lambda a, b: a * b >> 32),
    "s_mul_hi_i32": (32, (32, 32), lambda a, b: signed(a) * signed(b) >> 32),
    "s_bfm_b32": (32, (32, 32), lambda a, b: ((1 << (a & 31)) - 1) << (b & 31)),
    "s_bfm_b64": (64, (32, 32), lambda a, b: ((1 << (a & 63)) - 1) << (b & 63)),
    "s_pack_ll_b32_b16": (32, (32, 32), lambda a, b: a & 0xFFFF | (b & 0xFFFF) << 16),
    "s_pack_lh_b32_b16": (32, (32, 32), lambda a, b: a & 0xFFFF | b & 0xFFFF_0000),
    "s_pack_hh_b32_b16": (32, (32, 32), lambda a, b: a >> 16 | b & 0xFFFF_0000),
}

PLAIN1: dict[str, tuple[int, int, Callable[[int], int]]] = {
    "s_mov_b32": (32, 32, lambda a: a),
    "s_mov_b64": (64, 64, lambda a: a),
    "s_brev_b32": (32, 32, lambda a: _bits_reversed(a, 32)),
    "s_brev_b64": (64, 64, lambda a: _bits_reversed(a, 64)),
    "s_sext_i32_i8": (32, 32, lambda a: signed(a & 0xFF, 8)),
    "s_sext_i32_i16": (32, 32, lambda a: signed(a & 0xFFFF, 16)),
    "s_ff1_i32_b32": (32, 32, _first_bit),
    "s_ff1_i32_b64": (32, 64, _first_bit),
    "s_flbit_i32_b32": (32, 32, lambda a: _leading_zeros(a, 32)),
    "s_flbit_i32_b64": (32, 64, lambda a: _leading_zeros(a, 64)),
    "s_flbit_i32": (32, 32, lambda a: _leading_signs(a, 32)),
    "s_flbit_i32_i64": (32, 64, lambda a: _leading_signs(a, 64)),
}

SCC1: dict[str, tuple[int, int, Callable[[int], tuple[int, int]]]] = {
    "s_not_b32": (32, 32, lambda a: _NZ[32](~a)),
    "s_not_b64": (64, 64, lambda a: _NZ[64](~a)),
    "s_abs_i32": (32, 32, lambda a: _NZ[32](abs(signed(a)))),
    "s_bcnt1_i32_b32": (32, 32, lambda a: _NZ[32](a.bit_count())),
    "s_bcnt1_i32_b64": (32, 64, lambda a: _NZ[32](a.bit_count())),
    "s_bcnt0_i32_b32": (32, 32, lambda a: _NZ[32](32 - a.bit_count())),
    "s_bcnt0_i32_b64": (32, 64, lambda a: _NZ[32](64 - a.bit_count())),
    "s_wqm_b64": (64, 64, lambda a: _NZ[64](sum(0xF << 4 * i for i in range(16) if a >> 4 * i & 0xF))),
}

RELATIONS: dict[str, Callable[[int, int], bool]] = {
    "eq": lambda a, b: a == b, "lg": lambda a, b: a != b, "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b, "lt": lambda a, b: a < b, "le": lambda a, b: a <= b,
}  # fmt: skip

# S_<op>_SAVEEXEC_B64: D = EXEC; EXEC = op(S0, EXEC); SCC = (EXEC != 0).
SAVEEXEC: dict[str, Callable[[int, int], int]] = {
    "s_and_saveexec_b64": lambda s, e: s & e,
    "s_or_saveexec_b64": lambda s, e: s | e,
    "s_xor_saveexec_b64": lambda s, e: s ^ e,
    "s_andn2_saveexec_b64": lambda s, e: s & ~e,
    "s_orn2_saveexec_b64": lambda s, e: s | ~e,
    "s_andn1_saveexec_b64": lambda s, e: ~s & e,
    "s_orn1_saveexec_b64": lambda s, e: ~s | e,
}

# Scheduling and cache control: they cannot change a value in a model that runs memory operations in program
# order.
NOTHING = frozenset(
    [
        "s_nop",
        "s_sleep",
        "s_setprio",
        "s_dcache_wb",
        "s_dcache_inv",
        "s_dcache_wb_vol",
        "s_dcache_inv_vol",
        "s_icache_inv",
        "s_ttracedata",
    ]
)


def decode_scalar(instruction: Instruction) -> Decoded | None:
    """Binds a scalar ALU instruction; None if the opcode is not one of them."""
    name, operands = instruction.opcode, instruction.operands
    Modifiers(instruction).finish()
    if name in NOTHING:
        return Decoded(lambda wave: None, "other")
    if name in SCC2:
        expect(instruction, 3)
        width, sources, combine = SCC2[name]
        a, b, put = (
            getter(operands[1], sources[0]),
            getter(operands[2], sources[1]),
            putter(operands[0], width),
        )

        def run_scc2(wave: Wave) -> None:
            value, wave.scc = combine(a(wave), b(wave))
            put(wave, value)

        return _scalar(run_scc2, operands[1:], operands[:1])
    if name in PLAIN2:
        expect(instruction, 3)
        width, sources, plain2 = PLAIN2[name]
        a, b, put = (
            getter(operands[1], sources[0]),
            getter(operands[2], sources[1]),
            putter(operands[0], width),
        )
        return _scalar(lambda wave: put(wave, plain2(a(wave), b(wave))), operands[1:], operands[:1])
    if name in PLAIN1:
        expect(instruction, 2)
        width, source, plain1 = PLAIN1[name]
        a, put = getter(operands[1], source), putter(operands[0], width)
        return _scalar(lambda wave: put(wave, plain1(a(wave))), operands[1:], operands[:1])
    if name in SCC1:
        expect(instruction, 2)
        width, source, scc1 = SCC1[name]
        a, put = getter(operands[1], source), putter(operands[0], width)

        def run_scc1(wave: Wave) -> None:
            value, wave.scc = scc1(a(wave))
            put(wave, value)

        return _scalar(run_scc1, operands[1:], operands[:1])
    return _decode_flags(instruction) or _decode_immediate(instruction)


def _scalar(run: Callable[[Wave], None], reads: tuple[Operand, ...], writes: tuple[Operand, ...]) -> Decoded:
    return Decoded(run, "salu", touched(*reads), touched(*writes))


def _decode_flags(instruction: Instruction) -> Decoded | None:
    """Instructions that read SCC, compare into SCC, or exchange EXEC."""
    name, operands = instruction.opcode, instruction.operands
    if name in {"s_addc_u32", "s_subb_u32"}:
        expect(instruction, 3)
        combine = _add if name == "s_addc_u32" else _sub
        a, b, put = getter(operands[1], 32), getter(operands[2], 32), putter(operands[0], 32)

        def run_carry(wave: Wave) -> None:
            value, wave.scc = combine(a(wave), b(wave), wave.scc)
            put(wave, value)

        return _scalar(run_carry, operands[1:], operands[:1])
    if name in {"s_cselect_b32", "s_cselect_b64"}:
        expect(instruction, 3)
        bits = int(name[-2:])
        a, b, put = getter(operands[1], bits), getter(operands[2], bits), putter(operands[0], bits)
        return _scalar(lambda wave: put(wave, a(wave) if wave.scc else b(wave)), operands[1:], operands[:1])
    if name in {"s_cmov_b32", "s_cmov_b64"}:
        expect(instruction, 2)
        bits = int(name[-2:])
        a, put = getter(operands[1], bits), putter(operands[0], bits)
        old = getter(operands[0], bits)
        return _scalar(lambda wave: put(wave, a(wave) if wave.scc else old(wave)), operands, operands[:1])
    if name in SAVEEXEC:
        expect(instruction, 2)
        source, put, exchange = getter(operands[1], 64), putter(operands[0], 64), SAVEEXEC[name]

        def run_exchange(wave: Wave) -> None:
            before = wave.exec
            after = exchange(source(wave), before) & FULL
            put(wave, before)
            wave.set_exec(after)
            wave.scc = int(after != 0)

        return _scalar(run_exchange, operands[1:], operands[:1])
    if name in {"s_bitcmp0_b32", "s_bitcmp1_b32", "s_bitcmp0_b64", "s_bitcmp1_b64"}:
        expect(instruction, 2)
        bits, wanted = int(name[-2:]), int(name[8])
        a, b = getter(operands[0], bits), getter(operands[1], 32)

        def run_bit(wave: Wave) -> None:
            wave.scc = int(a(wave) >> (b(wave) & (bits - 1)) & 1 == wanted)

        return _scalar(run_bit, operands, ())
    if name in {"s_bitset0_b32", "s_bitset1_b32"}:
        expect(instruction, 2)
        a, old, put, wanted = (
            getter(operands[1], 32),
            getter(operands[0], 32),
            putter(operands[0], 32),
            int(name[8]),
        )

        def run_set(wave: Wave) -> None:
            bit = 1 << (a(wave) & 31)
            put(wave, old(wave) | bit if wanted else old(wave) & ~bit)

        return _scalar(run_set, operands, operands[:1])
    parts = name.split("_")
    if len(parts) == 4 and parts[1] == "cmp" and parts[2] in RELATIONS and parts[3] in {"i32", "u32", "u64"}:
        expect(instruction, 2)
        bits = int(parts[3][1:])
        relation, is_signed = RELATIONS[parts[2]], parts[3][0] == "i"
        a, b = getter(operands[0], bits), getter(operands[1], bits)

        def run_compare(wave: Wave) -> None:
            x, y = a(wave), b(wave)
            wave.scc = int(relation(signed(x), signed(y)) if is_signed else relation(x, y))

        return _scalar(run_compare, operands, ())
    return None


def _decode_immediate(instruction: Instruction) -> Decoded | None:
    """SOPK: the second operand is a 16-bit immediate, sign-extended except for the unsigned comparisons."""
    name, operands = instruction.opcode, instruction.operands
    parts = name.split("_")
    compare = len(parts) == 4 and parts[1] == "cmpk" and parts[2] in RELATIONS and parts[3] in {"i32", "u32"}
    if not compare and name not in {"s_movk_i32", "s_cmovk_i32", "s_addk_i32", "s_mulk_i32"}:
        return None
    expect(instruction, 2)
    base = plain(operands[1])
    if not isinstance(base, Imm) or not isinstance(base.value, int) or not -0x8000 <= base.value <= 0xFFFF:
        raise NotEmulated(f"{base} is no 16-bit immediate")
    raw = base.value & 0xFFFF
    value = raw if compare and parts[3] == "u32" else signed(raw, 16)
    old, put = getter(operands[0], 32), putter(operands[0], 32)
    if compare:
        relation, is_signed = RELATIONS[parts[2]], parts[3] == "i32"

        def run_compare(wave: Wave) -> None:
            left = old(wave)
            wave.scc = int(relation(signed(left) if is_signed else left, value))

        return _scalar(run_compare, operands[:1], ())

    def run(wave: Wave) -> None:
        if name == "s_movk_i32" or (name == "s_cmovk_i32" and wave.scc):
            put(wave, value)
        elif name == "s_addk_i32":
            total, wave.scc = _signed_overflow(signed(old(wave)) + value)
            put(wave, total)
        elif name == "s_mulk_i32":
            put(wave, old(wave) * value)

    return _scalar(run, () if name == "s_movk_i32" else operands[:1], operands[:1])
