"""The trials as rows for analysis: CSV, and Parquet where pyarrow is installed."""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from autotune.errors import UserError
from autotune.report.content import Report
from autotune.results import StaticFacts
from autotune.store.records import StoredTrial

_FIELDS = (
    "trial", "run", "number", "made_at", "model", "tp", "shape", "verify_tokens", "concurrency", "tokens",
    "routing", "stage", "backend", "device", "environment", "workload", "kind", "config", "origin", "status",
    "us", "gate_error", "reason", "binary_hash", "merged_into", "compile_s", "measure_s",
)  # fmt: skip


def rows(report: Report) -> list[dict[str, Any]]:
    """A row a trial, each with the same columns: the trial's, `fact.*` and `knob.*`."""
    trials = report.trials
    knobs = sorted({name for trial in trials for name in trial.config})
    return [_row(trial, knobs) for trial in trials]


def columns(report: Report) -> list[str]:
    """Names of the columns, also when there is no row."""
    knobs = sorted({name for trial in report.trials for name in trial.config})
    return [*_FIELDS, *(f"fact.{name}" for name in asdict(StaticFacts())), *(f"knob.{k}" for k in knobs)]


def _row(trial: StoredTrial, knobs: Sequence[str]) -> dict[str, Any]:
    problem = trial.problem
    known = {
        "trial": trial.id,
        "run": trial.run,
        "number": trial.number,
        "made_at": trial.created_at.isoformat(),
        "model": problem.layer.model,
        "tp": problem.layer.tp,
        "shape": problem.shape,
        "verify_tokens": problem.verify_tokens,
        "concurrency": problem.concurrency,
        "tokens": problem.tokens,
        "routing": problem.routing.key,
        "stage": str(trial.stage),
        "backend": trial.backend,
        "device": trial.environment.device,
        "environment": trial.environment.key,
        "workload": trial.workload,
        "kind": str(trial.kind),
        "config": trial.config.key,
        "origin": trial.origin,
        "status": str(trial.status),
        "us": trial.time_us,
        "gate_error": trial.gate_error,
        "reason": trial.reason,
        "binary_hash": trial.binary_hash,
        "merged_into": trial.merged_into,
        "compile_s": trial.compile_s,
        "measure_s": trial.measure_s,
    }
    facts = {f"fact.{name}": fact for name, fact in asdict(trial.facts).items()}
    return {**known, **facts, **{f"knob.{name}": trial.config.get(name) for name in knobs}}


def csv_text(report: Report) -> str:
    """RFC 4180 with a line of names. Empty: no value, or a knob left unset; `config` tells them apart."""
    out = io.StringIO()
    writer = csv.DictWriter(out, columns(report), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows(report))
    return out.getvalue()


def write_parquet(report: Report, path: Path) -> None:
    """Writes the rows as Parquet. A knob whose values are of several types becomes text.

    Raises:
        UserError: pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise UserError(
            "Parquet needs pyarrow, which is not installed: pip install 'moe-autotune[report]',"
            " or use --format csv"
        ) from error
    table_rows = rows(report)
    data = {name: _column([row[name] for row in table_rows]) for name in columns(report)}
    pq.write_table(pa.table(data), path)


def _column(values: list[Any]) -> list[Any]:
    types = {type(value) for value in values if value is not None}
    if len(types) <= 1:
        return values
    return [None if value is None else str(value) for value in values]
