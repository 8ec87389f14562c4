"""The exchange with Kernel Tuner's format."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from bench.t4 import from_t4, read_t4, to_t4
from hypothesis import given
from hypothesis import strategies as st

from autotune.errors import UserError
from autotune.problem.layer import Stage
from autotune.replay.table import Table
from autotune.results import Failure, Measurement, Status
from autotune.space.config import Config


def result(block: int, invalidity: str = "correct", **times: Any) -> dict[str, Any]:
    """A result as Kernel Tuner writes one."""
    runtimes = times.pop("runtimes", [0.1 * block, 0.11 * block])
    return {
        "timestamp": "2026-01-01 00:00:00+00:00",
        "configuration": {"block_size_x": block, "use_padding": 0, "mode": "fast"},
        "times": {"compilation": 660.0, "benchmark": 390.0, "framework": 53.0, "runtimes": runtimes, **times},
        "invalidity": invalidity,
        "correctness": 1,
        "measurements": [{"name": "time", "value": 0.105 * block, "unit": "ms"}],
        "objectives": ["time"],
    }


def document(*results: dict[str, Any], **metadata: str) -> dict[str, Any]:
    return {"schema_version": "1.0.0", "results": list(results), "metadata": metadata}


def test_a_t4_table_can_be_searched() -> None:
    table = from_t4(document(result(64), result(16), result(32, "compile"), result(128, "runtime")), "conv")
    space = table.space(1, Stage.STAGE1)
    assert space.size == 4
    assert table.stages[Stage.STAGE1].optimum(1)[0]["block_size_x"] == 16
    row = table.stages[Stage.STAGE1].by_config[space.default]
    assert row.compiled.seconds == pytest.approx(0.66)
    outcome = row.outcomes[1]
    assert isinstance(outcome, Measurement)
    assert [sample.us for sample in outcome.samples] == pytest.approx([6400.0, 7040.0])
    assert outcome.seconds == pytest.approx(0.39)


@pytest.mark.parametrize(
    ("invalidity", "status"),
    [
        ("compile", Status.COMPILE_ERROR),
        ("constraints", Status.CONSTRAINT),
        ("runtime", Status.RUNTIME_ERROR),
        ("timeout", Status.TIMEOUT),
        ("correctness", Status.INCORRECT),
    ],
)
def test_every_kind_of_invalidity_is_a_status(invalidity: str, status: Status) -> None:
    table = from_t4(document(result(1), result(2, invalidity)), "conv")
    row = table.stages[Stage.STAGE1].rows[1]
    failure = row.compiled if isinstance(row.compiled, Failure) else row.outcomes[1]
    assert isinstance(failure, Failure)
    assert failure.status is status
    assert row.us(1) is None


def test_without_raw_runtimes_the_measured_time_counts() -> None:
    table = from_t4(document(result(10, runtimes=[])), "conv")
    assert table.stages[Stage.STAGE1].optimum(1)[1] == pytest.approx(1050.0)


def test_the_time_unit_is_respected() -> None:
    table = from_t4(document(result(10, runtimes=[0.001]), timeunit="seconds"), "conv")
    assert table.stages[Stage.STAGE1].optimum(1)[1] == pytest.approx(1000.0)


def test_the_benchmark_hubs_spelling_of_the_unit_is_read() -> None:
    table = from_t4(document(result(10, runtimes=[1.0]), timeunit="miliseconds"), "conv")
    assert table.stages[Stage.STAGE1].optimum(1)[1] == pytest.approx(1000.0)


@pytest.mark.parametrize(
    ("unit", "us"),
    [
        ("s", 1e6),
        ("ms", 1e3),
        ("us", 1.0),
        ("\u00b5s", 1.0),
        ("ns", 1e-3),
        ("Microseconds", 1.0),
        (None, 1e6),
    ],
)
def test_a_measurement_has_its_own_unit_and_without_one_the_files(unit: str | None, us: float) -> None:
    one = result(10, runtimes=[])
    one["measurements"] = [{"name": "time", "value": 2.0, "unit": unit}]
    table = from_t4(document(one, timeunit="seconds"), "conv")
    assert table.stages[Stage.STAGE1].optimum(1)[1] == pytest.approx(2 * us)


@pytest.mark.parametrize("unit", ["", "cycles", "GFLOP/s", 1])
def test_an_unknown_unit_is_refused_with_its_place(unit: object) -> None:
    one = result(10, runtimes=[])
    one["measurements"] = [{"name": "time", "value": 2.0, "unit": unit}]
    with pytest.raises(UserError, match=r"f\.json: results\[1\] time's unit is .*no known unit of time"):
        from_t4(document(result(1), one), "conv", "f.json")
    with pytest.raises(UserError, match="timeunit"):
        from_t4(document(result(1), timeunit=str(unit)), "conv")


@pytest.mark.parametrize("time", [0, -1.0, float("nan"), float("inf"), "1.0", True, None])
def test_a_time_that_is_no_time_is_refused_with_its_place(time: object) -> None:
    with pytest.raises(UserError, match=r"results\[1\] runtimes\[1\] is"):
        from_t4(document(result(1), result(2, runtimes=[1.0, time])), "conv")
    one = result(2, runtimes=[])
    one["measurements"] = [{"name": "time", "value": time, "unit": "ms"}]
    with pytest.raises(UserError, match=r"results\[0\] time is"):
        from_t4(document(one), "conv")


def test_what_failed_may_have_an_errors_name_for_a_time() -> None:
    failed = result(2, "runtime", runtimes=["RuntimeFailedConfig"], benchmark=None)
    assert len(from_t4(document(result(1), failed), "conv").stages[Stage.STAGE1].rows) == 2


def test_what_was_visited_twice_counts_once() -> None:
    table = from_t4(document(result(4), result(4, runtimes=[9.0])), "conv")
    assert len(table.stages[Stage.STAGE1].rows) == 1


def test_our_table_survives_the_round_trip(table: Table) -> None:
    back = from_t4(to_t4(table, Stage.STAGE1, 4), "ours").stages[Stage.STAGE1]
    ours = table.stages[Stage.STAGE1]
    assert set(back.by_config) == set(ours.by_config)
    for config, row in ours.by_config.items():
        theirs, us = back.by_config[config].us(1), row.us(4)
        assert theirs == (None if us is None else pytest.approx(us))
        assert back.by_config[config].compiled.seconds == pytest.approx(row.compiled.seconds)


def test_unset_knobs_survive(table: Table) -> None:
    unset = [config for config in table.space(4, Stage.STAGE1) if config["pdl"] is None]
    assert unset
    again = from_t4(to_t4(table, Stage.STAGE1, 4), "ours")
    assert set(unset) <= set(again.space(1, Stage.STAGE1))


def test_a_fractional_value_is_kept_as_text() -> None:
    fractional = result(1)
    fractional["configuration"] = {"scale": 0.5, "whole": 2.0}
    (row,) = from_t4(document(fractional), "conv").stages[Stage.STAGE1].rows
    assert row.config == Config({"scale": "0.5", "whole": 2})


@pytest.mark.parametrize("packed", [False, True])
def test_files_are_read_plain_or_gzipped(tmp_path: Path, packed: bool) -> None:
    text = json.dumps(document(result(8))).encode()
    path = tmp_path / "A100_T4.json"
    path.write_bytes(gzip.compress(text) if packed else text)
    assert read_t4(path).layer.model == "A100_T4"


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "[" * 100_000, "\x1f\x8b\x08", '{"schema_version": "1.0.0", "results": [{}]}']
)
def test_what_is_no_t4_file_is_said_to_be_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(UserError, match="no T4 results file"):
        read_t4(path)


def test_a_table_in_which_nothing_ran_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has a time"):
        from_t4(document(result(1, "compile")), "conv")


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.floats()
    | st.integers()
    | st.sampled_from(["ms", "s", "correct", "time", ""]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["name", "value", "unit", "runtimes", "compilation", "benchmark", "a"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)


@given(
    st.dictionaries(
        st.sampled_from(["configuration", "times", "invalidity", "measurements", "whole"]), JSON, max_size=4
    )
)
def test_any_document_is_a_table_or_one_sentence(tmp_path_factory: Any, changes: dict[str, Any]) -> None:
    path = tmp_path_factory.mktemp("t4") / "any.json"
    results = [result(1), {**result(2), **changes}]
    path.write_text(json.dumps(document(*results) if "whole" not in changes else changes["whole"]))
    try:
        table = read_t4(path)
    except UserError:
        return
    assert all(
        us is None or 0 < us < float("inf") for r in table.stages[Stage.STAGE1].rows for us in [r.us(1)]
    )
