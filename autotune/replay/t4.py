"""Kernel Tuner's T4 results format, in which the field exchanges recorded tables.

A T4 document holds one problem: for each configuration its validity, the compile's and the benchmark's
time, the raw runtimes. The schema is published as "Open Autotuning Results Schema", version 1.0.0. It knows
neither devices nor search-space rules, so an imported table has made-up ones: its space is what was recorded.
"""

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autotune.config import Config, Value
from autotune.devices import Device
from autotune.errors import UserError
from autotune.fingerprint import Fingerprint
from autotune.problem import Layer, Stage
from autotune.replay.table import Recorded, StageTable, Table
from autotune.results import Compiled, Failure, Measurement, Sample, StaticFacts, Status
from autotune.routing import UNIFORM

VERSION = "1.0.0"
_INVALIDITY = {
    Status.OK: "correct",
    Status.CONSTRAINT: "constraints",
    Status.COMPILE_ERROR: "compile",
    Status.COMPILE_TIMEOUT: "timeout",
    Status.RUNTIME_ERROR: "runtime",
    Status.TIMEOUT: "timeout",
    Status.INCORRECT: "correctness",
}
# `timeout` does not say what took too long: the run is the usual case.
_STATUS = {text: status for status, text in _INVALIDITY.items() if status is not Status.COMPILE_TIMEOUT}
# "miliseconds" is how the tables of the public benchmark hub spell it.
_MS = {"miliseconds": 1.0, "seconds": 1000.0, "milliseconds": 1.0, "microseconds": 1e-3, "nanoseconds": 1e-6}


def to_t4(table: Table, stage: Stage, tokens: int) -> dict[str, Any]:
    """One problem of a table as a T4 document; times in milliseconds."""
    results = []
    for row in table.stages[stage].rows:
        outcome = row.compiled if isinstance(row.compiled, Failure) else row.outcomes[tokens]
        failure = outcome if isinstance(outcome, Failure) else None
        measured = outcome if isinstance(outcome, Measurement) else None
        us = row.us(tokens)
        results.append(
            {
                "configuration": dict(row.config),
                "times": {
                    "compilation": row.compiled.seconds * 1e3,
                    "benchmark": 0.0 if outcome is row.compiled else outcome.seconds * 1e3,
                    "framework": 0.0,
                    "search_algorithm": 0.0,
                    "validation": 0.0,
                    "runtimes": [sample.us / 1e3 for sample in measured.samples] if measured else [],
                },
                "invalidity": _INVALIDITY[failure.status if failure else Status.OK],
                "correctness": 0 if failure and failure.status is Status.INCORRECT else 1,
                "measurements": [] if us is None else [{"name": "time", "value": us / 1e3, "unit": "ms"}],
                "objectives": ["time"],
            }
        )
    return {"schema_version": VERSION, "metadata": {"timeunit": "milliseconds"}, "results": results}


def read_t4(path: Path) -> Table:
    """A T4 file, plain or gzipped, as a table with one stage at one token.

    Raises:
        UserError: it is no T4 file, or nothing in it has a time.
    """
    try:
        content = path.read_bytes()
        document = json.loads(gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content)
        return from_t4(document, path.name.split(".")[0])
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is no T4 results file ({error}): see Kernel Tuner's store_output_file"
        ) from error


def from_t4(document: Mapping[str, Any], name: str) -> Table:
    """A T4 document as a table.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: it is none.
        UserError: nothing in it has a time.
    """
    if "results" not in document or "schema_version" not in document:
        raise ValueError("results or schema_version is missing")
    scale = _MS[document.get("metadata", {}).get("timeunit", "milliseconds")]
    # A tuner may have visited a configuration twice: the first time counts.
    rows: dict[Config, Recorded] = {}
    for result in document["results"]:
        row = _row(result, scale)
        rows.setdefault(row.config, row)
    first = next((row.config for row in rows.values() if row.us(1) is not None), None)
    if first is None:
        raise UserError(f"no configuration of {name} has a time: it cannot be searched")
    ordered = [rows.pop(first), *rows.values()]
    return Table(
        layer=Layer(name, 2, 2, 1, 1, 1),
        device=Device(name, "unknown", "cuda", 0, 32, 0, 0, 0, 0.0),
        fingerprint=_fingerprint(name),
        workload="T4",
        routing=UNIFORM,
        tokens=(1,),
        command="imported from T4",
        stages={Stage.STAGE1: StageTable(_space_text(ordered), tuple(ordered))},
    )


def _row(result: Mapping[str, Any], scale: float) -> Recorded:
    config = Config({knob: _value(value) for knob, value in result["configuration"].items()})
    times = result["times"]
    compile_s = scale * times.get("compilation", times.get("compilation_time", 0.0)) / 1e3
    device_s = scale * sum(times.get(part, 0.0) for part in ("benchmark", "validation")) / 1e3
    status = _STATUS[result["invalidity"]]
    runtimes = [scale * ms * 1e3 for ms in times.get("runtimes", ())] or _objective(result, scale)
    if status is Status.OK and not runtimes:
        status = Status.RUNTIME_ERROR
    if status in (Status.COMPILE_ERROR, Status.CONSTRAINT):
        return Recorded(config, Failure(status, "recorded so", compile_s), {}, {})
    compiled = Compiled(config.key, StaticFacts(), compile_s)
    if status is not Status.OK:
        return Recorded(config, compiled, {1: Failure(status, "recorded so", device_s)}, {})
    measured = Measurement(tuple(Sample(us) for us in runtimes), 0.0, device_s or sum(runtimes) / 1e6)
    return Recorded(config, compiled, {1: measured}, {})


def _objective(result: Mapping[str, Any], scale: float) -> list[float]:
    """The measured `time`, microseconds, where the raw runtimes were not kept."""
    for measured in result.get("measurements", ()):
        if measured["name"] == "time" and isinstance(measured["value"], int | float):
            in_ms = 1.0 if measured.get("unit") == "ms" else scale
            return [in_ms * measured["value"] * 1e3]
    return []


def _value(raw: Any) -> Value:
    if raw is None or isinstance(raw, bool | int | str):
        return raw
    return int(raw) if isinstance(raw, float) and raw.is_integer() else str(raw)


def _space_text(rows: Sequence[Recorded]) -> str:
    """A search-space file that offers what was recorded; its default is the first row's config."""
    lines = ['backend = "t4"', 'generation = "t4"', 'stage = "stage1"', 'doc = "imported from T4"']
    for knob, default in rows[0].config.items():
        values = dict.fromkeys(json.dumps(_written(row.config[knob])) for row in rows)
        lines += [
            f"[params.{json.dumps(knob)}]",
            f"values = [{', '.join(values)}]",
            f"default = {json.dumps(_written(default))}",
            'doc = "imported"',
        ]
    return "\n".join(lines) + "\n"


def _written(value: Value) -> int | str | bool:
    return "unset" if value is None else value


def _fingerprint(name: str) -> Fingerprint:
    return Fingerprint(
        device=name,
        arch="unknown",
        compute_units=0,
        compute_partition=None,
        memory_partition=None,
        power_cap_w=None,
        driver=None,
        runtime="unknown",
        torch=None,
        triton=None,
        backend="t4",
        kernel_source="unknown",
        tool_version="unknown",
    )
