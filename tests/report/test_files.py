"""The report as Markdown for a pull request, and as CSV and Parquet for analysis."""

import csv
import json
import sys
from pathlib import Path

import pytest

from autotune.errors import UserError
from autotune.report.content import Report, Scope, gather
from autotune.report.markdown import markdown
from autotune.report.tables import columns, csv_text
from autotune.report.write import ReportFormat, write_report
from autotune.store.store import Store


def test_markdown_has_the_result_in_a_table_and_the_rest_folded(h100: Store) -> None:
    text = markdown(h100, gather(h100, Scope()))
    row = next(line for line in text.splitlines() if line.startswith("| m4 "))
    assert "| measured | 44.20 | 43.55 | +1.6% (+1.5% to +1.8%) | 3 configs tie | 59% |" in row
    assert "**NVIDIA H100 80GB HBM3**" in text
    assert text.count("<details>") == text.count("</details>") == 2
    assert len(text) < 10_000


def test_markdown_holds_off_what_would_break_its_table(large: Store, large_report: Report) -> None:
    text = markdown(large, large_report)
    rows = [line for line in text.splitlines() if line.startswith("| m")]
    assert len(rows) == 8
    assert {line.count("|") for line in rows} == {10}
    assert "<b>" not in text


def test_csv_holds_every_trial_with_its_knobs_facts_and_kind(h100: Store) -> None:
    report = gather(h100, Scope())
    rows = list(csv.DictReader(csv_text(report).splitlines()))
    assert len(rows) == 300
    assert {row["kind"] for row in rows} == {"measured"}
    assert {row["device"] for row in rows} == {"NVIDIA H100 80GB HBM3"}
    first = rows[0]
    assert (first["stage"], first["knob.tile_k"], first["fact.lds_bytes"]) == ("stage1", "128", "6144")
    # An unset knob is empty like one that the stage does not have; the config tells them apart.
    assert (first["knob.pdl"], first["knob.reduce"]) == ("", "")
    assert json.loads(first["config"])["pdl"] is None
    assert "reduce" not in json.loads(first["config"])


def test_failed_trials_are_rows_too(large_report: Report) -> None:
    rows = list(csv.DictReader(csv_text(large_report).splitlines()))
    failed = [row for row in rows if row["status"] == "incorrect"]
    assert failed
    assert all(row["us"] == "" and row["reason"] for row in failed)


def test_parquet_has_the_same_rows_with_types(large: Store, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    report = write_report(large, Scope(), tmp_path / "trials.parquet", ReportFormat.PARQUET)
    table = parquet.read_table(tmp_path / "trials.parquet")
    assert table.num_rows == len(report.trials)
    assert table.column_names == columns(report)
    types = {field.name: str(field.type) for field in table.schema}
    assert (types["us"], types["knob.tile_k"], types["knob.hint"]) == ("double", "int64", "string")


def test_without_pyarrow_the_command_to_install_it_is_told(
    h100: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"pip install 'moe-autotune\[report\]'"):
        write_report(h100, Scope(), tmp_path / "trials.parquet", ReportFormat.PARQUET)
