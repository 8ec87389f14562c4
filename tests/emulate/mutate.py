"""Mutations of compiled kernels: what a checker of machine code must notice.

Each function yields (what was changed, the mutated text). Lines keep their numbers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

Mutants = Iterator[tuple[str, str]]

_SIGNS = [
    (r"\bv_bfe_i32\b", "v_bfe_u32"),
    (r"\bv_ashrrev_i16", "v_lshrrev_b16"),
    (r"\bv_pk_ashrrev_i16", "v_pk_lshrrev_b16"),
    # A shift by 31 makes the high half of an index, which is never negative: no mutant could show.
    (r"\bv_ashrrev_i32(?=\S* v\d+, (?!31,))", "v_lshrrev_b32"),
    (r"\b(global|buffer)_load_sbyte", r"\1_load_ubyte"),
    (r"\bsext\((v\d+)\)", r"\1"),
    (r"\bv_cvt_f32_i32", "v_cvt_f32_u32"),
]


def _replaced(text: str, pattern: str, change: Callable[[re.Match[str]], str | None]) -> Mutants:
    """Changes one matching instruction line at a time; None means that it cannot be changed."""
    lines = text.split("\n")
    for i, line in enumerate(lines):
        code = line.split(";")[0]
        match = re.search(pattern, code)
        if not match or not line.startswith("\t") or code.lstrip().startswith("."):
            continue
        new = change(match)
        if new is None:
            continue
        mutated = code[: match.start()] + new + code[match.end() :]
        yield (
            f"line {i + 1}: {code.strip()} -> {mutated.strip()}",
            "\n".join([*lines[:i], mutated, *lines[i + 1 :]]),
        )


def barriers(text: str) -> Mutants:
    """Each barrier removed in turn."""
    yield from _replaced(text, r"\bs_barrier\b", lambda m: "s_nop 0")


def waits(text: str) -> Mutants:
    """Each wait removed in turn."""
    yield from _replaced(text, r"\bs_waitcnt\b.*", lambda m: "s_nop 0")


def sign_extensions(text: str) -> Mutants:
    """Each sign extension turned into a zero extension."""
    for pattern, replacement in _SIGNS:
        yield from _replaced(text, pattern, lambda m, r=replacement: m.expand(r))


def shifted_tiles(text: str) -> Mutants:
    """Each LDS access moved by one 16-byte chunk."""

    def move(match: re.Match[str]) -> str:
        body = match[0]
        if "offset:" in body:
            return re.sub(r"offset:(\d+)", lambda m: f"offset:{int(m[1]) ^ 16}", body)
        if re.search(r"offset[01]:", body):
            return re.sub(r"(offset[01]):(\d+)", lambda m: f"{m[1]}:{int(m[2]) ^ 2}", body, count=1)
        return (
            body.rstrip() + " offset:16"
            if "2st64" not in body and "2_" not in body
            else body.rstrip() + " offset0:2"
        )

    yield from _replaced(text, r"\bds_(read|write).*", move)


def shifted_loads(text: str) -> Mutants:
    """Each load from global memory moved by one element: a wrong scale row, a shifted weight or
    activation.
    """

    def move(match: re.Match[str]) -> str:
        body, step = match[0].rstrip(), 4 if "dword" in match[0] else 1
        if "offset:" in body:
            return re.sub(r"offset:(-?\d+)", lambda m: f"offset:{int(m[1]) + step}", body)
        return f"{body} offset:{step}"

    yield from _replaced(text, r"\b(global|buffer)_load_.*", move)


CLASSES: dict[str, Callable[[str], Mutants]] = {
    "barrier removed": barriers,
    "wait removed": waits,
    "sign extension": sign_extensions,
    "shifted tile": shifted_tiles,
    "wrong row": shifted_loads,
}
