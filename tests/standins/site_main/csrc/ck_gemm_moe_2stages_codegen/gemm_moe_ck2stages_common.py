"""Lists instances by name as the generator does; asks for the GPU when it is imported by itself."""

import sys
from dataclasses import dataclass

sys.path.insert(0, "/nowhere")

from chip_info import get_gfx


@dataclass
class Instance:
    stage: int
    m: int
    n: int

    @property
    def name(self):
        operation, weighted, act = (
            ("MulABScaleWint4", 0, "_silu") if self.stage == 1 else ("MulABScaleExpertWeightWin4", 1, "")
        )
        return (
            f"moe_ck2stages_gemm{self.stage}_256x{self.m}x{self.n}x128_1x4_{operation}_v1_Nswizzle0_Quant2"
            f"_MulRoutedWeight{weighted}{act}_F8_I4_B16"
        )


def _instances(stage, n):
    assert get_gfx() == "gfx942"
    return "a8w4", {i: Instance(stage, m, n) for i, m in enumerate((32, 64, 128, 256))}


def get_gemm1_kernels_list(a, b, c, swizzle, quant, act, weighted, preshuffle=False, splitk=False):
    assert (a, b, c, quant, act, weighted) == ("F8", "I4", "B16", 2, "silu", False)
    return _instances(1, 64)


def get_gemm2_kernels_list(a, b, c, swizzle, quant, weighted, preshuffle=False):
    assert (a, b, c, quant, weighted) == ("F8", "I4", "B16", 2, True)
    return _instances(2, 128)
