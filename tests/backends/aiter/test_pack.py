"""The layout of FlyDSL's weights, against the address of each weight."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autotune.backends.aiter.pack import flydsl_weights
from autotune.errors import UserError
from autotune.kernels.layout import pack_int4


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_every_weight_lies_where_the_kernel_looks(experts: int, n16: int, k64: int, seed: int) -> None:
    n, k = 16 * n16, 64 * k64
    values = torch.randint(-8, 8, (experts, n, k), generator=torch.Generator().manual_seed(seed))
    bytes_ = flydsl_weights(pack_int4(values)).flatten().tolist()
    for row, column in [(0, 0), (n - 1, k - 1), (n // 2, k // 3), (1, 4), (15, 63), (3, 12)]:
        for expert in range(experts):
            line = expert * n + row
            at = line // 16 * (k // 64 * 512) + column // 64 * 512 + column % 64 // 16 * 128
            at += line % 16 * 8 + column % 16 // 8 * 4 + column % 4
            nibble = bytes_[at] >> 4 if column % 8 >= 4 else (bytes_[at] + 8 & 15) - 8
            assert nibble == values[expert, row, column]


def test_odd_sizes_are_refused() -> None:
    with pytest.raises(UserError, match="choose another --tp"):
        flydsl_weights(torch.zeros((1, 24, 32), dtype=torch.int8))
