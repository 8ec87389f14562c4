"""Finds the configs that an engine ships for a GPU: a seeded trial of every study on that GPU."""

import json
import re
from functools import cache
from typing import Any

from autotune.engines.moe import Quantisation, config_of
from autotune.engines.source import find_source
from autotune.machine.devices import Device
from autotune.problem.layer import Layer, Stage
from autotune.protocol.key_table import nearest
from autotune.space.config import Config

_FOLDERS = {
    "sglang": "sglang/srt/layers/moe/moe_runner/triton_utils/configs",
    "vllm": "vllm/model_executor/layers/fused_moe/configs",
}
_RELATED = {
    "mi325x": ("mi325x", "mi325_oam", "mi300x"),
    "mi300x": ("mi300x", "mi325x"),
    "h200": ("h200", "h100"),
}


@cache
def shipped_config(
    engine: str, layer: Layer, tokens: int, stage: Stage, device: Device, quantisation: Quantisation
) -> Config | None:
    """The shipped entry nearest to `tokens` for this GPU, or a related one; None: the engine has none here.

    Among several files one of this dtype goes before another's, then the GPU's own before a related one's,
    then the nearest width and expert count.
    """
    source = find_source(engine)
    if source is None:
        return None
    found: list[tuple[tuple[float, ...], str]] = []
    for path in source.names(_FOLDERS[engine]):
        rank = _rank(path.rsplit("/", 1)[-1], layer, stage, device, quantisation)
        if rank is not None:
            found.append((rank, path))
    if not found:
        return None
    body: dict[str, Any] = json.loads(source.text(min(found)[1]))
    entries = {int(key): value for key, value in body.items() if key.isdecimal()}
    if not entries:
        return None
    config = config_of(entries[nearest(entries, tokens)])
    # 0 is how the engines' tuners write that a hint is not given.
    return Config({name: None if value == 0 else value for name, value in config.items()})


def _rank(
    name: str, layer: Layer, stage: Stage, device: Device, quantisation: Quantisation
) -> tuple[float, ...] | None:
    match = re.fullmatch(r"E=(\d+),N=(\d+),device_name=([^,]*)(?:,dtype=([^,]+?))?(,.*)?(_down)?\.json", name)
    if match is None:
        return None
    experts, width, card, dtype, rest, down = match.groups()
    if "backend=" in (rest or "") or (dtype or "").startswith("int4") != _is_int4(quantisation):
        return None
    other = (dtype or None) != quantisation.dtype or "block_shape" in (rest or "")
    names = _RELATED.get(device.name, (device.name,))
    near = [
        i for i, wanted in enumerate(names) if wanted in card.lower().split("_") or wanted in card.lower()
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


def _is_int4(quantisation: Quantisation) -> bool:
    """Packed weights have another kernel: its tiles say nothing of the others'."""
    return (quantisation.dtype or "").startswith("int4")
