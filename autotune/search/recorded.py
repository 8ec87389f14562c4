"""Reads the times of other layers' recorded tables: `search_spaces/BACKEND/recorded.json`.

`scripts/recorded.py` makes the file: of each table first the configs that lead at a token count, then the
others in random order, so that the first few hundred tell of both; each with its time over the fastest's.
Times of another architecture say nothing.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotune.problem.layer import Layer, Stage
from autotune.resources import data_dir
from autotune.space.config import Value

FILE = "recorded.json"
_LAYER = ("model", "model_dim", "inter_dim", "experts", "top_k", "tp", "ep")


@dataclass(frozen=True)
class Recorded:
    """A part of one table's stage.

    Attributes:
        layer: the recorded layer.
        tokens: what was measured at.
        knobs: values that occur, by knob.
        configs: one a row.
        ratios: [configs, tokens], times over the fastest's; NaN: it failed.
    """

    layer: Layer
    tokens: tuple[int, ...]
    knobs: Mapping[str, Sequence[Value]]
    configs: Sequence[Mapping[str, Value]]
    ratios: NDArray[np.float64]


def recorded(backend: str, arch: str, stage: Stage, *, leaving: Collection[str] = ()) -> list[Recorded]:
    """What was recorded of a stage.

    Args:
        arch: of the device.
        leaving: layers, by key, whose tables are left out, for judging what those of others are worth.
    """
    parts = _read(backend).get(arch, {}).get(stage, {})
    return [_unpacked(part) for key, part in parts.items() if key not in leaving]


def packed(table: Recorded) -> dict[str, Any]:
    """As JSON values: configs by the places of their values, ratios in thousandths above 1."""
    places = {knob: {(type(v), v): n for n, v in enumerate(values)} for knob, values in table.knobs.items()}
    return {
        "layer": {name: getattr(table.layer, name) for name in _LAYER},
        "tokens": list(table.tokens),
        "knobs": {knob: list(values) for knob, values in table.knobs.items()},
        "configs": [[at[type(c[k]), c[k]] for k, at in places.items()] for c in table.configs],
        "ratios": [[None if r != r else round(1000 * (r - 1)) for r in row] for row in table.ratios.tolist()],
    }


def _unpacked(part: Mapping[str, Any]) -> Recorded:
    knobs: Mapping[str, Sequence[Value]] = part["knobs"]
    ratios = np.array([[np.nan if r is None else r for r in row] for row in part["ratios"]], np.float64)
    configs = [
        {knob: values[place] for (knob, values), place in zip(knobs.items(), row, strict=True)}
        for row in part["configs"]
    ]
    return Recorded(Layer(**part["layer"]), tuple(part["tokens"]), knobs, configs, 1 + ratios / 1000)


@cache
def _read(backend: str) -> Mapping[str, Any]:
    path = data_dir("search_spaces") / backend / FILE
    content: Mapping[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return content
