"""Stands in for a device in a run on a recorded table: backend, machine, judge."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

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
from autotune.results import Compiled, Confirmation, Failure, Finalist, Measurement
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
                f"the table is of {self._table.layer.key}, not of {layer.key}: name its model and degree"
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
    """Confirms finalists from recorded samples: a round takes one at random of each stage's."""

    kind = Kind.REPLAYED

    def __init__(self, table: Table, settings: MeasureSettings) -> None:
        self._table, self._settings = table, settings

    @property
    def workload(self) -> str:
        return replayed_workload(self._table)

    @property
    def fingerprint(self) -> Fingerprint:
        """The recorded stack, marked so that no report takes it for a live one."""
        recorded = self._table.fingerprint
        return replace(recorded, device=f"replay of {recorded.device}")

    def again(self, problem: Problem, stage: Stage, config: Config) -> Measurement | Failure | None:
        """None: a recorded time is the same every time."""
        return None

    def confirm(self, problem: Problem, finalists: Sequence[Finalist]) -> Confirmation:
        """The same decision as a live one's, on recorded times."""

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
                row = self._table.stages[stage].by_config[finalists[index].config.of(stage)]
                drawn = random.Random(f"{row.config.key} {seed}").choice(outcome.samples).us
                us[stage.value] = drawn * (row.us(problem.tokens) or outcome.us) / outcome.us
            return {"layer": sum(us.values()), **us}

        return confirming.confirm(problem, finalists, gate, run, self._settings)

    def _outcome(self, problem: Problem, stage: Stage, finalist: Finalist) -> Measurement | Failure:
        row = self._table.stages[stage].by_config[finalist.config.of(stage)]
        return row.compiled if isinstance(row.compiled, Failure) else row.outcomes[problem.tokens]
