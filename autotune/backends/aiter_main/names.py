"""Kernel names in AITER main's tables: what a row chooses by.

What may be written is what AITER has registered, not whatever the grammar allows (aiter e4048607a5,
aiter/ops/flydsl/moe_kernels.py:162-186): a name that is built here has to be looked up in that AITER.
"""

import re
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from autotune.problem.layer import Stage
from autotune.space.config import UNSET, Config


@dataclass(frozen=True)
class CkName:
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

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """The name's parts; None: it is not of this family."""
        match = cls.pattern.fullmatch(text)
        if match is None:
            return None
        parts: dict[str, Any] = {
            part: int(value) if value is not None and value.isdecimal() else value
            for part, value in match.groupdict().items()
        }
        return cls(**parts)

    @property
    def text(self) -> str:
        """The name."""
        return "".join(
            (
                f"moe_ck2stages_gemm{self.number}_{self.threads}x{self.tile_m}x{self.tile_n}x{self.tile_k}",
                f"_{self.waves_m}x{self.waves_n}_{self.epilogue}_v{self.pipeline}_Nswizzle{self.n_swizzle}",
                f"_Quant{self.quant}_MulRoutedWeight{self.routed_weight}",
                f"_{self.activation}" if self.activation else "",
                f"_{self.a}_{self.b}_{self.c}",
            )
        )

    @property
    def stage(self) -> Stage:
        """The GEMM stage that the kernel is for."""
        return Stage.STAGE1 if self.number == 1 else Stage.STAGE2


def grouped_int4_name(stage: Stage, config: Config) -> str:
    """The name of a config of FlyDSL's kernels in AITER main for INT4 weights in groups.

    Values that a name leaves out by default are left out.
    """
    tile = f"t{config['tile_m']}x{config['tile_n']}x{config['tile_k']}"
    if stage is Stage.STAGE2:
        return f"flydsl_moe2_abf16_wint4_bf16_{tile}_atomic"
    hint = "" if config["b_nt"] is UNSET else f"_bnt{config['b_nt']}"
    waves = "" if config["k_wave"] == 1 else f"_kw{config['k_wave']}"
    return f"flydsl_moe1_abf16_wint4_bf16_{tile}{hint}{waves}"
