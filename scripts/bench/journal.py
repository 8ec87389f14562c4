"""What a recording has got so far: one JSON line a finding, so that a killed one goes on where it was."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autotune.errors import UserError
from autotune.files import write_text
from autotune.problem.layer import Stage
from autotune.replay.files import (
    pack_compiled,
    pack_layer,
    pack_outcome,
    unpack_compiled,
    unpack_layer,
    unpack_outcome,
)
from autotune.replay.table import Recorded
from autotune.results import Compiled, Failure, LayerConfig, LayerMeasurement, Measurement
from autotune.space.config import Config

Key = tuple[Stage, Config]


@dataclass
class Journal:
    """The findings of one recording; each is on disk when its method returns.

    Raises:
        UserError: the file belongs to another recording.
    """

    path: Path
    recording: str
    compiled: dict[Key, Compiled | Failure] = field(default_factory=dict)
    outcomes: dict[Key, dict[int, Measurement | Failure]] = field(default_factory=dict)
    settled: dict[tuple[Stage, int], dict[Config, float]] = field(default_factory=dict)

    layers: dict[LayerConfig, dict[int, LayerMeasurement | Failure]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.path.exists():
            text = self.path.read_text()
            # A killed process leaves its last line unfinished.
            whole, _, unfinished = text.rpartition("\n")
            for line in whole.splitlines():
                self._read(json.loads(line))
            if unfinished:
                write_text(self.path, whole + "\n")
        else:
            self._write({"recording": self.recording})

    def add_compiled(self, key: Key, compiled: Compiled | Failure) -> None:
        self.compiled[key] = compiled
        self._write({**_named(key), "compiled": pack_compiled(compiled)})

    def add_outcomes(self, key: Key, outcomes: dict[int, Measurement | Failure]) -> None:
        self.outcomes[key] = outcomes
        self._write({**_named(key), "outcomes": {t: pack_outcome(o) for t, o in outcomes.items()}})

    def add_settled(self, stage: Stage, tokens: int, settled: dict[Config, float]) -> None:
        self.settled[stage, tokens] = settled
        times = {config.key: us for config, us in settled.items()}
        self._write({"stage": stage, "tokens": tokens, "settled": times})

    def add_layers(self, layers: Mapping[LayerConfig, dict[int, LayerMeasurement | Failure]]) -> None:
        self.layers |= layers
        for pair, outcomes in layers.items():
            packed = {t: pack_layer(outcome) for t, outcome in outcomes.items()}
            self._write({"layer": [pair.stage1.key, pair.stage2.key], "outcomes": packed})

    def row(self, key: Key) -> Recorded:
        """All that is known of a config whose compile is known."""
        stage, config = key
        settled = {t: us[config] for (s, t), us in self.settled.items() if s is stage and config in us}
        return Recorded(config, self.compiled[key], self.outcomes.get(key, {}), settled)

    def finished(self, key: Key) -> bool:
        """Whether nothing is left to do for a config in the sweep."""
        return key in self.outcomes or isinstance(self.compiled.get(key), Failure)

    def _read(self, line: dict[str, Any]) -> None:
        if "recording" in line:
            if line["recording"] != self.recording:
                raise UserError(
                    f"{self.path} belongs to another recording ({line['recording']}): choose another --out,"
                    " or delete it"
                )
            return
        if "layer" in line:
            pair = LayerConfig(*(Config.from_key(key) for key in line["layer"]))
            self.layers[pair] = {int(t): unpack_layer(raw) for t, raw in line["outcomes"].items()}
            return
        stage = Stage(line["stage"])
        if "settled" in line:
            times = {Config.from_key(key): us for key, us in line["settled"].items()}
            self.settled[stage, line["tokens"]] = times
            return
        key = stage, Config.from_key(line["config"])
        if "compiled" in line:
            self.compiled[key] = unpack_compiled(line["compiled"])
        else:
            self.outcomes[key] = {int(t): unpack_outcome(o) for t, o in line["outcomes"].items()}

    def _write(self, line: dict[str, Any]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(line, separators=(",", ":")) + "\n")


def _named(key: Key) -> dict[str, str]:
    return {"stage": key[0], "config": key[1].key}
