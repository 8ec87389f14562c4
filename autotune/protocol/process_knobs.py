"""Which environment variables deploy a config, for kernels whose knobs are global to the process.

A knob that is as the engine's own rule has it stays unset: the default written out would switch that rule off
for other shapes.
"""

import hashlib
import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Final, TypeVar

from autotune.errors import UserError
from autotune.problem.layer import Stage
from autotune.protocol.registry import part, registration
from autotune.protocol.runtime import Subject
from autotune.results import LayerConfig
from autotune.space.config import Config, Value, parse_value

Setting = tuple[tuple[str, str], ...]
"""Variables by name; none at all is the engine as it ships."""

Shape = TypeVar("Shape", bound=Hashable)

_FLAG: Final = {"1": True, "0": False}


@dataclass(frozen=True)
class ProcessKnobs:
    """A backend's knobs as variables.

    Attributes:
        names: variable by stage and knob.
        flags: knobs that are true or false, written 1 and 0.
        always: what leads the engine to these kernels at all.
        unkeyed: variables that are compiled in and that the engine's disk cache has in no key: under another
            value a kernel compiled before would be served.
        cache_variable: names the folder of that cache.
        bucket: the token count by which the engine looks a batch up; None: it has no such rule.
    """

    names: Mapping[Stage, Mapping[str, str]]
    flags: frozenset[str] = frozenset()
    always: Mapping[str, str] = field(default_factory=dict)
    unkeyed: frozenset[str] = frozenset()
    cache_variable: str = ""
    bucket: Callable[[int], int] | None = None

    def variables(self, config: LayerConfig, default: LayerConfig) -> dict[str, str]:
        """The variables that turn the engine's default at some shape into `config`.

        Raises:
            UserError: a knob differs that no variable sets.
        """
        variables = {}
        for stage in Stage:
            for knob, value in config.of(stage).items():
                if value == default.of(stage).get(knob):
                    continue
                if knob not in self.names[stage] or value is None:
                    raise UserError(
                        f"{stage} {knob}={value} cannot be deployed, no variable of the engine sets it:"
                        " tune with the engine's own block size, or choose another backend"
                    )
                variables[self.names[stage][knob]] = _text(value)
        return variables

    def deployment(self, setting: Mapping[str, str]) -> dict[str, str]:
        """A setting's variables, with a cache of its own where the common one would mix kernels up."""
        if not self.unkeyed.intersection(setting):
            return {**self.always, **setting}
        digest = hashlib.sha256(json.dumps(dict(sorted(setting.items()))).encode()).hexdigest()[:12]
        return {**self.always, **setting, self.cache_variable: f"/tmp/autotune-kernels-{digest}"}

    def deployable(self, config: LayerConfig, default: LayerConfig) -> bool:
        """Whether variables can make `config` of the default.

        They cannot where a knob has none, or where one variable sets a knob of both stages alike.
        """
        try:
            variables = self.variables(config, default)
        except UserError:
            return False
        return self.overlay(default, variables) == config

    def overlay(self, default: LayerConfig, variables: Mapping[str, str]) -> LayerConfig:
        """The config that the engine runs at a shape with this default, under these variables."""
        return LayerConfig(*(self._stage(default.of(stage), stage, variables) for stage in Stage))

    def _stage(self, default: Config, stage: Stage, variables: Mapping[str, str]) -> Config:
        changes = {
            knob: _FLAG[variables[name]] if knob in self.flags else parse_value(variables[name])
            for knob, name in self.names[stage].items()
            if name in variables and knob in default
        }
        return default.replaced(**changes)


def _text(value: Value) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)


KnobsOf = Callable[[str], ProcessKnobs | None]
"""What a registration names where knobs are global to the process: they as variables, by what the backend's
`source_digest` says of the kernels; None: those of this source are called with parameters."""


def has_process_knobs(backend: str) -> bool:
    """Whether a backend's knobs are variables of the process: one setting then serves every shape.

    Raises:
        UserError: the backend is unknown.
    """
    return bool(registration(backend).knobs)


def process_knobs(backend: str, kernel_source: str) -> ProcessKnobs | None:
    """A backend's knobs as variables; None: they are none, or not those of this source.

    Args:
        kernel_source: as its `source_digest` gives it.

    Raises:
        UserError: the backend is unknown.
    """
    path = registration(backend).knobs
    knobs_of: KnobsOf | None = part(backend, path) if path else None
    return knobs_of(kernel_source) if knobs_of else None


def setting_text(setting: Setting) -> str:
    """A setting for people."""
    return " ".join(f"{name}={value}" for name, value in setting) or "every knob unset"


def shared_settings(
    knobs: ProcessKnobs, defaults: Mapping[Shape, LayerConfig], best: Mapping[Shape, Sequence[LayerConfig]]
) -> list[Setting]:
    """The settings that deploy some shape's best, each shape's first before any shape's second.

    Args:
        defaults: the engine's default by shape.
        best: candidates by shape, the best first; guards need none.
    """
    settings: dict[Setting, None] = {}
    for rank in zip_longest(*([(shape, config) for config in configs] for shape, configs in best.items())):
        for shape, config in filter(None, rank):
            if knobs.deployable(config, defaults[shape]):
                settings[tuple(sorted(knobs.variables(config, defaults[shape]).items()))] = None
    return [setting for setting in settings if setting]


def shared_finalists(
    knobs: ProcessKnobs, defaults: Mapping[Shape, LayerConfig], settings: Sequence[Setting]
) -> dict[Shape, list[LayerConfig]]:
    """What must be timed at each shape: the default, then each setting as the config that it makes there.

    The place in the list tells the setting, so equal configs stay.

    Args:
        defaults: the engine's default by shape, for all shapes and guards.
    """
    return {
        shape: [default, *(knobs.overlay(default, dict(setting)) for setting in settings)]
        for shape, default in defaults.items()
    }


Environments = Callable[[Subject], Mapping[str, str]]
"""The process environment that a config needs."""


def layer_environment(stage_environment: Callable[[Config], Mapping[str, str]]) -> Environments:
    """A layer config's environment from its stages'.

    Raises:
        UserError: (when called) the two stages need one variable with two values.
    """

    def environment(config: Subject) -> Mapping[str, str]:
        if not isinstance(config, LayerConfig):
            return stage_environment(config)
        first, second = stage_environment(config.stage1), stage_environment(config.stage2)
        for name in first.keys() & second.keys():
            if first[name] != second[name]:
                raise UserError(
                    f"stage 1 needs {name}={first[name]} and stage 2 {name}={second[name]}:"
                    " choose two that agree"
                )
        return {**first, **second}

    return environment
