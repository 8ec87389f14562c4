"""Run as a program with TRITON_INTERPRET=1: the sort into blocks and the weighted sum, against torch."""

import torch

from autotune.backends.humming.glue import Order, weighted_sum
from autotune.engines.calls import align


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    for tokens, top_k, experts, block in ((4, 8, 384, 8), (5, 2, 7, 24), (160, 8, 40, 16), (1, 8, 8, 8)):
        ids = torch.stack([torch.randperm(experts, generator=generator)[:top_k] for _ in range(tokens)]).int()
        order = Order(ids.numel(), experts, block, "cpu")
        for buffer in (order.sorted_ids, order.block_experts, order.padded_rows):
            buffer.fill_(-7)
        order.fill(ids)
        expected = align(ids, experts, block, order.sorted_ids.numel())
        assert expected.slots is not None
        rows = int(expected.padded)
        assert int(order.padded_rows) == rows
        assert torch.equal(order.sorted_ids[:rows], expected.slots[:rows])
        assert torch.equal(order.block_experts[: rows // block], expected.experts[: rows // block])
    contributions = torch.randn((6, 40), generator=generator).bfloat16()
    router, out = torch.rand((3, 2), generator=generator), torch.zeros((3, 40), dtype=torch.bfloat16)
    weighted_sum(contributions, router, out)
    exact = (contributions.float().view(3, 2, 40) * router[..., None]).sum(dim=1)
    assert torch.allclose(out.float(), exact, rtol=2**-7, atol=1e-6)  # the interpreter cuts off
    print("right")


if __name__ == "__main__":
    main()
