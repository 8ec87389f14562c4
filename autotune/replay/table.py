"""A recorded table: what became of every config of a bounded space, at every token count."""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from autotune.errors import UserError
from autotune.machine.devices import Device
from autotune.machine.fingerprint import Fingerprint
from autotune.problem.layer import Layer, Problem, Stage
from autotune.problem.routing import Routing
from autotune.results import Compiled, Failure, LayerConfig, LayerMeasurement, Measurement
from autotune.space.config import Config, Value
from autotune.space.read import parse_space
from autotune.space.space import BoundSpace, Space


class RecordedSpace(BoundSpace):
    """A bounded space: of each knob only the values that were recorded, of their product only the recorded.

    Raises:
        UserError: the default of the space was not recorded.
    """

    def __init__(self, part: "StageTable", layer: Layer, tokens: int, device: Device) -> None:
        whole = part.space.at(layer, tokens, device)
        params = tuple(
            replace(
                param, values=tuple(v for v in param.values if (type(v), v) in part.occurring[param.name])
            )
            for param in whole.params
            if param.name in part.occurring
        )
        super().__init__(part.space, params, whole._variables)
        self._recorded = dict.fromkeys(part.by_config)
        if self.default not in self._recorded:
            raise UserError(f"the table lacks the default {self.default}: record it again")

    def is_legal(self, config: Config) -> bool:
        return config in self._recorded

    def has_configs_of(self, other: BoundSpace) -> bool:
        return isinstance(other, RecordedSpace) and self._recorded.keys() == other._recorded.keys()

    @cached_property
    def size(self) -> int:
        """Recorded configs."""
        return len(self._recorded)

    def __iter__(self) -> Iterator[Config]:
        return iter(self._recorded)

    def sample(self, rng: random.Random) -> Config:
        return rng.choice(list(self._recorded))

    def draw(self, rng: random.Random, count: int) -> list[Config]:
        configs = list(self._recorded)
        return [configs[place] for place in sorted(rng.sample(range(len(configs)), count))]


@dataclass(frozen=True)
class Recorded:
    """One config's result.

    Attributes:
        compiled: with what the compile cost.
        outcomes: by tokens; empty where there was nothing to launch.
        settled: by tokens, microseconds after re-measuring; only for those that were among the best.
    """

    config: Config
    compiled: Compiled | Failure
    outcomes: Mapping[int, Measurement | Failure]
    settled: Mapping[int, float]

    def us(self, tokens: int) -> float | None:
        """The most trusted time: settled where there is one, else the sweep's median; None: it failed."""
        if tokens in self.settled:
            return self.settled[tokens]
        outcome = self.outcomes.get(tokens)
        return outcome.us if isinstance(outcome, Measurement) else None


@dataclass(frozen=True)
class StageTable:
    """One stage's configs.

    Attributes:
        space_text: the search-space file that they belong to, whole: the shipped one may change.
    """

    space_text: str
    rows: tuple[Recorded, ...]

    @cached_property
    def space(self) -> Space:
        """The search-space file, parsed."""
        return parse_space(self.space_text)

    @cached_property
    def occurring(self) -> dict[str, set[tuple[type, Value]]]:
        """Values that occur, with their types, by knob."""
        values: dict[str, set[tuple[type, Value]]] = {}
        for row in self.rows:
            for knob, value in row.config.items():
                values.setdefault(knob, set()).add((type(value), value))
        return values

    @cached_property
    def by_config(self) -> dict[Config, Recorded]:
        """Rows by config."""
        return {row.config: row for row in self.rows}

    def optimum(self, tokens: int) -> tuple[Config, float]:
        """The fastest config with its microseconds.

        The least of many noisy times is too low, so only settled ones count where there are any.

        Raises:
            ValueError: nothing was measured at `tokens`.
        """
        settled = [(row.settled[tokens], row.config) for row in self.rows if tokens in row.settled]
        measured = [(us, row.config) for row in self.rows if (us := row.us(tokens)) is not None]
        us, config = min(settled or measured, key=lambda pair: (pair[0], pair[1].key))
        return config, us


@dataclass(frozen=True)
class Table:
    """A recording of one layer on one device.

    Attributes:
        device: what the legality rules need of it.
        fingerprint: the stack that everything was recorded on.
        workload: canonical text of the measuring conditions.
        tokens: what was measured at, ascending; concurrency is 1.
        command: what made it.
        layers: pairs of the stages' configs, by tokens: each with the default's interleaved times. Empty
            where no layer was recorded: a layer's time is then the sum of its stages'.
    """

    layer: Layer
    device: Device
    fingerprint: Fingerprint
    workload: str
    routing: Routing
    tokens: tuple[int, ...]
    command: str
    stages: Mapping[Stage, StageTable]
    layers: Mapping[LayerConfig, Mapping[int, LayerMeasurement | Failure]] = field(default_factory=dict)

    @property
    def lacks(self) -> str | None:
        """What a recording of today holds and this one does not, in a sentence; None: nothing."""
        if self.layers:
            return None
        return "the table holds no layers: where one would be timed, its stages are added up"

    @property
    def problems(self) -> list[Problem]:
        """What was recorded, by tokens."""
        return [Problem(self.layer, tokens, routing=self.routing) for tokens in self.tokens]

    def space(self, problem_tokens: int, stage: Stage) -> RecordedSpace:
        """The recorded configs of a stage as a search space.

        Raises:
            UserError: not recorded.
        """
        if stage not in self.stages or problem_tokens not in self.tokens:
            recorded = ", ".join(f"m{tokens}" for tokens in self.tokens)
            raise UserError(
                f"the table of {self.layer.key} has no {stage} at {problem_tokens} tokens: it has"
                f" {', '.join(self.stages)} at {recorded}"
            )
        part = self.stages[stage]
        return RecordedSpace(part, self.layer, problem_tokens, self.device)
