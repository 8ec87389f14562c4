"""The recorded configs as a search space: legal is what was recorded, whatever the rules say."""

import random
from collections.abc import Collection, Iterator
from dataclasses import replace
from functools import cached_property

from autotune.errors import UserError
from autotune.machine.devices import Device
from autotune.problem.layer import Layer
from autotune.space.config import Config
from autotune.space.space import BoundSpace, Space


class RecordedSpace(BoundSpace):
    """A bounded space: of each knob only the values that were recorded, of their product only the recorded.

    Raises:
        UserError: the default of the space was not recorded.
    """

    def __init__(
        self, space: Space, layer: Layer, tokens: int, device: Device, recorded: Collection[Config]
    ) -> None:
        whole = space.at(layer, tokens, device)
        occurring = {
            param.name: {(type(c[param.name]), c[param.name]) for c in recorded if param.name in c}
            for param in whole.params
        }
        params = tuple(
            replace(param, values=tuple(v for v in param.values if (type(v), v) in occurring[param.name]))
            for param in whole.params
            if occurring[param.name]
        )
        super().__init__(space, params, whole._variables)
        self._recorded = dict.fromkeys(recorded)
        if self.default not in self._recorded:
            raise UserError(f"the table lacks the default {self.default}: record it again")

    def is_legal(self, config: Config) -> bool:
        return config in self._recorded

    @cached_property
    def size(self) -> int:
        """Recorded configs."""
        return len(self._recorded)

    def __iter__(self) -> Iterator[Config]:
        return iter(self._recorded)

    def sample(self, rng: random.Random) -> Config:
        return rng.choice(list(self._recorded))
