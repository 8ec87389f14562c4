"""Configs that an engine ships for a GPU: a seeded trial of every study on that GPU."""

import re
from functools import cache
from typing import Any

from autotune.engines.dtypes import Dtype
from autotune.engines.moe import config_of
from autotune.engines.rows import Row
from autotune.engines.source import find_source
from autotune.errors import UserError
from autotune.machine.devices import Device
from autotune.problem.layer import Layer, Stage
from autotune.protocol.key_table import nearest
from autotune.quantities import load_json
from autotune.space.config import Config

_RELATED = {
    "mi325x": ("mi325x", "mi325_oam", "mi300x"),
    "mi300x": ("mi300x", "mi325x"),
    "h200": ("h200", "h100"),
}


@cache
def shipped_config(row: Row, layer: Layer, tokens: int, stage: Stage, device: Device) -> Config | None:
    """The shipped entry nearest to `tokens` for this GPU, or a related one; None: the engine has none here.

    Among several files one of this dtype goes before another's, then the GPU's own before a related one's,
    then the nearest width and expert count.

    Raises:
        UserError: the file is damaged.
    """
    source = find_source(row.engine.name)
    if source is None:
        return None
    ranked: list[tuple[tuple[float, ...], str]] = []
    for path in source.names(row.engine.configs):
        rank = _rank(path.rsplit("/", 1)[-1], layer, stage, device, row.dtype)
        if rank is not None:
            ranked.append((rank, path))
    if not ranked:
        return None
    path = min(ranked)[1]
    try:
        body: dict[str, Any] = load_json(source.text(path))
    except ValueError as error:
        raise UserError(f"{source.root} has a damaged {path} ({error}): install it again") from error
    entries = {int(key): value for key, value in body.items() if key.isdecimal()}
    if not entries:
        return None
    config = config_of(entries[nearest(entries, tokens)])
    # 0 is how the engines' tuners write that a hint is not given.
    return Config({name: None if value == 0 else value for name, value in config.items()})


def _rank(name: str, layer: Layer, stage: Stage, device: Device, dtype: Dtype) -> tuple[float, ...] | None:
    match = re.fullmatch(r"E=(\d+),N=(\d+),device_name=([^,]*)(?:,dtype=([^,]+?))?(,.*)?(_down)?\.json", name)
    if match is None:
        return None
    experts, width, marketed, selector, rest, down = match.groups()
    # Packed weights have another kernel: its tiles say nothing of the others'.
    if "backend=" in (rest or "") or (selector or "").startswith("int4") != (dtype.weights == "int4"):
        return None
    other = (selector or None) != dtype.selector or ("block_shape" in (rest or "")) != dtype.blocks
    names = _RELATED.get(device.name, (device.name,))
    near = [
        i
        for i, wanted in enumerate(names)
        if wanted in marketed.lower().split("_") or wanted in marketed.lower()
    ]
    if not near:
        return None
    # Stage 2's own file where there is one; else both stages take the same.
    misfit = float((down is not None or name.endswith("_down.json")) != (stage is Stage.STAGE2))
    return (
        float(other),
        float(near[0]),
        abs(int(width) - layer.inter_dim),
        abs(int(experts) - layer.experts),
        misfit,
    )
