"""Assembly text of gfx942, as LLVM prints it, into typed instructions and kernel descriptors.

Only syntax is judged here. What an opcode means, and whether its operands fit, is decided by `decode`.
Source of the syntax: LLVM's AMDGPU operand and modifier syntax, code object V5 directives.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from autotune.emulate.errors import NotEmulated

RegisterFile = Literal["v", "a", "s"]

# Scalar operand encodings that have names (CDNA3 ISA guide, scalar source operand table).
VCC, M0, EXEC = 106, 124, 126
_NAMED_SCALARS: dict[str, tuple[int, int]] = {
    "vcc": (VCC, 2), "vcc_lo": (VCC, 1), "vcc_hi": (VCC + 1, 1),
    "exec": (EXEC, 2), "exec_lo": (EXEC, 1), "exec_hi": (EXEC + 1, 1),
    "m0": (M0, 1),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reg:
    """`count` consecutive registers of one file, e.g. `v[2:3]` is `Reg("v", 2, 2)` and `vcc` is `Reg("s",
    106, 2)`.
    """

    file: RegisterFile
    index: int
    count: int


@dataclass(frozen=True, slots=True, eq=False)
class Imm:
    """An integer or floating-point constant; a float's bits depend on the width of the operand it stands for.

    1 and 1.0 are different constants, though Python calls them equal.
    """

    value: int | float

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Imm) and repr(self.value) == repr(other.value)

    def __hash__(self) -> int:
        return hash(repr(self.value))


@dataclass(frozen=True, slots=True)
class Symbol:
    """A label, `off`, `hwreg(...)`, `vmcnt(0)` and the like, kept as text."""

    name: str


@dataclass(frozen=True, slots=True)
class Operand:
    """One operand with the source modifiers written around it."""

    base: Reg | Imm | Symbol
    neg: bool = False
    abs: bool = False
    sext: bool = False


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction.

    Attributes:
        line: 1-based line in the text.
        text: as written, without comment.
        opcode: mnemonic with its encoding suffix.
        operands: in written order.
        modifiers: `offset:16` is `{"offset": "16"}`, a bare flag such as `offen` maps to `""`.
    """

    line: int
    text: str
    opcode: str
    operands: tuple[Operand, ...]
    modifiers: dict[str, str]


@dataclass(frozen=True, slots=True)
class KernelArgument:
    """One entry of `.args` in the metadata: byte offset and size in the kernarg segment, and the value
    kind.
    """

    offset: int
    size: int
    kind: str


@dataclass(slots=True)
class KernelInfo:
    """What `.amdhsa_*` directives and the metadata note say of one kernel."""

    name: str
    directives: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    arguments: list[KernelArgument] = field(default_factory=list)

    def directive(self, name: str, default: int = 0) -> int:
        """Value of `.amdhsa_<name>`.

        Raises:
            NotEmulated: the directive is there but is no plain integer.
        """
        text = self.directives.get(name)
        if text is None:
            return default
        try:
            return int(text, 0)
        except ValueError:
            raise NotEmulated(f".amdhsa_{name} {text} is no integer") from None

    def note(self, name: str, default: int = 0) -> int:
        """Integer value of key `.name` in the metadata note."""
        return int(self.metadata.get(name, default))


@dataclass(slots=True)
class Program:
    """All instructions of a text section with their labels, and the kernels that it defines."""

    instructions: list[Instruction]
    labels: dict[str, int]
    kernels: dict[str, KernelInfo]


_LABEL = re.compile(r"^([\w.$@]+):$")
_REGISTER = re.compile(r"^([vas])(\d+)$|^([vas])\[(\d+)(?::(\d+))?\]$")
_INTEGER = re.compile(r"^-?(0x[0-9a-fA-F]+|\d+)$")
_FLOAT = re.compile(r"^-?\d+\.\d*(e[+-]?\d+)?$")
_MODIFIER = re.compile(r"^([a-z_0-9]+):(\[[^\]]*\]|swizzle\(.*\)|[\w.+-]+)$")
_FLAGS = frozenset(
    [
        "off",
        "offen",
        "idxen",
        "addr64",
        "glc",
        "slc",
        "sc0",
        "sc1",
        "nt",
        "lds",
        "gds",
        "clamp",
        "row_mirror",
        "row_half_mirror",
        "high",
    ]
) - {"off"}
_INSTRUCTION = re.compile(r"^(s|v|ds|global|flat|scratch|buffer|tbuffer|image|exp)_\w+")


@lru_cache(maxsize=8192)
def parse_operand(text: str) -> Operand:
    """Parses one operand, e.g. `v[2:3]`, `-|s4|`, `sext(v1)`, `0x7fff`, `1.0`, `.LBB0_2`."""
    neg = absolute = sext = False
    body = text
    if body.startswith("neg(") and body.endswith(")"):
        neg, body = True, body[4:-1]
    elif body.startswith("-") and body[1:2] in "vas|" and len(body) > 1:
        neg, body = True, body[1:]
    if body.startswith("|") and body.endswith("|"):
        absolute, body = True, body[1:-1]
    elif body.startswith("abs(") and body.endswith(")"):
        absolute, body = True, body[4:-1]
    if body.startswith("sext(") and body.endswith(")"):
        sext, body = True, body[5:-1]
    return Operand(_parse_base(body), neg, absolute, sext)


def _parse_base(text: str) -> Reg | Imm | Symbol:
    if text in _NAMED_SCALARS:
        return Reg("s", *_NAMED_SCALARS[text])
    match = _REGISTER.match(text)
    if match:
        file: RegisterFile = match[1] or match[3]  # type: ignore[assignment]
        if match[1]:
            return Reg(file, int(match[2]), 1)
        first = int(match[4])
        last = int(match[5]) if match[5] else first
        return Reg(file, first, last - first + 1)
    if _INTEGER.match(text):
        return Imm(int(text, 0))
    if _FLOAT.match(text):
        return Imm(float(text))
    return Symbol(text)


def _split(text: str) -> list[str]:
    """Splits at commas and blanks that are outside of brackets; a comma leaves a "," token behind."""
    tokens: list[str] = []
    current = ""
    depth = 0
    for char in text:
        if char in "[(":
            depth += 1
        elif char in "])":
            depth -= 1
        if depth == 0 and char in ", \t":
            if current:
                tokens.append(current)
                current = ""
            if char == ",":
                tokens.append(",")
        elif char not in " \t" or depth == 0:
            current += char
    if current:
        tokens.append(current)
    return tokens


def parse_instruction(text: str, line: int = 1) -> Instruction:
    """Parses one instruction without comment.

    Raises:
        NotEmulated: not of the form "opcode operands modifiers".
    """
    opcode, _, rest = text.strip().partition(" ")
    operands: list[Operand] = []
    modifiers: dict[str, str] = {}
    for token in _split(rest.strip()):
        if token in {",", "&"}:
            continue
        match = _MODIFIER.match(token)
        if match:
            key, value = match[1], match[2]
        elif token in _FLAGS:
            key, value = token, ""
        else:
            if modifiers:
                raise NotEmulated(f"operand {token} after modifiers", line, text.strip())
            operands.append(parse_operand(token))
            continue
        if key in modifiers:
            raise NotEmulated(f"modifier {key} twice", line, text.strip())
        modifiers[key] = value
    return Instruction(line, " ".join(text.split()), opcode, tuple(operands), modifiers)


def parse_program(text: str) -> Program:
    """Parses the whole assembly text.

    Args:
        text: what the compiler printed for gfx942 (`.asm["amdgcn"]`, `*final_isa.s`).

    Raises:
        NotEmulated: another target, or a line in a text section that is neither label, directive nor
            instruction.
    """
    program = Program([], {}, {})
    in_text, in_metadata = True, False
    kernel: KernelInfo | None = None
    metadata: list[str] = []
    for number, raw in enumerate(text.splitlines(), 1):
        if in_metadata:
            if raw.strip() == ".end_amdgpu_metadata":
                in_metadata = False
            else:
                metadata.append(raw)
            continue
        body = raw.split(";", 1)[0].split("//", 1)[0].strip() if not raw.lstrip().startswith(".asci") else ""
        if not body:
            continue
        label = _LABEL.match(body)
        if label:
            program.labels[label[1]] = len(program.instructions)
        elif body.startswith("."):
            word, _, rest = body.partition(" ") if " " in body else body.partition("\t")
            rest = rest.strip()
            if word == ".amdgcn_target" and "gfx942" not in rest and "amdgpu9.42" not in rest:
                raise NotEmulated(f"target {rest}, only gfx942 is emulated", number, body)
            if word == ".amdgpu_metadata":
                in_metadata = True
            elif word == ".amdhsa_kernel":
                kernel = program.kernels.setdefault(rest, KernelInfo(rest))
            elif word == ".end_amdhsa_kernel":
                kernel = None
            elif word.startswith(".amdhsa_") and kernel is not None:
                kernel.directives[word.removeprefix(".amdhsa_")] = rest
            elif word == ".text":
                in_text = True
            elif word in {".section", ".data", ".bss"}:
                in_text = rest.startswith(".text")
        elif in_text:
            if not _INSTRUCTION.match(body):
                raise NotEmulated("not an instruction", number, body)
            program.instructions.append(parse_instruction(body, number))
    _read_metadata(metadata, program)
    return program


def _read_metadata(lines: list[str], program: Program) -> None:
    """Reads the part of the YAML note that a launch needs; LLVM prints it in one fixed block style."""
    entries: list[tuple[dict[str, str], list[dict[str, str]]]] = []
    base = -1  # indent of "- " that opens a kernel
    in_kernels = in_args = False
    for raw in lines:
        stripped = raw.strip()
        indent = len(raw) - len(raw.lstrip())
        if not raw.startswith(" "):
            in_kernels = stripped == "amdhsa.kernels:"
            continue
        if not in_kernels:
            continue
        item = stripped.startswith("- ")
        if item and (base < 0 or indent == base):
            base = indent
            entries.append(({}, []))
            in_args = False
        elif item and in_args:
            entries[-1][1].append({})
        key, _, value = stripped.removeprefix("- ").partition(":")
        depth = indent + 2 if item else indent
        values, arguments = entries[-1]
        if depth == base + 2:
            in_args = key == ".args"
            values[key.removeprefix(".")] = value.strip().strip("'\"")
        elif in_args and arguments:
            arguments[-1][key.removeprefix(".")] = value.strip()
    for values, arguments in entries:
        name = values.get("name", "")
        if name not in program.kernels:
            continue
        info = program.kernels[name]
        info.metadata = values
        info.arguments = [
            KernelArgument(int(a["offset"]), int(a["size"]), a["value_kind"]) for a in arguments
        ]
