"""The bounded sub-space that a table holds: all legal configs of some knobs' values.

A whole space of tens of thousands of configs takes an hour to record. What is left out are values of knobs
that change little or that make two configs of one kernel; what is kept is every tile, split, number of warps
and depth of the pipeline, so the landscape that a search has to find its way in is whole.
"""

import random
from collections.abc import Mapping, Sequence

from autotune.problem.layer import Stage
from autotune.space.config import Config, Value
from autotune.space.space import BoundSpace

Values = Mapping[str, tuple[Value, ...]]
"""The values that are kept, by knob; a knob that is not named keeps all of its."""

KEPT: Mapping[Stage, Values] = {
    # Left out are orders of blocks and cache hints; stage 2 is the smaller space, so it keeps the orders.
    # Kimi-K2.5 at TP 8 on sm_90: 2,404 configs of stage 1, 3,056 of stage 2.
    Stage.STAGE1: {"group": (1,), "w_cache": ("none",)},
    Stage.STAGE2: {"w_cache": ("none",), "partials": ("float32",)},
}


def bounded(
    space: BoundSpace,
    kept: Values,
    *,
    defaults: Sequence[Config] = (),
    most: int | None = None,
    seed: int = 0,
) -> list[Config]:
    """The legal configs whose knobs have kept values, and the defaults, which come first.

    Args:
        defaults: of the other token counts that are recorded.
        most: a seeded sample of so many; None: all.
    """
    first = list(dict.fromkeys([space.default, *defaults]))
    others = [
        config
        for config in space
        if config not in first and all(config.get(k, v[0]) in v for k, v in kept.items())
    ]
    if most is not None and len(first) + len(others) > most:
        others = random.Random(seed).sample(others, max(0, most - len(first)))
    return [*first, *others]


def leading(
    times: Sequence[Mapping[Config, float]],
    defaults: Sequence[Config],
    count: int,
    *,
    within: float = 1.25,
    seed: int = 0,
) -> list[Config]:
    """One stage's part of the layers that a table holds: every pair of the two stages' parts is recorded.

    Half are leaders, taken from the token counts in turn: the defaults first, then what is fastest alone. The
    other half is drawn from what is up to `within` times as slow as the fastest anywhere, since the stage of
    the best layer is often not fast alone.

    Args:
        times: microseconds of every config with a time, one mapping a token count.
    """
    ranked = [sorted(at, key=lambda config: (at[config], config.key)) for at in times if at]
    chosen = dict.fromkeys(defaults)
    queues = [iter(order) for order in ranked]
    while queues and len(chosen) < (count + 1) // 2:
        before = len(chosen)
        for queue in queues:
            config = next((config for config in queue if config not in chosen), None)
            if config is not None and len(chosen) < (count + 1) // 2:
                chosen[config] = None
        if len(chosen) == before:
            break
    near = {
        config: None
        for at, order in zip((at for at in times if at), ranked, strict=True)
        for config in order
        if at[config] <= within * at[order[0]] and config not in chosen
    }
    drawn = random.Random(seed).sample(sorted(near, key=lambda c: c.key), min(len(near), count - len(chosen)))
    return [*chosen, *drawn]


def parse_kept(texts: Sequence[str]) -> dict[str, tuple[Value, ...]]:
    """Reads `group=1` or `w_cache=none|first`, one a text.

    Raises:
        UserError: not of that form.
    """
    from autotune.errors import UserError
    from autotune.space.config import parse_value

    kept = {}
    for text in texts:
        name, equals, values = text.partition("=")
        if not (name and equals and values):
            raise UserError(f"--keep {text!r} is not of the form knob=value|value, e.g. w_cache=none|first")
        kept[name] = tuple(parse_value(value) for value in values.split("|"))
    return kept
