"""Reads search spaces: `search_spaces/*/*.toml`, a file a stage, or one for both.

backend = "sglang"
generation = "0.5.23"
stage = "stage1"                 # or a table [stages], stage to doc: both have the same space
doc = "gate_up GEMM"
[params.tile_n]
values = ["unset", 64, 128]
default = 64
doc = "columns a program computes"
arch = ["gfx"]                   # GPUs that have the knob; else all
option = "kpack"                 # of the compiler, without which it does not exist
coupled = true                   # its effect reaches beyond its stage
[[defaults]]                     # the first whose condition holds
when = "tokens <= experts"
set = { tile_n = 128 }
[[rules]]
name = "tile-n-fits"
require = "tile_n == unset or tile_n < 2 * n"
reason = "half of the tile would lie past the last column"
[[features]]                     # what the search's model sees besides the knobs
name = "tiles"
size = "ceil_div(n, tile_n)"
doc = "programs along N"
"""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from autotune.errors import UserError
from autotune.problem.layer import Stage
from autotune.quantities import load_toml
from autotune.resources import data_dir
from autotune.space.config import UNSET, Value
from autotune.space.expressions import Expression
from autotune.space.space import Feature, Override, Param, Rule, Space
from autotune.text import why

_GIVEN = frozenset(
    {
        "unset",
        "model_dim",
        "inter_dim",
        "experts",
        "top_k",
        "tokens",
        "n",
        "k",
        "arch",
        "lds_bytes",
        "wave_size",
    }
)
"""What an expression may name beside the space's own knobs: see `Space.at`."""


def shipped_spaces(backend: str) -> dict[Stage, Space]:
    """The spaces of a backend that ship with the tool, by stage; empty when it has none."""
    spaces: dict[Stage, Space] = {}
    for path in sorted((data_dir("search_spaces") / backend).glob("*.toml")):
        spaces |= load_spaces(path)
    return spaces


def load_spaces(path: Path) -> dict[Stage, Space]:
    """Reads a search-space file: the spaces that it is for, by stage.

    Raises:
        UserError: the file is not a search space.
    """
    try:
        return parse_spaces(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is not a search space ({why(error)}): compare it with the shipped ones"
        ) from error


def parse_space(text: str) -> Space:
    """The space that the text of a file for one stage describes.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: it describes none, or one for both stages.
    """
    spaces = parse_spaces(text)
    if len(spaces) != 1:
        raise ValueError(f"it is for {' and '.join(spaces)}")
    return next(iter(spaces.values()))


def parse_spaces(text: str) -> dict[Stage, Space]:
    """The spaces that a file's text describes, by stage.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: it describes none.
    """
    return dict(_parsed(text))


@lru_cache(64)  # a shipped space is asked for at every shape, and reading it takes tens of milliseconds
def _parsed(text: str) -> tuple[tuple[Stage, Space], ...]:
    raw = load_toml(text)
    docs: Mapping[str, str] = raw["stages"] if "stages" in raw else {raw["stage"]: raw.get("doc", "")}
    if not docs:
        raise ValueError("[stages] names none")
    return tuple((Stage(name), _space(raw, Stage(name), doc)) for name, doc in docs.items())


def _space(raw: Mapping[str, Any], stage: Stage, doc: str) -> Space:
    params = tuple(
        Param(
            name=name,
            values=tuple(_value(v) for v in entry["values"]),
            default=_value(entry["default"]),
            doc=entry["doc"],
            arch=tuple(entry.get("arch", ())),
            option=entry.get("option", ""),
            coupled=entry.get("coupled", False),
        )
        for name, entry in raw["params"].items()
    )
    known = _GIVEN | {param.name for param in params}
    for param in params:
        if param.default not in param.values:
            raise ValueError(f"{param.name}'s default is not among its values")
    rules = tuple(
        Rule(entry["name"], Expression.parse(entry["require"]), entry["reason"])
        for entry in raw.get("rules", ())
    )
    overrides = tuple(
        Override(Expression.parse(entry["when"]), {k: _value(v) for k, v in entry["set"].items()})
        for entry in raw.get("defaults", ())
    )
    features = tuple(
        Feature(entry["name"], Expression.parse(entry["size"]), entry["doc"])
        for entry in raw.get("features", ())
    )
    for expression in (
        *(rule.require for rule in rules),
        *(override.when for override in overrides),
        *(feature.size for feature in features),
    ):
        if unknown := expression.names - known:
            raise ValueError(f"{expression.text!r} names {', '.join(sorted(unknown))}, which nothing defines")
    return Space(
        raw["backend"],
        raw["generation"],
        stage,
        doc,
        params,
        rules,
        overrides,
        features,
    )


def _value(raw: Any) -> Value:
    if raw == "unset":
        return UNSET
    if not isinstance(raw, int | str | bool):
        raise TypeError(f"{raw!r} is neither whole number, text nor truth value")
    return raw
