"""The routings that a candidate is checked on: usual ones, and the corners where kernels go wrong."""

from typing import TYPE_CHECKING

import numpy as np

from autotune.problem.layer import Layer
from autotune.problem.routing import UNIFORM, Routing

if TYPE_CHECKING:
    from numpy.typing import NDArray


def case_routings(
    layer: Layer, tokens: int, routing: Routing | None, sequences: int, seed: int, *, thorough: bool
) -> "dict[str, NDArray[np.int32]]":
    """Routings of the cases at one token count, by name; int32 [tokens, top_k] each.

    Most leave most experts without a token and most rows of a block as padding; where tokens are many, `an
    expert without a token` sees to it.

    Args:
        routing: the problem's own; None: the problem does not have this many tokens.
        thorough: with the rarer cases.
    """
    experts, top_k = layer.experts, layer.top_k
    rng = np.random.default_rng(seed)
    uniform = UNIFORM.draw(steps=2, sequences=tokens, draft_tokens=1, experts=experts, top_k=top_k, seed=seed)
    same = np.broadcast_to(rng.permutation(experts)[:top_k], (tokens, top_k)).astype(np.int32)
    cases = {"uniform routing": uniform[0], "all on the same experts": same}
    if not thorough:
        return cases
    cases["other uniform routing"] = uniform[1]
    # The first and the last expert: where a table's or a tensor's end is misread.
    ends = np.concatenate([np.arange((top_k + 1) // 2), np.arange(experts - top_k // 2, experts)])
    cases["first and last experts"] = np.broadcast_to(ends, (tokens, top_k)).astype(np.int32)
    # One expert after the other: as few tokens an expert as can be, so the most blocks and padding.
    spread = (np.arange(tokens * top_k) % experts).reshape(tokens, top_k)
    cases["spread out"] = spread.astype(np.int32)
    if experts > top_k:
        fewer = UNIFORM.draw(
            steps=1, sequences=tokens, draft_tokens=1, experts=experts - 1, top_k=top_k, seed=seed + 1
        )[0]
        empty = int(rng.integers(experts))
        cases["an expert without a token"] = fewer + (fewer >= empty)
    if routing is not None:
        drawn = routing.draw(
            steps=1,
            sequences=sequences,
            draft_tokens=tokens // sequences,
            experts=experts,
            top_k=top_k,
            seed=seed + 2,
        )
        cases[f"{routing.kind} routing"] = drawn[0]
    return cases
