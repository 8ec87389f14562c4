"""Stands in for a device in a run on a recorded table: backend, machine, judge."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import median

from autotune.errors import UserError
from autotune.machine.devices import Device
from autotune.machine.fingerprint import Fingerprint
from autotune.machine.targets import Kind
from autotune.measure import confirm as confirming
from autotune.measure.settings import MeasureSettings
from autotune.problem.layer import Layer, Problem, Stage
from autotune.protocol.backend import Backend, Work, one_config
from autotune.replay.machine import replayed_workload
from autotune.replay.table import Table
from autotune.results import (
    Compiled,
    Confirmation,
    Failure,
    Finalist,
    LayerConfig,
    LayerMeasurement,
    Measurement,
    Round,
)
from autotune.space.config import Config
from autotune.space.space import BoundSpace


class ReplayBackend:
    """The backend that a table was recorded with, with what was recorded as its space.

    Raises:
        UserError: the table is of another backend.
    """

    def __init__(self, backend: Backend, table: Table) -> None:
        if backend.name != table.fingerprint.backend:
            raise UserError(
                f"the table was recorded with backend {table.fingerprint.backend}:"
                f" use --backend {table.fingerprint.backend}"
            )
        self.runtime = backend.runtime
        self._backend, self._table = backend, table
        self.name = backend.name

    @property
    def one_config(self) -> bool:
        """As the backend's: one config serves both stages."""
        return one_config(self._backend)

    def space(self, layer: Layer, tokens: int, stage: Stage, device: Device) -> BoundSpace:
        if layer != self._table.layer:
            raise UserError(
                f"the table is of {self._table.layer.key}, not of {layer.key}: name its model and degree,"
                " or none"
            )
        return self._table.space(tokens, stage)

    def seeds(self, layer: Layer, tokens: int, stage: Stage, device: Device) -> Mapping[str, Config]:
        recorded = self._table.stages[stage].by_config
        seeds = self._backend.seeds(layer, tokens, stage, device)
        return {label: config for label, config in seeds.items() if config in recorded}

    def artefact_key(self, layer: Layer, tokens: int, stage: Stage, config: Config) -> str:
        return self._backend.artefact_key(layer, tokens, stage, config)

    def environment(self, config: Config) -> Mapping[str, str]:
        return self._backend.environment(config)

    def source_digest(self) -> str:
        return self._table.fingerprint.kernel_source

    def work(self, problem: Problem, stage: Stage, config: Config) -> Work:
        return self._backend.work(problem, stage, config)

    def compile(self, layer: Layer, tokens: int, stage: Stage, config: Config, device: Device) -> Compiled:
        raise NotImplementedError("a replayed run compiles nothing")


class ReplayJudge:
    """Confirms finalists from recorded samples: a round takes one at random of the layer's and each stage's.

    A layer that was not recorded has the sum of its stages' times, and so has the default beside it.
    """

    kind = Kind.REPLAYED

    def __init__(self, table: Table, settings: MeasureSettings) -> None:
        self.table, self._settings = table, settings
        self._usual: dict[Problem, float | None] = {}

    @property
    def workload(self) -> str:
        return replayed_workload(self.table)

    @property
    def fingerprint(self) -> Fingerprint:
        """The recorded stack, marked so that no report takes it for a live one."""
        recorded = self.table.fingerprint
        return replace(recorded, device=f"replay of {recorded.device}")

    def again(self, problem: Problem, stage: Stage, config: Config) -> Measurement | Failure | None:
        """None: a recorded time is the same every time."""
        return None

    def race(
        self, problem: Problem, configs: Sequence[LayerConfig], rounds: int, seed: int
    ) -> Sequence[Round]:
        """Rounds of recorded samples; no routing is unseen, so that only the noise is another's."""
        answers = [[self._layer_us(problem, config, (seed, n)) for config in configs] for n in range(rounds)]
        return [Round(tuple({} if us is None else {"layer": us} for us in told)) for told in answers]

    def confirm(self, problem: Problem, finalists: Sequence[Finalist]) -> Confirmation:
        """The same decision as a live one's, on recorded times."""
        recorded = all(self._layer_us(problem, finalist.config, 0) for finalist in finalists)

        def gate(index: int) -> float | Failure:
            worst = 0.0
            for stage in Stage:
                outcome = self._outcome(problem, stage, finalists[index])
                if isinstance(outcome, Failure):
                    return outcome
                worst = max(worst, outcome.error)
            return worst

        def run(index: int, seed: int) -> dict[str, float] | Failure:
            us = {}
            for stage in Stage:
                outcome = self._outcome(problem, stage, finalists[index])
                if isinstance(outcome, Failure):
                    return outcome
                row = self.table.stages[stage].by_config[finalists[index].config.of(stage)]
                drawn = random.Random(f"{row.config.key} {seed}").choice(outcome.samples).us
                us[stage.value] = drawn * (row.us(problem.tokens) or outcome.us) / outcome.us
            layer_us = self._layer_us(problem, finalists[index].config, seed) if recorded else None
            return {"layer": layer_us or sum(us.values()), **us}

        confirmation = confirming.confirm(problem, finalists, gate, run, self._settings)
        if recorded:
            return confirmation
        note = self.table.lacks or "a finalist's layer was not recorded: all are the sums of their stages"
        return replace(confirmation, notes=(*confirmation.notes, note))

    def _layer_us(self, problem: Problem, config: LayerConfig, draw: object) -> float | None:
        """A recorded layer's sample, freed of the drift that the default had; None: it was not recorded."""
        usual = self._usual_us(problem)
        outcome = self.table.layers.get(config, {}).get(problem.tokens)
        rng = random.Random(f"{config.key} {draw}")
        if usual is None or isinstance(outcome, Failure):
            return None
        if outcome is not None:
            return rng.choice(outcome.us) * usual / median(outcome.default_us)
        defaults = LayerConfig(*(self.table.space(problem.tokens, stage).default for stage in Stage))
        if config != defaults:
            return None
        beside = rng.choice(self._beside(problem)).default_us
        return rng.choice(beside) * usual / median(beside)

    def _beside(self, problem: Problem) -> list[LayerMeasurement]:
        outcomes = (at.get(problem.tokens) for at in self.table.layers.values())
        return [outcome for outcome in outcomes if isinstance(outcome, LayerMeasurement)]

    def _usual_us(self, problem: Problem) -> float | None:
        """The default's layer time over the whole recording."""
        if problem not in self._usual:
            took = [median(outcome.default_us) for outcome in self._beside(problem)]
            self._usual[problem] = median(took) if took else None
        return self._usual[problem]

    def _outcome(self, problem: Problem, stage: Stage, finalist: Finalist) -> Measurement | Failure:
        row = self.table.stages[stage].by_config[finalist.config.of(stage)]
        return row.compiled if isinstance(row.compiled, Failure) else row.outcomes[problem.tokens]
