"""A stand-in for AITER's published generation; see `tests.standins`."""

from enum import Enum


class ActivationType(Enum):
    No = -1
    Silu = 0


class QuantType(Enum):
    No = 0
    per_Tensor = 1
    per_Token = 2
