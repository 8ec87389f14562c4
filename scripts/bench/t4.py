"""Kernel Tuner's T4 results format, in which the field exchanges recorded tables.

A T4 document holds one problem: for each configuration its validity, the compile's and the benchmark's
time, the raw runtimes. The schema is published as "Open Autotuning Results Schema", version 1.0.0. It knows
neither devices nor search-space rules, so an imported table has made-up ones: its space is what was recorded.
A measurement has its own unit. Costs, raw runtimes and a measurement without a unit are in the document's
`timeunit`, milliseconds where it names none.
"""

import gzip
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autotune.errors import UserError
from autotune.machine.devices import Device
from autotune.machine.fingerprint import Fingerprint
from autotune.problem.layer import Layer, Stage
from autotune.problem.routing import UNIFORM
from autotune.quantities import load_json, not_negative, positive, us_per_unit
from autotune.replay.table import Recorded, StageTable, Table
from autotune.results import Compiled, Failure, Measurement, Sample, StaticFacts, Status
from autotune.space.config import Config, Value

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
        UserError: it is no T4 file, a time in it is none or has no known unit, or nothing in it has a time.
    """
    try:
        content = path.read_bytes()
        document = load_json(gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content)
        return from_t4(document, path.name.split(".")[0], str(path))
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is no T4 results file ({error}): see Kernel Tuner's store_output_file"
        ) from error


def from_t4(document: Mapping[str, Any], name: str, where: str = "") -> Table:
    """A T4 document as a table.

    Args:
        where: the document's file, for errors; its name where there is none.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: it is none.
        UserError: a time in it is no time or has no known unit, or nothing in it has a time.
    """
    where = where or name
    if "results" not in document or "schema_version" not in document:
        raise ValueError("results or schema_version is missing")
    timeunit = (document.get("metadata") or {}).get("timeunit", "milliseconds")
    us = us_per_unit(timeunit, f"{where}: timeunit")
    # A tuner may have visited a configuration twice: the first time counts.
    rows: dict[Config, Recorded] = {}
    for number, result in enumerate(document["results"]):
        row = _row(result, us, f"{where}: results[{number}]")
        rows.setdefault(row.config, row)
    first = next((row.config for row in rows.values() if row.us(1) is not None), None)
    if first is None:
        raise UserError(f"no configuration of {where} has a time: it cannot be searched")
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


def _row(result: Mapping[str, Any], us: float, where: str) -> Recorded:
    """One configuration.

    Args:
        us: microseconds in a unit of the document's times.
    """

    def seconds(*names: str) -> float:
        """A cost; what has none to tell, as what never was compiled, has null or nothing."""
        raw = next((times[name] for name in names if times.get(name) is not None), 0.0)
        return us * not_negative(raw, f"{where} {names[0]}") / 1e6

    config = Config({knob: _value(value) for knob, value in result["configuration"].items()})
    times = result["times"]
    compile_s = seconds("compilation", "compilation_time")
    device_s = seconds("benchmark") + seconds("validation")
    status = _STATUS[result["invalidity"]]
    # What failed may have anything for a time, an error's name for one.
    runtimes = _runtimes(result, us, where) if status is Status.OK else []
    if status is Status.OK and not runtimes:
        status = Status.RUNTIME_ERROR
    if status in (Status.COMPILE_ERROR, Status.CONSTRAINT):
        return Recorded(config, Failure(status, "recorded so", compile_s), {}, {})
    compiled = Compiled(config.key, StaticFacts(), compile_s)
    if status is not Status.OK:
        return Recorded(config, compiled, {1: Failure(status, "recorded so", device_s)}, {})
    measured = Measurement(tuple(Sample(time) for time in runtimes), 0.0, device_s or sum(runtimes) / 1e6)
    return Recorded(config, compiled, {1: measured}, {})


def _runtimes(result: Mapping[str, Any], us: float, where: str) -> list[float]:
    """The raw runtimes, microseconds, or the measured `time` where they were not kept."""
    raw = result["times"].get("runtimes") or ()
    if raw:
        return [us * positive(time, f"{where} runtimes[{i}]") for i, time in enumerate(raw)]
    for measured in result.get("measurements", ()):
        if measured["name"] == "time":
            place = f"{where} time"
            unit = measured.get("unit")
            per_unit = us if unit is None else us_per_unit(unit, f"{place}'s unit")
            return [per_unit * positive(measured["value"], place)]
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
        runtime="unknown",
        backend="t4",
        kernel_source="unknown",
        tool_version="unknown",
    )
