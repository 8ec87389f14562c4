"""The vLLM plugin `autotune`: humming's ranges from a bundle, for the layers that it was made for.

vLLM calls `register` in each of its processes (entry point group `vllm.general_plugins`). Where the variable
`AUTOTUNE_HUMMING_CONFIG` names a bundle's file, `get_heuristics_config` of `vllm.utils.humming`, which every
layer asks for its ranges when it is built, answers from it. Whatever does not fit passes through to humming's
own choice, with a sentence in vLLM's log. Nothing is imported here that is not in a serving environment.
"""

import copy
import importlib
import inspect
import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from autotune.errors import UserError
from autotune.protocol.bundle import manifest_beside

VARIABLE: Final = "AUTOTUNE_HUMMING_CONFIG"
FORMAT: Final = "autotune-humming"
VERSION: Final = 1
SUBLAYERS: Final = {"stage1": "w13", "stage2": "w2"}
"""vLLM's names of the stages."""

_FACADE: Final = "vllm.utils.humming"
_FUNCTION: Final = "get_heuristics_config"
_END: Final = 1 << 30

# A child of vLLM's own logger, whose handlers print it.
_log = logging.getLogger("vllm.autotune")

Heuristic = Callable[..., Any]


def register() -> None:
    """What vLLM calls. Never raises: a server starts with humming's own choice rather than not at all."""
    named = os.environ.get(VARIABLE)
    if not named:
        return
    try:
        tuned = Tuned.read(Path(named))
        told = tuned.told
    except UserError as error:
        _log.warning("autotune: %s; humming chooses by itself", error)
        return
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        _log.warning(
            "autotune: %s=%s cannot be used (%s: %s); humming chooses by itself: export the bundle again",
            *(VARIABLE, named, type(error).__name__, error),
        )
        return
    try:
        facade = importlib.import_module(_FACADE)
        source = facade._EXPORTS[_FUNCTION]
    except (ImportError, AttributeError, KeyError) as error:
        _log.warning(
            "autotune: this vLLM does not ask for humming's ranges through %s.%s (%s), so %s is not used:"
            " serve with vLLM 0.33",
            *(_FACADE, _FUNCTION, error, named),
        )
        return
    if isinstance(facade.__dict__.get(_FUNCTION), _Answer):
        return  # vLLM may load its plugins twice
    # The facade looks a name up only where it has none of its own: humming is not imported before it is used.
    setattr(facade, _FUNCTION, _Answer(tuned, source))
    _log.info("autotune: humming's ranges for %s come from %s", told, named)


@dataclass(frozen=True)
class Tuned:
    """A bundle's file.

    Attributes:
        path: the file.
        humming: the version that it was tuned with.
        gpu: the GPU that it was tuned on.
        compute: accumulation, batch invariance and gemm type that it was tuned with.
        layers: its entries: `sublayer`, `layer` and `ranges`.
        tuned: the ranges that were tuned, [above, up to] in rows.
    """

    path: Path
    humming: str
    gpu: str
    compute: Mapping[str, Any]
    layers: tuple[Mapping[str, Any], ...]
    tuned: tuple[tuple[int, int], ...]

    @classmethod
    def read(cls, path: Path) -> "Tuned":
        """Reads a bundle's file.

        Raises:
            OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError: it is none, or leaves
                rows out.
            UserError: it is not the one that the manifest beside it lists.
        """
        content = path.read_bytes()
        manifest_beside(path, content)
        raw = json.loads(content)
        if raw["format"] != FORMAT or raw["version"] != VERSION:
            raise ValueError(f"it is not of format {FORMAT} version {VERSION}")
        for entry in raw["layers"]:
            _require_whole(entry["ranges"])
        tuned = tuple((int(low), int(high)) for low, high in raw["tuned"])
        return cls(path, raw["humming"], raw["gpu"], dict(raw["compute"]), tuple(raw["layers"]), tuned)

    @property
    def told(self) -> str:
        """The layers, for the log."""
        return " and ".join(
            f"{entry['sublayer']} (N={entry['layer']['shape_n']} K={entry['layer']['shape_k']},"
            f" {entry['layer']['num_experts']} experts, {entry['layer']['a_dtype']} x"
            f" {entry['layer']['b_dtype']})"
            for entry in self.layers
        )

    def ranges(self, layer: Mapping[str, Any], compute: Mapping[str, Any]) -> tuple[str, list[Any]] | None:
        """The sublayer's name and ranges; None: the bundle was not made for such a layer."""
        if dict(compute) != dict(self.compute):
            return None
        for entry in self.layers:
            if entry["layer"] == layer:
                return entry["sublayer"], copy.deepcopy(entry["ranges"])
        return None


def _require_whole(ranges: Any) -> None:
    end = 0
    for low, high, entry in ranges:
        if type(low) is not int or type(high) is not int:
            raise ValueError(f"its range of rows ({low!r}, {high!r}] is not of whole numbers")
        if low != end or high <= low or not isinstance(entry, dict):
            raise ValueError(f"its ranges leave a gap at {end} rows")
        end = high
    if end != _END:
        raise ValueError(f"its ranges end at {end} rows")


@dataclass
class _Answer:
    """Stands in for `get_heuristics_config`.

    Attributes:
        source: `module:function` of humming's own.
    """

    tuned: Tuned
    source: str
    _said: set[str] = field(default_factory=set)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        module, _, name = self.source.partition(":")
        own: Heuristic = getattr(importlib.import_module(module), name)
        answer = self._answer(own, args, kwargs)
        return own(*args, **kwargs) if answer is None else answer

    def _answer(self, own: Heuristic, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any] | None:
        try:
            asked = inspect.signature(own).bind(*args, **kwargs)
            asked.apply_defaults()
            if asked.arguments["shape_m"] is not None:
                return None
            layer, compute = _layer_facts(asked.arguments["layer_config"]), _compute(asked.arguments)
            if asked.arguments["use_m_major_input_scale"]:
                return None
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            self._warn(f"humming asks in another way ({type(error).__name__}: {error})")
            return None
        reason = self._misfit()
        if reason:
            self._warn(reason)
            return None
        ranges = self.tuned.ranges(layer, compute)
        what = f"N={layer['shape_n']} K={layer['shape_k']}, {layer['num_experts']} experts"
        if ranges is None:
            self._say(f"autotune: {self.tuned.path} is not for a layer of {what}; humming chooses by itself")
            return None
        sublayer, answer = ranges
        tuned = ", ".join(f"({low}, {high}]" for low, high in self.tuned.tuned)
        self._say(
            f"autotune: {sublayer} ({what}) takes {len(answer)} ranges of rows from {self.tuned.path}, tuned:"
            f" {tuned or 'none'}"
        )
        return answer

    def _misfit(self) -> str:
        """Why the bundle is not for this process; "": it is."""
        humming = importlib.import_module("humming")
        if humming.__version__ != self.tuned.humming:
            return (
                f"it was tuned with humming-kernels {self.tuned.humming}, and {humming.__version__} is"
                " installed: tune again"
            )
        gpu = importlib.import_module("humming.device").current_device.name
        if gpu != self.tuned.gpu:
            return f"it was tuned on {self.tuned.gpu}, and this is {gpu}: tune on that one"
        return ""

    def _warn(self, reason: str) -> None:
        self._say(
            f"autotune: {self.tuned.path} is not used, {reason}; humming chooses by itself", logging.WARNING
        )

    def _say(self, sentence: str, level: int = logging.INFO) -> None:
        if sentence not in self._said:
            self._said.add(sentence)
            _log.log(level, "%s", sentence)


def _layer_facts(layer: Any) -> dict[str, Any]:
    if isinstance(layer, dict):
        layer = importlib.import_module("humming.config").LayerConfig(**layer)
    facts: dict[str, Any] = json.loads(layer.to_str())
    return facts


def _compute(arguments: Mapping[str, Any]) -> dict[str, Any]:
    gemm_type = arguments["gemm_type"]
    return {
        "use_batch_invariant": bool(arguments["use_batch_invariant"]),
        "use_f16_accum": bool(arguments["use_f16_accum"]),
        "gemm_type": getattr(gemm_type, "value", gemm_type),
    }
