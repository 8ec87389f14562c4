"""A stand-in for AITER main; see `tests.standins`."""

from enum import Enum

import torch


class ActivationType(Enum):
    No = -1
    Silu = 0


class QuantType(Enum):
    No = 0
    per_Tensor = 1
    per_Token = 2
    per_1x32 = 3


class dtypes:
    fp8 = torch.float8_e4m3fnuz


from aiter.moe_op import ck_moe_stage1_fwd, ck_moe_stage2_fwd, get_hip_quant  # noqa: E402, F401
