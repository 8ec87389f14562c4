"""What is read from the files and folders that the benchmarks leave."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.ab.compare import compare
from autotune.ab.folder import read_arm
from autotune.ab.results import ACCEPTED, METRICS, Tool, per_accepted, read_repeat
from autotune.errors import UserError
from tests.ab.made_up import BASE, folder, lines, sglang, vllm


def test_lines_of_bench_serving_are_repeats(tmp_path: Path) -> None:
    arm = read_arm([lines(tmp_path / "base.jsonl", [sglang(s) for s in BASE])]).repeats
    assert len(arm) == 5
    assert arm[0].tool is Tool.SGLANG
    assert arm[0].values[ACCEPTED.field] == 3.93
    assert arm[1].where.endswith("base.jsonl:2")


def test_files_of_save_result_are_repeats_and_their_other_form_is_passed_over(tmp_path: Path) -> None:
    files = {f"{i}.json": vllm(s) for i, s in enumerate(BASE)}
    arm = read_arm(
        [folder(tmp_path, {**files, "0.pytorch.json": [{"benchmark": {}}], "0.timeline.html": ""})]
    )
    assert len(arm.repeats) == 5
    assert arm.repeats[0].tool is Tool.VLLM
    assert arm.notes == ()


def test_append_result_ends_without_a_newline_and_may_have_any_layout(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("\n".join(json.dumps(vllm(), indent=i) for i in (None, 2, None)))
    first, second, _ = read_arm([tmp_path / "a.json"]).repeats
    assert (first.where[-2:], second.where[-2:]) == (":1", ":2")


def sweep(**more: Any) -> dict[str, Any]:
    """The folder of a combination of vLLM's sweep."""
    runs = [vllm(s, run_number=i, max_num_seqs=64) for i, s in enumerate(BASE)]
    return {**{f"run={i}.json": run for i, run in enumerate(runs)}, "summary.json": runs, **more}


def test_a_sweeps_runs_count_once_and_its_warm_up_and_failures_are_said(tmp_path: Path) -> None:
    more = {"warmup.json": vllm(9.0, run_number=-1), "run=5.failure.json": {"error_type": "OSError"}}
    arm = read_arm([folder(tmp_path, sweep(**more))])
    assert len(arm.repeats) == 5
    assert [note.rpartition("/")[2] for note in arm.notes] == [
        "run=5.failure.json: a failed run, skipped",
        "warmup.json: the warm-up, skipped",
    ]


def test_a_summary_alone_is_its_list_of_runs(tmp_path: Path) -> None:
    arm = read_arm([folder(tmp_path, {"summary.json": sweep()["summary.json"]})]).repeats
    assert [one.where.rpartition("/")[2] for one in arm] == [f"summary.json[{i}]" for i in range(5)]


def test_the_experiment_of_a_single_combination_is_its_folder(tmp_path: Path) -> None:
    folder(tmp_path / "BENCH--max_concurrency=40", sweep())
    (tmp_path / "summary.csv").write_text("")
    assert len(read_arm([tmp_path]).repeats) == 5
    folder(tmp_path / "BENCH--max_concurrency=1", sweep())
    with pytest.raises(UserError, match="holds 2 combinations of a sweep: give one's folder"):
        read_arm([tmp_path])


def test_a_folder_a_run_is_one_arm(tmp_path: Path) -> None:
    arm = read_arm([folder(tmp_path, {f"{i}/out.json": vllm(s) for i, s in enumerate(BASE)})]).repeats
    assert len(arm) == 5


@pytest.mark.parametrize("bad", [0, 0.0, -1.0, float("nan"), float("inf"), "12.0", True, 10**400])
@pytest.mark.parametrize("make", [sglang, vllm])
def test_what_is_no_number_above_zero_is_left_out_of_the_comparison(make: Any, bad: Any) -> None:
    """One output token makes TPOT 0, no stream makes ITL NaN."""
    good, other = read_repeat(make(), "good"), read_repeat(make(median_tpot_ms=bad), "bad")
    assert "median_tpot_ms" in other.bad
    compared = {one.metric.field for one in compare([good], [other])}
    assert compared == {metric.field for metric in METRICS} - {"median_tpot_ms"}


def test_nothing_to_compare_is_refused_with_the_reason() -> None:
    nothing: dict[str, Any] = dict.fromkeys((metric.field for metric in METRICS), 0.0)
    repeat = read_repeat(sglang() | nothing | {"accept_length": None}, "r.jsonl:1")
    with pytest.raises(UserError, match=r"TPOT median, ms left out: median_tpot_ms is 0.0 in r.jsonl:1"):
        compare([repeat], [repeat])


def test_accepted_tokens_are_read_as_either_tool_writes_them() -> None:
    def accepted(raw: dict[str, Any]) -> float | None:
        return read_repeat(raw, "x").values.get(ACCEPTED.field)

    assert accepted(vllm()) == 3.93
    assert accepted(vllm(spec_decode_acceptance_length=None)) == pytest.approx(3.93, abs=1e-3)
    state = {"internal_states": [{"avg_spec_accept_length": 2.5}]}
    assert accepted(sglang(accept_length=None, server_info=state)) == 2.5
    assert accepted(sglang(accept_length=None, server_info={"prefill": [{}], "decode": [state]})) == 2.5
    assert accepted(sglang(accept_length=None, server_info=None)) is None
    assert accepted(sglang(accept_length=0.0)) is None


def test_milliseconds_an_accepted_token_are_a_steps_time_over_its_tokens() -> None:
    times, formula = per_accepted([read_repeat(vllm(), "x")])
    assert times == [pytest.approx(117.9 / 3.93)]
    assert formula.startswith("mean ITL / accepted tokens per step")
    assert per_accepted([read_repeat(sglang(), "x")]) == (times, formula)
    # bench_serving 0.5.23 spreads a step over its tokens: then the mean ITL is TPOT's like.
    assert per_accepted([read_repeat(sglang(mean_itl_ms=30.1), "x")])[0] == [30.1]
    assert per_accepted([read_repeat(vllm(mean_itl_ms=None), "x")]) == ([], "")


def test_accepted_tokens_are_the_mean_over_all_that_decode() -> None:
    def accepted(info: Any, **more: Any) -> float | None:
        return read_repeat(sglang(server_info=info, **more), "x").values.get(ACCEPTED.field)

    one, other = ({"internal_states": [{"avg_spec_accept_length": length}]} for length in (2.9, 1.1))
    ranks = {"internal_states": one["internal_states"] + other["internal_states"]}
    assert accepted(ranks, accept_length=2.9) == pytest.approx(2.0)
    assert accepted({"prefill": [other], "decode": [one, other]}, accept_length=2.9) == pytest.approx(2.0)
    assert accepted({"decode": {"http://a:1": one, "http://b:2": other}}) == pytest.approx(2.0)
    unknown = {"internal_states": [{"avg_spec_accept_length": None}], "decode": [one]}
    assert accepted(unknown, accept_length=None) == 2.9


def test_a_copy_of_a_run_is_no_further_measurement(tmp_path: Path) -> None:
    files = {"0.json": vllm(), "1.json": vllm(1.01), "all.json": [vllm(), vllm(1.01), vllm(1.02)]}
    arm = read_arm([folder(tmp_path, files)])
    assert len(arm.repeats) == 3
    assert arm.notes[0] == f"{tmp_path}/all.json[0]: the same run as in {tmp_path}/0.json, counted once"


def test_hidden_files_are_none_of_a_folders_results(tmp_path: Path) -> None:
    assert (
        len(read_arm([folder(tmp_path, {"0.json": vllm(), "._0.json": "\0", ".x/0.json": "["})]).repeats) == 1
    )


def test_failed_requests_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="3 requests failed"):
        read_arm([lines(tmp_path / "a", [vllm(failed=3)])])
    with pytest.raises(UserError, match="1 request failed"):
        read_arm([lines(tmp_path / "b", [sglang(errors=["", "timed out"])])])
    with pytest.raises(UserError, match="no request was completed"):
        read_arm([lines(tmp_path / "c", [sglang(completed=0)])])
    older = {name: value for name, value in vllm(completed=150).items() if name != "failed"}
    with pytest.raises(UserError, match="150 of 160 requests were completed"):
        read_arm([lines(tmp_path / "d", [older])])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{}", "has neither request_throughput nor median_tpot_ms"),
        ("[1]", r"x.json\[0\] has neither"),
        ("no JSON", "is not a result file"),
        ("", "x.json is empty"),
        ('{"request_throughput": {"unit": "requests/sec", "avg": 4.5}}', "has neither"),  # genai-perf
        ('{"request_throughput": 1.0, "request_throughput": 2.0}', "is not a result file .*twice"),
        ("[" * 100_000, "is not a result file .*nested"),
        (json.dumps(vllm())[:-20], "is not a result file"),
        (json.dumps(vllm(total_output_tokens="many")), 'x.json: total_output_tokens is "many"'),
    ],
)
def test_other_files_are_refused(content: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=reason):
        read_arm([folder(tmp_path, {"x.json": content})])


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no \.json"):
        read_arm([tmp_path])
    with pytest.raises(UserError, match=r"has no \.json .*, but warmup.json"):
        read_arm([folder(tmp_path, {"warmup.json": vllm()})])
    with pytest.raises(
        UserError, match=r"there is no .*absent\.json: an arm is a result file, or a folder of them"
    ):
        read_arm([tmp_path / "absent.json"])


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.sampled_from(["inf", "nan", "", "x"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["decode", "internal_states", "tp_size", "version"]), inner, max_size=2
        )
    ),
    max_leaves=5,
)
KEYS = sorted({*sglang(), *vllm(), "errors", "--tensor-parallel-size", "run_number"})


@given(st.sampled_from([sglang, vllm]), st.dictionaries(st.sampled_from(KEYS), JSON, max_size=4))
def test_any_result_is_compared_or_refused_in_one_sentence(make: Any, changes: dict[str, Any]) -> None:
    with suppress(UserError):
        repeats = [read_repeat(json.loads(json.dumps(make(s, **changes))), "x") for s in (1.0, 0.9)]
        for one in compare(repeats[:1], repeats[1:]):
            json.dumps([one.base, one.tuned, one.ratio.low, one.ratio.high, one.p], allow_nan=False)
