"""Resolves what a user names to be measured or compared: configs, runs' winners and bundles."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from autotune.errors import UserError
from autotune.machine.devices import Device
from autotune.problem.layer import Problem, Stage
from autotune.protocol.backend import Backend, default_of
from autotune.protocol.bundle import MANIFEST, Bundle
from autotune.protocol.form import ANY, COUNT, NAME, misfit
from autotune.protocol.runtime import Subject
from autotune.results import LayerConfig
from autotune.space.config import Config
from autotune.space.space import BoundSpace
from autotune.store.store import Store

_DIMS: Final = ("model_dim", "inter_dim", "experts", "top_k")
_KNOBS: Final = {NAME: (int, str, bool, None)}
_COMPARED: Final = {
    "backend": str,
    "layer": {**dict.fromkeys(_DIMS, COUNT), **ANY},
    "winners": [{"tokens": COUNT, "config": {"stage1": _KNOBS, "stage2": _KNOBS}, **ANY}],
    **ANY,
}
"""Of a bundle's manifest, as far as its configs are compared."""
FORMS = "default, stage1:KNOB=VALUE,…, stage1:…;stage2:…, run:ID, or a bundle's folder"


def by_stage(text: str) -> dict[Stage | None, str]:
    """The knobs of `stage1:tile_k=256;stage2:default` by stage; None: of knobs that name no stage.

    Raises:
        UserError: a stage has no knobs, is none, or is named twice.
    """
    parts: dict[Stage | None, str] = {}
    for part in text.split(";"):
        name, colon, knobs = (piece.strip() for piece in part.partition(":"))
        if not colon:
            name, knobs = "", name
        if not knobs or (colon and name not in tuple(Stage)):
            raise UserError(
                f"{text!r} is not a config: give default, stage1:KNOB=VALUE,… or stage1:…;stage2:…"
            )
        stage = Stage(name) if colon else None
        if stage in parts or (None in parts) or (stage is None and parts):
            raise UserError(f"{text!r} names a stage twice, or not at all: give stage1:…;stage2:…")
        parts[stage] = knobs
    return parts


@dataclass(frozen=True)
class NamedSubject:
    """A subject as it was named.

    Attributes:
        stage: of a single stage's config; None: a layer.
    """

    name: str
    stage: Stage | None
    subject: Subject


class Resolver:
    """Finds what users name, for one backend on one device."""

    def __init__(self, backend: Backend, device: Device, store: Store | None = None) -> None:
        self._backend, self._device, self._store = backend, device, store

    def default(self, problem: Problem) -> LayerConfig:
        """The default of a problem."""
        return default_of(self._backend, problem.layer, problem.tokens, self._device)

    def resolve(self, text: str, problem: Problem) -> NamedSubject:
        """The subject that `text` names at a problem: one of `FORMS`.

        Knobs that a config leaves out have the default's values.

        Raises:
            UserError: there is no such thing, or it is not legal at this problem.
        """
        if text == "default":
            return NamedSubject(text, None, self.default(problem))
        if text.startswith("run:"):
            return NamedSubject(text, None, self._of_run(text, problem))
        if Path(text).is_dir():
            return NamedSubject(text, None, self._of_bundle(Path(text), problem))
        parts = by_stage(text)
        if None in parts:
            at = " or ".join(f"{stage}:{text}" for stage in Stage)
            raise UserError(f"{text!r} names nothing to measure: a config says of which stage it is, {at}")
        stages = {
            stage: self._stage_config(stage, knobs, problem)
            for stage, knobs in parts.items()
            if stage is not None
        }
        if len(stages) == 1:
            ((stage, config),) = stages.items()
            return NamedSubject(text, stage, config)
        layer = LayerConfig(stages[Stage.STAGE1], stages[Stage.STAGE2])
        if layer.stage1.get("tile_m") != layer.stage2.get("tile_m"):
            raise UserError(
                f"{text!r} gives the stages unlike tile_m: they share the sort's blocks, give both the same"
            )
        return NamedSubject(text, None, layer)

    def alike(self, a: NamedSubject, b: NamedSubject) -> tuple[NamedSubject, NamedSubject]:
        """The two as what they have in common: a layer against one stage's config is that stage's.

        Raises:
            UserError: they are configs of unlike stages.
        """
        stage = a.stage or b.stage
        if stage is None or a.stage is b.stage:
            return a, b
        if a.stage is not None and b.stage is not None:
            raise UserError(f"{a.name} is of {a.stage} and {b.name} of {b.stage}: compare one stage")
        return _as_stage(a, stage), _as_stage(b, stage)

    def _space(self, problem: Problem, stage: Stage) -> BoundSpace:
        return self._backend.space(problem.layer, problem.tokens, stage, self._device)

    def _stage_config(self, stage: Stage, knobs: str, problem: Problem) -> Config:
        space = self._space(problem, stage)
        config = space.named(knobs)
        if broken := space.broken_rule(config):
            where = f"{stage}:{knobs} is not legal at {problem.shape} ({broken.name})"
            raise UserError(f"{where}: {broken.reason}; choose other values")
        return config

    def _of_run(self, text: str, problem: Problem) -> LayerConfig:
        digits = text.removeprefix("run:")
        if self._store is None or not digits.isdecimal():
            raise UserError(f"{text!r} is not a run: give its number, as `autotune run --json` prints it")
        stored = self._store.winners(problem=problem, backend=self._backend.name)
        # The latest winner of a problem may be a later run's: a run's own is in its confirmation.
        for winner in reversed(stored):
            if winner.run == int(digits):
                return winner.config
        raise UserError(
            f"run {digits} has no winner at {problem.shape} that is still the latest of its stack:"
            " give another run, or its config"
        )

    def _of_bundle(self, folder: Path, problem: Problem) -> LayerConfig:
        manifest = Bundle.read(folder).manifest
        if wrong := misfit(manifest, _COMPARED):
            raise UserError(f"{folder}/{MANIFEST} is not as exported ({wrong}): export it again")
        configs = [
            LayerConfig(Config(winner["config"]["stage1"]), Config(winner["config"]["stage2"]))
            for winner in manifest["winners"]
            if winner["tokens"] == problem.tokens
        ]
        backend, layer = manifest["backend"], manifest["layer"]
        if backend != self._backend.name:
            raise UserError(f"{folder} is a bundle of backend {backend}: add --backend {backend}")
        mine = problem.layer
        if any(layer[name] != getattr(mine, name) for name in _DIMS):
            raise UserError(
                f"{folder} was tuned for another layer than {mine.key}: give its --model and --tp"
            )
        if not configs:
            raise UserError(f"{folder} holds nothing for {problem.tokens_text}: choose a --shape that it has")
        return configs[0]


def _as_stage(named: NamedSubject, stage: Stage) -> NamedSubject:
    if isinstance(named.subject, LayerConfig):
        return NamedSubject(named.name, stage, named.subject.of(stage))
    return named
