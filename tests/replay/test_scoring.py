"""Scores by hand: what an evaluation is, what it costs, and when a search has arrived."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench import searchers
from bench.scoring import (
    PROCESSES,
    JointRun,
    Recording,
    Run,
    one_after_the_other,
    recordings,
    score,
    score_joint,
)

from autotune.problem.layer import Stage
from autotune.replay.table import Table
from tests.replay.conftest import table as table


def recording(*times: float, tokens: int = 1) -> Recording:
    us = np.array(times)
    cost = np.full(len(times), 1.6)
    return Recording(f"t/stage1/m{tokens}", Stage.STAGE1, tokens, _rows(len(times)), us, us, cost, cost / 16)


def _rows(count: int) -> list[object]:
    class Row:
        settled: dict[int, float] = {}  # noqa: RUF012

    return [Row()] * count


NAN = float("nan")


def test_evaluations_are_counted_until_one_is_within_one_per_cent() -> None:
    made = recording(20.0, 10.05, 10.0, 15.0)
    count, seconds, reached = Run([0, 3, 1, 2]).to_optimum(made)
    assert (count, reached) == (3, True)
    assert seconds == pytest.approx(3 * (1.6 / PROCESSES + 0.1))


def test_who_never_arrives_is_charged_with_the_whole_table() -> None:
    count, seconds, reached = Run([0, 3]).to_optimum(recording(20.0, 10.05, 10.0, 15.0))
    assert (count, reached) == (4, False)
    assert seconds == pytest.approx(4 * 0.2)


def test_fractions_are_of_the_best_so_far_and_failures_give_none() -> None:
    made = recording(NAN, 20.0, 10.0)
    assert Run([0, 1, 2]).fractions(made, (1, 2, 3, 9)) == [0.0, 0.5, 1.0, 1.0]


def test_a_joint_search_has_arrived_when_every_problem_has() -> None:
    one, four = recording(10.0, 20.0), recording(30.0, 15.0, tokens=4)
    run = JointRun([(0, 0), (1, 0), (0, 1), (1, 1)])
    evaluations, compiled, seconds, reached = run.to_optimum([one, four])
    assert (evaluations, compiled, reached) == (4, 2, True)
    assert seconds == pytest.approx(2 * 0.1 + 4 * 0.1), "one compile serves both"


def test_peers_one_after_the_other_pay_a_compile_once() -> None:
    one, four = recording(10.0, 20.0), recording(30.0, 15.0, tokens=4)
    run = one_after_the_other([Run([0]), Run([0, 1])])
    assert run.to_optimum([one, four])[:2] == (3, 2)


def test_records_have_the_agreed_fields() -> None:
    made = score(recording(20.0, 10.0), "random", [Run([0, 1]), Run([1, 0])], held_back=True).record()
    agreed = "table held_back searcher seeds evaluations_to_1pct_p50 evaluations_to_1pct_p90"
    agreed += " gpu_seconds_to_1pct_p50 fraction_at_20 fraction_at_50 fraction_at_100"
    assert set(agreed.split()) <= set(made)
    assert (made["evaluations_to_1pct_p50"], made["reached"], made["held_back"]) == (1.5, 1.0, True)
    json.dumps(made)


def test_every_searcher_evaluates_recorded_configs_once(table: Table) -> None:
    import optuna

    made = recordings(table, "small")[0]
    runs = {
        "ours": searchers.ours(table, made, 0, 40),
        "random": searchers.uniform(made, 0),
        "tpe": searchers.optuna(table, made, optuna.samplers.TPESampler(seed=0), 40, 400),
        "exhaustive": searchers.exhaustive(made),
    }
    for name, run in runs.items():
        assert len(set(run.order)) == len(run.order), name
        assert set(run.order) <= set(range(len(made.rows))), name
    assert len(runs["random"].order) == len(runs["exhaustive"].order) == len(made.rows)


@pytest.mark.slow
def test_our_joint_search_arrives_everywhere_with_few_candidates(table: Table) -> None:
    """With a third at most, though recorded tables are of GPUs, and this one is nothing like a GPU."""
    problems = recordings(table, "small")
    a_third = max(len(part.rows) for part in table.stages.values()) // 3
    runs = [searchers.ours_jointly(table, problems, seed, a_third) for seed in range(3)]
    made = score_joint("small/all", problems, "autotune", runs, held_back=False)
    assert made.reached >= 0.6
    assert made.compiled_to_1pct_p50 < made.size / 3


@pytest.mark.slow
def test_the_script_writes_records_and_says_what_it_left_out(
    table_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "scripts"))
    import compare_searchers

    monkeypatch.setattr(sys, "argv", ["compare_searchers.py"])
    monkeypatch.setattr(compare_searchers.importlib.util, "find_spec", lambda _: None)
    out = tmp_path / "compare.json"
    arguments = [str(table_path), "--seeds", "2", "--json", str(out), "--held-back", "small"]
    arguments += ["--searchers", "autotune,random,hybrid_vndx", "--tokens", "1", "4", "--evaluations", "30"]
    assert compare_searchers.main([*arguments, "--candidates", "30", "--processes", "1"]) == 0
    records = json.loads(out.read_text())
    assert {record["table"] for record in records} >= {"small/stage1/m1", "small/stage1/all", "small/all"}
    assert {record["searcher"] for record in records} == {"autotune", "random"}
    assert all(record["held_back"] for record in records)
    assert "left out: hybrid_vndx" in capsys.readouterr().err


@pytest.mark.parametrize(
    "names", ["random,exhaustive", pytest.param("autotune,random", marks=pytest.mark.slow)]
)
def test_a_comparison_in_parts_is_the_one_made_at_once(
    names: str, table_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "scripts"))
    import compare_searchers

    def compared(seeds: int, runs: Path, name: str) -> Any:
        out = tmp_path / name
        arguments = [str(table_path), "--seeds", str(seeds), "--json", str(out), "--runs", str(runs)]
        arguments += ["--searchers", names, "--tokens", "1", "--evaluations", "20"]
        assert compare_searchers.main([*arguments, "--candidates", "10", "--processes", "1"]) == 0
        return json.loads(out.read_text())

    parts, once = tmp_path / "parts.jsonl", tmp_path / "once.jsonl"
    compared(1, parts, "half.json")
    first = parts.read_text()
    in_parts = compared(2, parts, "whole.json")
    assert parts.read_text().startswith(first), "what was run is not run again"
    assert in_parts == compared(2, once, "once.json")
    assert len(parts.read_text().splitlines()) == len(once.read_text().splitlines())
