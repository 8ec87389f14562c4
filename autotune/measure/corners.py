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
    expert without a token` sees to it. Ids of other GPUs' experts are negative, as in a `Step`.

    Args:
        routing: the problem's own; None: the problem does not have this many tokens.
        thorough: with the rarer cases.
    """
    drawn = _drawn(layer, tokens, routing, sequences, seed, thorough=thorough)
    return {name: layer.seen(ids) for name, ids in drawn.items()}


def _drawn(
    layer: Layer, tokens: int, routing: Routing | None, sequences: int, seed: int, *, thorough: bool
) -> "dict[str, NDArray[np.int32]]":
    """The same with the ids of all GPUs' experts; this GPU's are the first."""
    experts, routed, top_k = layer.experts, layer.routed, layer.top_k
    rng = np.random.default_rng(seed)
    uniform = UNIFORM.draw(steps=2, sequences=tokens, draft_tokens=1, experts=routed, top_k=top_k, seed=seed)
    # Of this GPU's as many as there are; a few others' where it has fewer than a token visits.
    beyond = np.arange(experts, max(experts, top_k))
    same = np.concatenate([rng.permutation(experts), beyond])[:top_k]
    cases = {
        "uniform routing": uniform[0],
        "all on the same experts": np.broadcast_to(same, (tokens, top_k)).astype(np.int32),
    }
    if layer.ep > 1:
        others = np.arange(routed - top_k, routed)
        cases["no expert of this GPU"] = np.broadcast_to(others, (tokens, top_k)).astype(np.int32)
    if not thorough:
        return cases
    cases["other uniform routing"] = uniform[1]
    # The first and the last expert: where a table's or a tensor's end is misread.
    last = max(experts, top_k)
    ends = np.concatenate([np.arange((top_k + 1) // 2), np.arange(last - top_k // 2, last)])
    cases["first and last experts"] = np.broadcast_to(ends, (tokens, top_k)).astype(np.int32)
    # One expert after the other: as few tokens an expert as can be, so the most blocks and padding.
    spread = (np.arange(tokens * top_k) % last).reshape(tokens, top_k)
    cases["spread out"] = spread.astype(np.int32)
    if routed > top_k:
        fewer = UNIFORM.draw(
            steps=1, sequences=tokens, draft_tokens=1, experts=routed - 1, top_k=top_k, seed=seed + 1
        )[0]
        empty = int(rng.integers(experts))
        cases["an expert without a token"] = fewer + (fewer >= empty)
    if routing is not None:
        drawn = routing.draw(
            steps=1,
            sequences=sequences,
            draft_tokens=tokens // sequences,
            experts=routed,
            top_k=top_k,
            seed=seed + 2,
        )
        cases[f"{routing.kind} routing"] = drawn[0]
    return cases
