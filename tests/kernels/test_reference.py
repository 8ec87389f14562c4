"""The reference in batches of experts is what a loop over slots gives."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.kernels import reference
from autotune.kernels.layout import pack_int4, unpack_int4

EXPERTS, N, K = 6, 8, 32


def one_by_one(
    a: torch.Tensor, a_scale: torch.Tensor, w: torch.Tensor, w_scale: torch.Tensor, expert: torch.Tensor
) -> torch.Tensor:
    rows = []
    for slot, index in enumerate(expert.tolist()):
        weights, scale = unpack_int4(w[index]).float(), w_scale[index].float()
        if scale.dim() == 2:
            weights, scale = weights * scale.T.repeat_interleave(K // len(scale), dim=1), torch.ones(N)
        rows.append(weights @ a[slot].float() * a_scale[slot] * scale)
    return torch.stack(rows)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, EXPERTS - 1), min_size=1, max_size=30),
    st.sampled_from([1, 4 * K * (N + 3), 1 << 28]),
    st.booleans(),
)
def test_however_slots_are_spread_and_experts_are_batched(slots: list[int], cap: int, grouped: bool) -> None:
    generator = torch.Generator().manual_seed(len(slots))
    w = pack_int4(torch.randint(-8, 8, (EXPERTS, N, K), generator=generator).to(torch.int8))
    a = torch.randint(-127, 128, (len(slots), K), generator=generator).to(torch.int8)
    a_scale = torch.rand(len(slots), generator=generator)
    shape = (EXPERTS, 2, N) if grouped else (EXPERTS, N)
    w_scale = torch.rand(shape, generator=generator)
    expert = torch.tensor(slots)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "_UNPACKED_BYTES", cap)
        made = reference._expert_gemm(a, a_scale, w, w_scale, expert)
    expected = one_by_one(a, a_scale, w, w_scale, expert)
    torch.testing.assert_close(made, expected, rtol=1e-5, atol=1e-4)


def test_no_slots_are_no_rows() -> None:
    w = torch.zeros((EXPERTS, N, K // 2), dtype=torch.int8)
    nothing = torch.zeros(0)
    made = reference._expert_gemm(
        torch.zeros((0, K), dtype=torch.int8), nothing, w, torch.ones((EXPERTS, N)), nothing.long()
    )
    assert made.shape == (0, N)
