"""Writes configs as people compare them: by what differs from the default."""

from collections.abc import Mapping

from autotune.problem.layer import Stage
from autotune.results import LayerConfig
from autotune.space.config import Config, Value, value_text


def changes(config: Mapping[str, Value], default: Mapping[str, Value] | None) -> str:
    """The knobs in which `config` differs, as `tile_k=256,pdl=true`; `default` where none does.

    Args:
        default: what it is compared with; None: not known, so every knob is named.
    """
    differing = {
        name: value
        for name, value in config.items()
        # A default that was written out is another value than one left unset, and True is not 1.
        if default is None or name not in default or value_text(default[name]) != value_text(value)
    }
    return str(Config(differing)) if differing else "default"


def layer_changes(config: LayerConfig, default: LayerConfig) -> str:
    """The same for a layer: only the stages that differ are named."""
    parts = [
        f"{stage}: {changes(config.of(stage), default.of(stage))}"
        for stage in Stage
        if config.of(stage) != default.of(stage)
    ]
    return "; ".join(parts) or "default"
