"""The sample of a check meets every kind of block."""

import numpy as np
import pytest

from autotune.check.operands import SERVED, blocks_of, full, of_token, served
from autotune.problem.layer import Layer
from tests.spaces import KIMI

SMALL = Layer("small", 64, 32, 8, 8, 1)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("layer", [KIMI, SMALL], ids=["384 experts", "as few experts as choices"])
@pytest.mark.parametrize("tile_m", [16, 32, 64])
def test_a_block_is_full_and_tokens_visit_distinct_experts(layer: Layer, tile_m: int) -> None:
    ids = full(layer, tile_m, rng())
    assert ids.shape == (tile_m, layer.top_k)
    assert all(len(set(row)) == layer.top_k for row in ids.tolist())
    blocks = blocks_of(ids, tile_m, by_token=False)
    assert len(blocks[-1].slots) == tile_m
    assert blocks[-1].expert == layer.experts - 1


def test_two_tokens_share_experts_of_which_nobody_else_asks() -> None:
    blocks = blocks_of(full(KIMI, 16, rng()), 16, by_token=True)
    assert sorted(len(block.slots) for block in blocks) == [2] * 7 + [14] * 7 + [16]


@pytest.mark.parametrize("tokens", [1, 2, 4, 16, 160])
def test_the_served_tokens_share_an_expert(tokens: int) -> None:
    ids = served(KIMI, tokens, rng())
    assert len(ids) == min(tokens, SERVED)
    assert all(len(set(row)) == KIMI.top_k for row in ids.tolist())
    assert tokens == 1 or set(ids[0]) & set(ids[1])


@pytest.mark.parametrize("by_token", [True, False])
def test_the_sort_places_every_slot_once_ascending_by_expert(by_token: bool) -> None:
    ids = served(KIMI, 16, rng())
    blocks = blocks_of(ids, 16, by_token=by_token)
    assert sorted(int(slot) for block in blocks for slot in block.slots) == list(range(ids.size))
    assert [block.expert for block in blocks] == sorted({int(e) for e in ids.reshape(-1)})
    for block in blocks:
        assert all(ids.reshape(-1)[slot] == block.expert for slot in block.slots)
        if by_token:
            assert all(row == slot // KIMI.top_k for row, slot in enumerate(block.rows) if slot >= 0)


def test_an_expert_with_more_tokens_than_rows_has_several_blocks() -> None:
    ids = np.tile(np.arange(8, dtype=np.int32), (20, 1))
    sizes = [len(block.slots) for block in blocks_of(ids, 16, by_token=False)]
    assert sizes == [16, 4] * 8


def test_a_tokens_blocks_are_all_that_its_sum_needs() -> None:
    ids = full(KIMI, 16, rng())
    blocks = of_token(blocks_of(ids, 16, by_token=True), ids, 0)
    assert {block.expert for block in blocks} == set(ids[0].tolist())
