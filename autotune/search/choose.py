"""Chooses the final's layer configs: pairs of the stages' best that share the sort's block size."""

from collections import defaultdict
from collections.abc import Collection, Sequence

from autotune.results import Finalist, LayerConfig
from autotune.space.config import Config, Value

Ranked = Sequence[tuple[Config, float]]
"""Configs with microseconds, the fastest first."""

_SHARED_KNOB = "tile_m"  # the tokens are sorted once a layer, into blocks of this many rows
_PER_STAGE = 4  # of each stage's best that a final pairs, a block size


def pairs(
    stage1: Ranked, stage2: Ranked, *, per_stage: int | None = None, one_config: bool = False
) -> list[tuple[LayerConfig, float]]:
    """Layer configs by the sum of their stages' times, the least first; block sizes agree in each.

    Args:
        per_stage: only so many of each stage's best, a block size; None: all.
        one_config: both stages have the same config, as the engine has one entry for both: what has a time
            at both counts, however it ranks at either.
    """
    if one_config:
        other = dict(stage2)
        equal = [
            (LayerConfig(config, config), us + other[config]) for config, us in stage1 if config in other
        ]
        return sorted(equal, key=lambda pair: (pair[1], pair[0].key))
    ones, twos = _by_block(stage1), _by_block(stage2)
    combined = [
        (LayerConfig(config, two), one_us + two_us)
        for block in ones
        for config, one_us in ones[block][:per_stage]
        for two, two_us in twos[block][:per_stage]
    ]
    return sorted(combined, key=lambda pair: (pair[1], pair[0].key))


def fit(pair: LayerConfig, *, one_config: bool = False) -> bool:
    """Whether two stages' configs make a layer."""
    if one_config:
        return pair.stage1 == pair.stage2
    return pair.stage1.get(_SHARED_KNOB) == pair.stage2.get(_SHARED_KNOB)


def _by_block(ranked: Ranked) -> dict[Value, list[tuple[Config, float]]]:
    blocks: dict[Value, list[tuple[Config, float]]] = defaultdict(list)
    for config, us in ranked:
        blocks[config.get(_SHARED_KNOB)].append((config, us))
    return blocks


def finalists(
    stage1: Ranked,
    stage2: Ranked,
    *,
    default: LayerConfig,
    published: LayerConfig | None,
    most: int,
    coupled: Collection[str] = (),
    one_config: bool = False,
) -> list[Finalist]:
    """The default first, the published config next where there is one, then `most` pairs.

    Half of the places go to the best of each combination of the coupled knobs, whose worth a stage measured
    alone does not show; the others to the best sums.

    Args:
        coupled: knobs whose effect reaches beyond their own stage.
        one_config: see `pairs`; a published config that is not one is left out.
    """
    if published is not None and one_config and published.stage1 != published.stage2:
        published = None
    chosen = [Finalist("default", default)]
    if published is not None and published != default:
        chosen.append(Finalist("published", published))
    known = {finalist.config for finalist in chosen}
    apart = coupled and not one_config
    spread = pairs(_best_of_each(stage1, coupled), _best_of_each(stage2, coupled)) if apart else []
    best = pairs(stage1, stage2, per_stage=_PER_STAGE, one_config=one_config)
    ordered = dict.fromkeys(pair for pair, _ in [*spread[: most // 2], *best] if pair not in known)
    return chosen + [Finalist("candidate", config) for config in list(ordered)[:most]]


def _best_of_each(ranked: Ranked, coupled: Collection[str]) -> Ranked:
    """The fastest config of each block size with each combination of the coupled knobs' values."""
    first: dict[tuple[Value, ...], tuple[Config, float]] = {}
    for config, us in ranked:
        first.setdefault(tuple(config.get(name) for name in (_SHARED_KNOB, *sorted(coupled))), (config, us))
    return list(first.values())
