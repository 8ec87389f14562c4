"""Two arms of a serving benchmark, from made-up result files of both tools."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from autotune.ab.compare import compare, compare_values
from autotune.ab.evals import compare_evals
from autotune.ab.results import METRICS, Tool, read_arm
from autotune.cli.ab import ab
from autotune.errors import UserError
from autotune.measure.statistics import Verdict


def figures(scale: float) -> dict[str, float]:
    times = {m.field: 30.0 * scale for m in METRICS if not m.higher_is_better}
    return times | {m.field: 900.0 / scale for m in METRICS if m.higher_is_better}


def sglang(scale: float, **changes: Any) -> dict[str, Any]:
    return {
        "tag": None,
        "backend": "sglang",
        "dataset_name": "random",
        "request_rate": float("inf"),
        "max_concurrency": 40,
        "sharegpt_output_len": None,
        "random_input_len": 10240,
        "random_output_len": 512,
        "random_range_ratio": 1.0,
        "server_info": {"tp_size": 8, "speculative_num_draft_tokens": 4, "port": 30000},
        "completed": 160,
        "total_input_tokens": 1638400,
        "total_output_tokens": 81920,
        "accept_length": 3.93,
        **figures(scale),
        **changes,
    }


def vllm(scale: float, **changes: Any) -> dict[str, Any]:
    return {
        "date": "20260101-000000",
        "backend": "vllm",
        "model_id": "kimi",
        "num_prompts": 160,
        "request_rate": "inf",
        "burstiness": 1.0,
        "max_concurrency": 40,
        "completed": 160,
        "failed": 0,
        "total_input_tokens": 1638400,
        "total_output_tokens": 81920,
        **figures(scale),
        **changes,
    }


def lines(path: Path, results: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in results))
    return path


def folder(path: Path, results: list[dict[str, Any]]) -> Path:
    path.mkdir()
    for index, one in enumerate(results):
        (path / f"{index}.json").write_text(json.dumps(one, indent=1))
    return path


BASE, TUNED = (1.0, 1.01, 0.99, 1.0, 1.005), (0.97, 0.975, 0.965, 0.97, 0.972)


def test_lines_of_bench_serving_are_repeats(tmp_path: Path) -> None:
    arm = read_arm([lines(tmp_path / "base.jsonl", [sglang(s) for s in BASE])])
    assert len(arm) == 5
    assert arm[0].tool is Tool.SGLANG
    assert arm[0].accept_length == 3.93
    assert arm[1].where.endswith("base.jsonl:2")


def test_files_of_vllm_bench_serve_are_repeats(tmp_path: Path) -> None:
    arm = read_arm([folder(tmp_path / "base", [vllm(s) for s in BASE])])
    assert len(arm) == 5
    assert arm[0].tool is Tool.VLLM


@pytest.mark.parametrize("make", [sglang, vllm])
def test_three_per_cent_are_found_with_five_repeats(make: Any, tmp_path: Path) -> None:
    base = read_arm([lines(tmp_path / "a", [make(s) for s in BASE])])
    tuned = read_arm([lines(tmp_path / "b", [make(s) for s in TUNED])])
    found = {one.metric.field: one for one in compare(base, tuned)}
    assert set(found) == {metric.field for metric in METRICS}
    assert {one.verdict for one in found.values()} == {Verdict.FASTER}
    tpot = found["median_tpot_ms"].ratio
    assert tpot.value == pytest.approx(0.969, abs=1e-3)
    assert tpot.low < tpot.value < tpot.high < 0.99
    assert found["output_throughput"].ratio.value > 1


def test_three_repeats_decide_nothing() -> None:
    said = compare_values(METRICS[0], [30.0, 30.1, 29.9], [27.0, 27.1, 26.9], 0.01)
    assert said.ratio.high < 0.92
    assert said.p == pytest.approx(0.1)
    assert said.verdict is Verdict.AMBIGUOUS


def test_slower_is_said_too() -> None:
    said = compare_values(METRICS[0], [30.0 * s for s in TUNED], [30.0 * s for s in BASE], 0.01)
    assert said.verdict is Verdict.SLOWER


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(20, 40), min_size=1, max_size=6))
def test_an_arm_against_itself_never_wins(values: list[float]) -> None:
    said = compare_values(METRICS[0], values, values, 0.01)
    assert said.ratio.value == pytest.approx(1)
    assert said.p == 1
    assert said.verdict in (Verdict.SAME, Verdict.AMBIGUOUS)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"max_concurrency": 1}, "max_concurrency is 40 .* and 1 "),
        ({"random_input_len": 1024}, "random_input_len"),
        ({"request_rate": 4.0}, "request_rate"),
        ({"completed": 159}, "completed"),
        ({"server_info": {"tp_size": 8, "speculative_num_draft_tokens": 3}}, "speculative_num_draft_tokens"),
        ({"total_output_tokens": 70000}, "81920 output tokens a run in the base arm and 70000"),
        ({"total_input_tokens": 1000}, "input tokens"),
    ],
)
def test_unequal_workloads_are_refused(change: Mapping[str, Any], reason: str, tmp_path: Path) -> None:
    base = read_arm([lines(tmp_path / "a", [sglang(1.0)])])
    tuned = read_arm([lines(tmp_path / "b", [sglang(1.0, **change)])])
    with pytest.raises(UserError, match=reason):
        compare(base, tuned)


def test_what_does_not_matter_may_differ(tmp_path: Path) -> None:
    other = {"tp_size": 8, "speculative_num_draft_tokens": 4, "port": 30001}
    base = read_arm([lines(tmp_path / "a", [sglang(1.0)])])
    tuned = read_arm([lines(tmp_path / "b", [sglang(1.0, server_info=other, tag="tuned")])])
    assert compare(base, tuned)


def test_two_tools_are_not_compared(tmp_path: Path) -> None:
    base = read_arm([lines(tmp_path / "a", [sglang(1.0)])])
    tuned = read_arm([lines(tmp_path / "b", [vllm(1.0)])])
    with pytest.raises(UserError, match="one tool"):
        compare(base, tuned)


def test_failed_requests_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="3 requests failed"):
        read_arm([lines(tmp_path / "a", [vllm(1.0, failed=3)])])
    with pytest.raises(UserError, match="1 requests failed"):
        read_arm([lines(tmp_path / "b", [sglang(1.0, errors=["", "timed out"])])])


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(UserError, match="median_tpot_ms"):
        read_arm([tmp_path])
    (tmp_path / "x.json").write_text("no JSON")
    with pytest.raises(UserError, match="no result file"):
        read_arm([tmp_path])
    with pytest.raises(UserError, match=r"no \.json"):
        read_arm([folder(tmp_path / "empty", [])])


def gsm8k(score: float, **changes: Any) -> dict[str, Any]:
    scores = {
        "alias": "gsm8k",
        "exact_match,strict-match": score,
        "exact_match_stderr,strict-match": 0.0068,
    }
    return {"results": {"gsm8k": scores}, "n-shot": {"gsm8k": 5}, "versions": {"gsm8k": 3}, **changes}


def scores(path: Path, content: dict[str, Any]) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_gsm8k_within_its_error_is_no_difference(tmp_path: Path) -> None:
    (one,) = compare_evals(scores(tmp_path / "a", gsm8k(0.934)), scores(tmp_path / "b", gsm8k(0.936)))
    assert one.name == "gsm8k exact_match,strict-match"
    assert (one.lower, one.text) == (False, "no difference found")


def test_gsm8k_of_a_broken_kernel_is_lower(tmp_path: Path) -> None:
    (one,) = compare_evals(scores(tmp_path / "a", gsm8k(0.934)), scores(tmp_path / "b", gsm8k(0.04)))
    assert one.lower


def test_unequal_evaluations_are_refused(tmp_path: Path) -> None:
    other = gsm8k(0.9, **{"n-shot": {"gsm8k": 8}})
    with pytest.raises(UserError, match="n-shot"):
        compare_evals(scores(tmp_path / "a", gsm8k(0.934)), scores(tmp_path / "b", other))


def test_the_command_prints_a_table_and_fails_where_the_tuned_arm_is_worse(tmp_path: Path) -> None:
    import typer

    app = typer.Typer()
    app.command()(ab)
    base = str(lines(tmp_path / "a", [sglang(s) for s in BASE]))
    tuned = str(lines(tmp_path / "b", [sglang(s) for s in TUNED]))
    good = CliRunner().invoke(app, [base, tuned])
    assert good.exit_code == 0
    assert "TPOT median, ms" in good.stdout
    assert "faster" in good.stdout
    assert CliRunner().invoke(app, [tuned, base]).exit_code == 1
    before, after = scores(tmp_path / "c", gsm8k(0.934)), scores(tmp_path / "d", gsm8k(0.5))
    with_evals = [base, tuned, "--eval-base", str(before), "--eval-tuned", str(after)]
    worse = CliRunner().invoke(app, with_evals)
    assert worse.exit_code == 1
    assert "LOWER" in worse.stdout
