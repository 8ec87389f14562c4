"""Kernel names in AITER main's tables: taken apart and put together again.

A table chooses kernels by name. What may be written is what AITER has registered, not whatever the grammar
allows (aiter e4048607a5, aiter/ops/flydsl/moe_kernels.py:162-186): a name that is built here for a table has
to be looked up in that AITER. Parts that a name leaves out have defaults there, which the properties give.
"""

import re
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Protocol, Self

from autotune.errors import UserError
from autotune.problem.layer import Stage
from autotune.space.config import UNSET, Config


class Name(Protocol):
    """A kernel's name, taken apart."""

    @property
    def text(self) -> str:
        """The name."""

    @property
    def stage(self) -> Stage:
        """The GEMM stage that the kernel is for."""


def _flag(value: bool, text: str) -> str:
    return f"_{text}" if value else ""


def _number(value: int | None, text: str) -> str:
    return "" if value is None else f"_{text}{value}"


class _Grammar:
    """Fields from a regular expression's groups: numbers, flags and words."""

    pattern: ClassVar[re.Pattern[str]]
    flags: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """The name's parts; None: it is not of this family."""
        match = cls.pattern.fullmatch(text)
        if match is None:
            return None
        values: dict[str, Any] = {}
        for field in fields(cls):  # type: ignore[arg-type]
            found = match.group(field.name)
            if field.name in cls.flags:
                values[field.name] = found is not None
            else:
                values[field.name] = int(found) if found is not None and found.isdecimal() else found
        return cls(**values)


@dataclass(frozen=True)
class FlydslName(_Grammar):
    """A FlyDSL kernel of one stage, e.g. `flydsl_moe1_abf16_wint4_bf16_t16x64x128_w2_kw4`.

    Optional parts are None where the name leaves them out.

    Attributes:
        a, w, out: dtypes of activations, weights and output.
        mode: `atomic` or `reduce`; stage 2 only.
        waves_per_eu: as hinted; 1 by default in stage 1.
        k_batch: parts of K that are launched together; 1 by default.
        non_temporal: cache hint of weight loads; by default 2 in stage 1, 0 in stage 2.
        xcd: chiplets that neighbouring workgroups are kept on; 0 by default.
        k_wave: waves that share a tile's K; 1 by default.
        quantised: output dtype that the epilogue quantises to, `fp4` or `fp8`.
        sort_block: rows of the sort's block where they are not tile_m.
    """

    number: int
    a: str
    w: str
    out: str
    tile_m: int
    tile_n: int
    tile_k: int
    mode: str | None = None
    waves_per_eu: int | None = None
    k_batch: int | None = None
    non_temporal: int | None = None
    gate_only: bool = False
    interleaved: bool = False
    xcd: int | None = None
    persistent: bool = False
    async_waves: int | None = None
    cumulative: int | None = None
    k_wave: int | None = None
    quantised: str | None = None
    sort_block: int | None = None

    flags: ClassVar[frozenset[str]] = frozenset({"gate_only", "interleaved", "persistent"})
    pattern: ClassVar[re.Pattern[str]] = re.compile(
        r"flydsl_moe(?P<number>[12])_a(?P<a>fp8|fp4|fp16|bf16)_w(?P<w>fp4|fp8|int4)_(?P<out>bf16|f16)"
        r"_t(?P<tile_m>\d+)x(?P<tile_n>\d+)x(?P<tile_k>\d+)(?:_(?P<mode>atomic|reduce))?"
        r"(?:_w(?P<waves_per_eu>\d+))?(?:_kb(?P<k_batch>\d+))?(?:_bnt(?P<non_temporal>\d+))?"
        r"(?P<gate_only>_go)?(?P<interleaved>_gui)?(?:_xcd(?P<xcd>\d+))?(?P<persistent>_persist)?"
        r"(?:_async_w(?P<async_waves>\d+)_cumul(?P<cumulative>\d+))?(?:_kw(?P<k_wave>\d+))?"
        r"(?:_(?P<quantised>fp4|fp8))?(?:_sbm(?P<sort_block>\d+))?"
    )

    @property
    def text(self) -> str:
        return "".join(
            (
                f"flydsl_moe{self.number}_a{self.a}_w{self.w}_{self.out}",
                f"_t{self.tile_m}x{self.tile_n}x{self.tile_k}",
                _flag(self.mode is not None, str(self.mode)),
                _number(self.waves_per_eu, "w"),
                _number(self.k_batch, "kb"),
                _number(self.non_temporal, "bnt"),
                _flag(self.gate_only, "go"),
                _flag(self.interleaved, "gui"),
                _number(self.xcd, "xcd"),
                _flag(self.persistent, "persist"),
                _number(self.async_waves, "async_w"),
                _number(self.cumulative, "cumul"),
                _number(self.k_wave, "kw"),
                _flag(self.quantised is not None, str(self.quantised)),
                _number(self.sort_block, "sbm"),
            )
        )

    @property
    def stage(self) -> Stage:
        return Stage.STAGE1 if self.number == 1 else Stage.STAGE2

    @property
    def cache_hint(self) -> int:
        """The cache hint of weight loads in effect."""
        return self.non_temporal if self.non_temporal is not None else 2 if self.number == 1 else 0


@dataclass(frozen=True)
class LayoutName(_Grammar):
    """A FlyDSL stage-2 kernel for another weight layout, e.g. `flydsl_moe2_layout_afp4_wfp4_bf16_t32x…`."""

    a: str
    w: str
    out: str
    tile_m: int
    tile_n: int
    tile_k: int
    mode: str
    persistent: bool = False
    non_temporal: bool = False
    sort_block: int | None = None
    bf16_lds: bool = False
    split: int | None = None

    flags: ClassVar[frozenset[str]] = frozenset({"persistent", "non_temporal", "bf16_lds"})
    pattern: ClassVar[re.Pattern[str]] = re.compile(
        r"flydsl_moe2_layout_a(?P<a>fp8|fp4)_w(?P<w>fp4|fp8)_(?P<out>bf16|f16)"
        r"_t(?P<tile_m>\d+)x(?P<tile_n>\d+)x(?P<tile_k>\d+)_(?P<mode>atomic|reduce)(?P<persistent>_persist)?"
        r"(?P<non_temporal>_nt)?(?:_sbm(?P<sort_block>\d+))?(?P<bf16_lds>_bf16lds)?(?:_sp(?P<split>\d+))?"
    )

    @property
    def text(self) -> str:
        return "".join(
            (
                f"flydsl_moe2_layout_a{self.a}_w{self.w}_{self.out}",
                f"_t{self.tile_m}x{self.tile_n}x{self.tile_k}_{self.mode}",
                _flag(self.persistent, "persist"),
                _flag(self.non_temporal, "nt"),
                _number(self.sort_block, "sbm"),
                _flag(self.bf16_lds, "bf16lds"),
                _number(self.split, "sp"),
            )
        )

    @property
    def stage(self) -> Stage:
        return Stage.STAGE2


@dataclass(frozen=True)
class MxName(_Grammar):
    """A FlyDSL MXFP4 kernel, e.g. `flydsl_mxmoe_g1_a4w4_16x256x256_f16in_nt`; its flags in their order."""

    number: int
    tile_m: int
    tile_n: int
    tile_k: int
    options: str = ""

    pattern: ClassVar[re.Pattern[str]] = re.compile(
        r"flydsl_mxmoe_g(?P<number>[12])_a4w4_(?P<tile_m>\d+)x(?P<tile_n>\d+)x(?P<tile_k>\d+)"
        r"(?P<options>(?:_(?:nt|f16in|atomic|f4out|cshuffle|FLYDSL|sk\d+|xcd\d+))*)"
    )

    @property
    def text(self) -> str:
        return f"flydsl_mxmoe_g{self.number}_a4w4_{self.tile_m}x{self.tile_n}x{self.tile_k}{self.options}"

    @property
    def stage(self) -> Stage:
        return Stage.STAGE1 if self.number == 1 else Stage.STAGE2


@dataclass(frozen=True)
class CkName(_Grammar):
    """A Composable Kernel instance of one stage: `moe_ck2stages_gemm1_256x32x64x128_1x4_…_silu_F8_I4_B16`.

    Attributes:
        threads: of a workgroup.
        waves_m, waves_n: waves along each side of the tile.
        epilogue: the element-wise operation at the end.
        pipeline: version of the main loop.
        n_swizzle, routed_weight: 0 or 1.
        quant: AITER's number of the quantisation.
        activation: stage 1 only.
        a, b, c: dtypes of activations, weights and output.
    """

    number: int
    threads: int
    tile_m: int
    tile_n: int
    tile_k: int
    waves_m: int
    waves_n: int
    epilogue: str
    pipeline: int
    n_swizzle: int
    quant: int
    routed_weight: int
    activation: str | None
    a: str
    b: str
    c: str

    pattern: ClassVar[re.Pattern[str]] = re.compile(
        r"moe_ck2stages_gemm(?P<number>[12])_(?P<threads>\d+)x(?P<tile_m>\d+)x(?P<tile_n>\d+)x(?P<tile_k>\d+)"
        r"_(?P<waves_m>\d+)x(?P<waves_n>\d+)_(?P<epilogue>[A-Za-z0-9]+)_v(?P<pipeline>\d+)"
        r"_Nswizzle(?P<n_swizzle>[01])_Quant(?P<quant>\d+)_MulRoutedWeight(?P<routed_weight>[01])"
        r"(?:_(?P<activation>silu|gelu|swiglu))?_(?P<a>[A-Z0-9]+)_(?P<b>[A-Z0-9]+)_(?P<c>[A-Z0-9]+)"
    )

    @property
    def text(self) -> str:
        return "".join(
            (
                f"moe_ck2stages_gemm{self.number}_{self.threads}x{self.tile_m}x{self.tile_n}x{self.tile_k}",
                f"_{self.waves_m}x{self.waves_n}_{self.epilogue}_v{self.pipeline}_Nswizzle{self.n_swizzle}",
                f"_Quant{self.quant}_MulRoutedWeight{self.routed_weight}",
                _flag(self.activation is not None, str(self.activation)),
                f"_{self.a}_{self.b}_{self.c}",
            )
        )

    @property
    def stage(self) -> Stage:
        return Stage.STAGE1 if self.number == 1 else Stage.STAGE2


FAMILIES: tuple[type[_Grammar], ...] = (LayoutName, FlydslName, MxName, CkName)

# Kernels that have nothing to choose: assembly, AITER's own other kernels, and "none".
_OPAQUE = ("_ZN", "opus_moe", "cktile_", "grouped_gemm", "swiglu_mxfp4_bf16_cktile", "Null", "nan")


def parse_name(text: str) -> Name | None:
    """A name from a table, taken apart; None: of a kernel without parameters in its name, or of none.

    Raises:
        UserError: a family that this tool does not know, or a new part in one that it does.
    """
    for family in FAMILIES:
        made: Any = family.parse(text)
        if made is not None:
            named: Name = made
            return named
    if not text or text.startswith(_OPAQUE):
        return None
    raise UserError(f"kernel name {text!r} is of no family that this tool knows: use an AITER of August 2026")


def grouped_int4_name(stage: Stage, config: Config) -> FlydslName:
    """The name of a config of FlyDSL's kernels in AITER main for INT4 weights in groups.

    Values that a name leaves out by default are left out.
    """
    tile_m, tile_n, tile_k = (int(str(config[name])) for name in ("tile_m", "tile_n", "tile_k"))
    if stage is Stage.STAGE2:
        return FlydslName(2, "bf16", "int4", "bf16", tile_m, tile_n, tile_k, mode="atomic")
    waves, hint = int(str(config["k_wave"])), config["b_nt"]
    return FlydslName(
        *(1, "bf16", "int4", "bf16", tile_m, tile_n, tile_k),
        non_temporal=None if hint is UNSET else int(str(hint)),
        k_wave=None if waves == 1 else waves,
    )
