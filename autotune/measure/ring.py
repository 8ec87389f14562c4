"""The ring of expert slots: routings laid over physical copies so that weights are cold when used.

In serving, an expert's weights come from memory: some sixty other layers were read since its last use. A
benchmark that draws random experts of one layer meets a third to a half of them again within a large
last-level cache. Here the steps of a pass take turns on disjoint regions of slots instead: with `period` P,
step t works on region t mod P, so at least P - 1 whole steps lie between two uses of one slot. P is chosen
so that they touch more bytes than asked for. The pass is replayed, so all of this holds around its end as
well.

Relabelling changes neither how many experts a step visits nor which tokens share one: the kernel does the
same work at other addresses. A step stays within one copy, where the relabelling is a bijection that keeps
the experts' order, and the slots of a region lie scattered over the copy, as a routing's experts do.

Pure numpy: planned and tested without a device.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from autotune.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_STEPS = 8192


@dataclass(frozen=True, eq=False)
class Ring:
    """A pass whose weights are cold at every step.

    Attributes:
        ids: int32 [steps, tokens, top_k], slots within the step's copy; negative as they were drawn.
        copies: int32 [steps], the copy that a step reads.
        count: copies needed.
        period: steps after which a region comes up again.
        reuse_bytes: the least number of bytes that whole steps touch between two uses of one slot.
    """

    ids: "NDArray[np.int32]"
    copies: "NDArray[np.int32]"
    count: int
    period: int
    reuse_bytes: int


def plan_ring(
    draw: "Callable[[int], NDArray[np.int32]]",
    *,
    experts: int,
    expert_bytes: int,
    distance: int,
    min_steps: int,
    seed: int,
) -> Ring:
    """Draws as many steps as it takes, and lays them over as few slots as it takes.

    Args:
        draw: the routings of so many steps, int32 [steps, tokens, top_k]; negative where an expert is another
            GPU's.
        expert_bytes: bytes that one expert's weights have at the stage where they have the fewest.
        distance: bytes that must be exceeded between two uses of a slot.
        seed: of the slots' order within a copy.

    Raises:
        UserError: even thousands of steps touch too little.
    """
    steps = min_steps
    while steps <= MAX_STEPS:
        ids = draw(steps)
        visited = np.array([len(np.unique(step[step >= 0])) for step in ids], np.int64)
        period = _least_period(visited * expert_bytes, distance)
        if period:
            return _lay(ids, visited, experts, expert_bytes, period, seed)
        # Half as many again: enough divisors to choose a period from, few more steps than needed.
        steps += (steps + 1) // 2
    raise UserError(
        f"{MAX_STEPS} steps of this shape touch too few weights to keep them cold: lower --cold,"
        " or use --cold 0 for hot times"
    )


def _least_period(step_bytes: "NDArray[np.int64]", distance: int) -> int | None:
    """The least divisor P of the steps such that any P - 1 steps in a row exceed `distance`, around the end
    too."""
    steps = len(step_bytes)
    around = np.concatenate(([0], np.cumsum(np.concatenate((step_bytes, step_bytes)))))
    for period in range(2, steps + 1):
        if steps % period:
            continue
        between = around[period - 1 : period - 1 + steps] - around[:steps]
        if between.min() > distance:
            return period
    return None


def _lay(
    ids: "NDArray[np.int32]",
    visited: "NDArray[np.int64]",
    experts: int,
    expert_bytes: int,
    period: int,
    seed: int,
) -> Ring:
    sizes = visited.reshape(-1, period).max(axis=0)
    copy, used, regions = 0, 0, []
    for size in sizes:
        if used + size > experts:  # a step stays within one copy
            copy, used = copy + 1, 0
        regions.append((copy, used))
        used += int(size)
    rng = np.random.default_rng(seed)
    order = [rng.permutation(experts) for _ in range(copy + 1)]
    laid = ids.copy()
    copies = np.empty(len(ids), np.int32)
    for step, routing in enumerate(ids):
        at, start = regions[step % period]
        slots = np.sort(order[at][start : start + int(visited[step])])
        here = routing >= 0
        laid[step][here] = slots[np.unique(routing[here], return_inverse=True)[1]]
        copies[step] = at
    least = least_reuse(laid, copies, expert_bytes)
    assert least is not None  # so many bytes were touched
    return Ring(laid, copies, copy + 1, period, least)


def hot(ids: "NDArray[np.int32]", steps: int) -> Ring:
    """Every step with the first routing on copy 0: what a benchmark that does not care measures.

    Args:
        ids: [steps, tokens, top_k].
    """
    laid = np.broadcast_to(ids[:1], (steps, *ids.shape[1:])).copy()
    return Ring(laid, np.zeros(steps, np.int32), 1, 1, 0)


def least_reuse(ids: "NDArray[np.int32]", copies: "NDArray[np.int32]", expert_bytes: int) -> int | None:
    """The least number of bytes touched between two uses of one slot, over endless replays of a pass.

    Counts whole steps that lie strictly between the two uses, since programs within a step run in any order.
    Knows nothing of how the ring was planned: this is what the plan is checked with.

    Args:
        ids: [steps, tokens, top_k].
        copies: [steps].

    Returns:
        None: no slot is used at all.
    """
    steps = [
        np.unique(step[step >= 0].astype(np.int64) + (int(copy) << 32))
        for step, copy in zip(ids, copies, strict=True)
    ]
    touched = np.concatenate(([0], np.cumsum([len(step) for step in steps + steps]))) * expert_bytes
    slots, places = np.unique(np.concatenate(steps), return_inverse=True)
    last = np.full(len(slots), -1)
    least: int | None = None
    for now, used in enumerate(2 * np.split(places, np.cumsum([len(step) for step in steps])[:-1])):
        before = last[used]
        before = before[before >= 0]
        if len(before):
            between = int((touched[now] - touched[before + 1]).min())
            least = between if least is None else min(least, between)
        last[used] = now
    return least
