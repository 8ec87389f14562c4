"""INT4 packing: what goes in comes out, and two ANDs and a shift of the sum give the exact dot product."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autotune.errors import UserError
from autotune.kernels.layout import pack_int4, unpack_int4

rows = st.integers(1, 16).flatmap(
    lambda half: st.lists(
        st.lists(st.integers(-8, 7), min_size=2 * half, max_size=2 * half), min_size=1, max_size=4
    )
)


@given(rows)
def test_unpacking_gives_back_what_was_packed(values: list[list[int]]) -> None:
    weights = torch.tensor(values)
    packed = pack_int4(weights)
    assert packed.dtype == torch.int8
    assert packed.shape == (*weights.shape[:-1], weights.shape[-1] // 2)
    assert torch.equal(unpack_int4(packed).long(), weights)
    assert torch.equal(unpack_int4(packed.view(torch.uint8)).long(), weights)


@given(rows, st.randoms())
def test_the_dot_product_needs_two_ands_and_one_row_sum(values: list[list[int]], random) -> None:
    weights = torch.tensor(values)
    half = weights.shape[-1] // 2
    a = torch.tensor([random.randint(-127, 127) for _ in range(2 * half)])
    byte = pack_int4(weights)
    low = (byte & 0x0F).long() @ a[:half]
    high = (byte & -16).long() @ a[half:]
    assert torch.equal(low - 8 * a[:half].sum() + (high >> 4), weights @ a)


def test_what_is_no_int4_is_refused() -> None:
    with pytest.raises(UserError, match="-8 to 7"):
        pack_int4(torch.tensor([[8, 0]]))
    with pytest.raises(UserError, match="even"):
        pack_int4(torch.tensor([[1, 2, 3]]))
