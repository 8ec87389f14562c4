"""Tables as files: JSON, one config a line, compressed with gzip. `zcat TABLE` shows what is in one.

After the stages' rows come the recorded layers, a pair a line, by the places of its stages' rows.
Times are kept in whole nanoseconds (samples) and units of 10 microseconds (costs), the gate's error to
four digits, and of a binary's hash 16 digits: a table of thousands of configs is a few hundred kilobytes.
Clock readings are not kept.
"""

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from autotune.errors import UserError
from autotune.files import replacing
from autotune.machine.devices import Device
from autotune.machine.fingerprint import Fingerprint
from autotune.problem.layer import Layer, Stage
from autotune.problem.routing import Routing
from autotune.replay.table import Recorded, StageTable, Table
from autotune.results import (
    Compiled,
    Failure,
    LayerConfig,
    LayerMeasurement,
    Measurement,
    Sample,
    StaticFacts,
    Status,
)
from autotune.space.config import Config
from autotune.text import why

FORMAT = "autotune-table"
VERSION = 2
"""1: stages alone. It is still read."""
SUFFIX = ".table.json.gz"


def write_table(table: Table, path: Path) -> None:
    """Writes a table; equal tables make equal files."""
    head = {
        "format": FORMAT,
        "version": VERSION,
        "layer": table.layer.dims,
        "device": asdict(table.device),
        "fingerprint": asdict(table.fingerprint),
        "workload": table.workload,
        "routing": table.routing.key,
        "tokens": list(table.tokens),
        "command": table.command,
        "stages": [
            {"stage": stage, "space": part.space_text, "rows": len(part.rows), "knobs": _knobs(part)}
            for stage, part in table.stages.items()
        ],
        "layers": len(table.layers),
    }
    lines = [json.dumps(head)]
    for part in table.stages.values():
        lines += [_line(row, _knobs(part), table.tokens) for row in part.rows]
    places = {
        stage: {row.config: n for n, row in enumerate(part.rows)} for stage, part in table.stages.items()
    }
    for layer, outcomes in table.layers.items():
        of = [places[stage][layer.of(stage)] for stage in Stage]
        raw = [pack_layer(outcomes[t]) if t in outcomes else None for t in table.tokens]
        lines.append(json.dumps([*of, raw], separators=(",", ":")))
    # No time of writing inside, so that a table that did not change is not a change to version control.
    with replacing(path) as beside:
        beside.write_bytes(gzip.compress("\n".join(lines).encode() + b"\n", mtime=0))


def read_table(path: Path) -> Table:
    """Reads a table.

    Raises:
        UserError: it cannot be read, is none, or is of a later version of this tool.
    """
    try:
        lines = iter(gzip.decompress(path.read_bytes()).decode().splitlines())
        head = json.loads(next(lines))
        if head["format"] != FORMAT:
            raise ValueError("another format")
        if head["version"] > VERSION:
            raise UserError(f"{path} is of version {head['version']}, this tool reads {VERSION}: upgrade it")
        return _table(head, lines)
    except (EOFError, StopIteration) as error:
        raise UserError(
            f"{path} is not a recorded table (it ends early): make one with record_table.py"
        ) from error
    except (OSError, zlib.error, ValueError, LookupError, TypeError, RecursionError) as error:
        raise UserError(
            f"{path} is not a recorded table ({why(error)}): make one with record_table.py"
        ) from error


def _table(head: Mapping[str, Any], lines: Iterator[str]) -> Table:
    tokens = tuple(head["tokens"])
    stages = {}
    for part in head["stages"]:
        rows = tuple([_row(json.loads(next(lines)), part["knobs"], tokens) for _ in range(part["rows"])])
        stages[Stage(part["stage"])] = StageTable(part["space"], rows)
    layers = {}
    for _ in range(head.get("layers", 0)):
        first, second, outcomes = json.loads(next(lines))
        pair = LayerConfig(stages[Stage.STAGE1].rows[first].config, stages[Stage.STAGE2].rows[second].config)
        layers[pair] = {
            t: unpack_layer(raw) for t, raw in zip(tokens, outcomes, strict=True) if raw is not None
        }
    return Table(
        layer=Layer(**head["layer"]),
        device=Device(**head["device"]),
        fingerprint=Fingerprint(**head["fingerprint"]),
        workload=head["workload"],
        routing=Routing.parse(head["routing"]),
        tokens=tokens,
        command=head["command"],
        stages=stages,
        layers=layers,
    )


def _knobs(part: StageTable) -> list[str]:
    return list(part.rows[0].config) if part.rows else []


def _line(row: Recorded, knobs: Sequence[str], tokens: Sequence[int]) -> str:
    cells = [
        [row.config[name] for name in knobs],
        pack_compiled(row.compiled),
        [pack_outcome(row.outcomes[t]) if t in row.outcomes else None for t in tokens],
        [_whole(row.settled[t], 1000) if t in row.settled else None for t in tokens],
    ]
    return json.dumps(cells, separators=(",", ":"))


def _row(raw: Sequence[Any], knobs: Sequence[str], tokens: Sequence[int]) -> Recorded:
    values, compiled, outcomes, settled = raw
    return Recorded(
        config=Config(dict(zip(knobs, values, strict=True))),
        compiled=unpack_compiled(compiled),
        outcomes={
            t: unpack_outcome(outcome)
            for t, outcome in zip(tokens, outcomes, strict=True)
            if outcome is not None
        },
        settled={t: ns / 1000 for t, ns in zip(tokens, settled, strict=True) if ns is not None},
    )


def pack_compiled(compiled: Compiled | Failure) -> list[Any]:
    """A compile as JSON values."""
    if isinstance(compiled, Failure):
        return _pack_failure(compiled)
    facts = {name: fact for name, fact in asdict(compiled.facts).items() if fact is not None}
    return [_whole(compiled.seconds, 100_000), compiled.binary_hash[:16], facts]


def unpack_compiled(raw: Sequence[Any]) -> Compiled | Failure:
    """The inverse of `pack_compiled`."""
    if isinstance(raw[0], str):
        return _unpack_failure(raw)
    return Compiled(raw[1], StaticFacts(**raw[2]), raw[0] / 100_000)


def pack_outcome(outcome: Measurement | Failure) -> list[Any]:
    """A measurement as JSON values."""
    if isinstance(outcome, Failure):
        return _pack_failure(outcome)
    samples = [_whole(sample.us, 1000) for sample in outcome.samples]
    return [_whole(outcome.seconds, 100_000), float(f"{outcome.error:.3e}"), samples]


def unpack_outcome(raw: Sequence[Any]) -> Measurement | Failure:
    """The inverse of `pack_outcome`."""
    if isinstance(raw[0], str):
        return _unpack_failure(raw)
    return Measurement(tuple(Sample(ns / 1000) for ns in raw[2]), raw[1], raw[0] / 100_000)


def pack_layer(outcome: LayerMeasurement | Failure) -> list[Any]:
    """A layer beside the default as JSON values."""
    if isinstance(outcome, Failure):
        return _pack_failure(outcome)
    times = [[_whole(us, 1000) for us in taken] for taken in (outcome.us, outcome.default_us)]
    return [_whole(outcome.seconds, 100_000), float(f"{outcome.error:.3e}"), *times]


def unpack_layer(raw: Sequence[Any]) -> LayerMeasurement | Failure:
    """The inverse of `pack_layer`."""
    if isinstance(raw[0], str):
        return _unpack_failure(raw)
    us, default_us = (tuple(ns / 1000 for ns in taken) for taken in raw[2:])
    return LayerMeasurement(us, default_us, raw[1], raw[0] / 100_000)


def _pack_failure(failure: Failure) -> list[Any]:
    return [failure.status, failure.reason, _whole(failure.seconds, 100_000)]


def _unpack_failure(raw: Sequence[Any]) -> Failure:
    return Failure(Status(raw[0]), raw[1], raw[2] / 100_000)


def _whole(value: float, scale: int) -> int:
    return round(value * scale)
