"""What may be said of two arms."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.ab.compare import ArmVerdict, compare, compare_values, differences
from autotune.ab.results import METRICS, Repeat, read_repeat
from autotune.errors import UserError
from tests.ab.made_up import BASE, TUNED, sglang, vllm


def arm(make: Any, scales: Sequence[float] = (1.0,), name: str = "base", **changes: Any) -> list[Repeat]:
    return [read_repeat(make(scale, **changes), f"{name}/{i}") for i, scale in enumerate(scales)]


def verdicts(base: list[Repeat], tuned: list[Repeat]) -> dict[str, ArmVerdict]:
    return {one.metric.field: one.verdict for one in compare(base, tuned)}


@pytest.mark.parametrize("make", [sglang, vllm])
def test_three_per_cent_are_found_with_five_repeats(make: Any) -> None:
    compared = {one.metric.field: one for one in compare(arm(make, BASE), arm(make, TUNED))}
    assert set(compared) == {metric.field for metric in METRICS}
    assert {one.verdict for one in compared.values()} == {ArmVerdict.FASTER, ArmVerdict.SAME}
    assert compared["accept_length"].verdict is ArmVerdict.SAME
    tpot = compared["median_tpot_ms"].ratio
    assert tpot.value == pytest.approx(0.969, abs=1e-3)
    assert tpot.low < tpot.value < tpot.high < 0.99
    assert compared["output_throughput"].ratio.value > 1


@pytest.mark.parametrize("repeats", [1, 2, 3])
def test_fewer_than_four_repeats_decide_nothing(repeats: int) -> None:
    said = compare_values(METRICS[0], [30.0, 30.1, 29.9][:repeats], [27.0, 27.1, 26.9, 27.0, 27.0], 0.01)
    assert said.ratio.high < 0.92
    assert said.verdict is ArmVerdict.TOO_FEW
    assert not said.verdict.said


def test_slower_is_said_too() -> None:
    said = compare_values(METRICS[0], [30.0 * s for s in TUNED], [30.0 * s for s in BASE], 0.01)
    assert said.verdict is ArmVerdict.SLOWER


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(20, 40), min_size=1, max_size=6))
def test_an_arm_against_itself_never_wins(values: list[float]) -> None:
    said = compare_values(METRICS[0], values, values, 0.01)
    assert said.ratio.value == pytest.approx(1)
    assert said.p == 1
    assert said.verdict in (ArmVerdict.SAME, ArmVerdict.AMBIGUOUS, ArmVerdict.TOO_FEW)


def test_an_arm_that_accepts_fewer_drafts_is_not_faster() -> None:
    fewer = arm(vllm, TUNED, spec_decode_acceptance_length=3.1)
    said = verdicts(arm(vllm, BASE), fewer)
    assert said["accept_length"] is ArmVerdict.FEWER
    assert said["ms_per_accepted_token"] is ArmVerdict.SLOWER
    assert ArmVerdict.FASTER not in said.values()
    more = verdicts(fewer, arm(vllm, BASE))
    assert more["accept_length"] is ArmVerdict.MORE
    assert more["median_tpot_ms"] is ArmVerdict.SLOWER


PD = {"prefill": [{"tp_size": 8}], "decode": [{"tp_size": 8}, {"tp_size": 4}]}


@pytest.mark.parametrize(
    ("make", "change", "reason"),
    [
        (sglang, {"max_concurrency": 1}, "max_concurrency is 40 in base/0 and 1 in tuned/0"),
        (sglang, {"random_input_len": 1024}, "random_input_len"),
        (sglang, {"request_rate": 4.0}, "request_rate is Infinity in base/0 and 4"),
        (sglang, {"completed": 159}, "completed"),
        (
            sglang,
            {"server_info": {"tp_size": 8, "speculative_num_draft_tokens": 3}},
            "speculative_num_draft_tok",
        ),
        (
            sglang,
            {"server_info": {"tp_size": 8}},
            "server speculative_num_draft_tokens is 4 .* and not reported",
        ),
        (sglang, {"server_info": PD}, "server tp_size is 8 in base/0 and not reported"),
        (sglang, {"accept_length": None}, "speculative decoding is true in base/0 and false"),
        (sglang, {"total_output_tokens": 70000}, "81920 output tokens per run in the base arm and 70000"),
        (sglang, {"total_input_tokens": 1000}, "input tokens"),
        (vllm, {"model_id": "other"}, "model_id"),
        (vllm, {"tensor_parallel_size": 4}, "tensor_parallel_size is not reported .* and 4"),
        (vllm, {"--random-input-len": 4}, "random_input_len"),
        (vllm, {"dataset-name": "sharegpt"}, "dataset_name"),
    ],
)
def test_unequal_workloads_are_refused(make: Any, change: Mapping[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        compare(arm(make), arm(make, name="tuned", **change))


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({**PD, "decode": [{"tp_size": 4}, {"tp_size": 4}]}, r"decode\[1\] tp_size is 8 in base/0 and 4 "),
        ({**PD, "decode": [{"tp_size": 8}]}, "decode servers is 2 .* and 1"),
        ({**PD, "prefill": [{"tp_size": 4}]}, r"prefill\[0\] tp_size"),
        ({**PD, "prefill": {"tp_size": 4}}, r"prefill\[0\] tp_size"),
        ({**PD, "prefill": {"http://a:1": {"tp_size": 4}}}, r"prefill\[0\] tp_size"),
        ({**PD, "prefill": [{"server_args": {"tp_size": 4}}]}, r"prefill\[0\] tp_size"),
        ([{"tp_size": 4}], "prefill servers"),
    ],
)
def test_unequal_servers_are_refused_where_prefill_is_apart(other: Any, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        compare(arm(sglang, server_info=PD), arm(sglang, server_info=other))


def test_the_order_of_servers_does_not_matter() -> None:
    turned = {**PD, "decode": PD["decode"][::-1]}
    assert compare(arm(sglang, server_info=PD), arm(sglang, server_info=turned))


def test_what_may_differ_is_said_where_it_matters() -> None:
    server = {"tp_size": 8, "speculative_num_draft_tokens": 4, "port": 30001, "version": "0.5.23"}
    base, tuned = arm(sglang), arm(sglang, name="tuned", server_info=server, tag="tuned")
    assert compare(base, tuned)
    assert list(differences(base, tuned)) == [
        'server version is not reported in the baseline and "0.5.23" in the tuned arm'
    ]
    base, tuned = arm(vllm), arm(vllm, name="tuned", image="v2", date="20260102-000000", label="tuned")
    assert list(differences(base, tuned)) == [
        'image is not reported in the baseline and "v2" in the tuned arm'
    ]


def test_a_number_that_varies_within_an_arm_is_no_difference_of_the_arms() -> None:
    base = [*arm(vllm, energy_j=10.5), *arm(vllm, energy_j=10.6)]
    tuned = [*arm(vllm, energy_j=9.5, power_limit=300), *arm(vllm, energy_j=9.7, power_limit=300)]
    assert list(differences(base, tuned)) == [
        "power_limit is not reported in the baseline and 300 in the tuned arm"
    ]


def test_two_tools_are_not_compared() -> None:
    with pytest.raises(UserError, match="one tool"):
        compare(arm(sglang), arm(vllm))


def test_an_arm_without_a_repeat_is_refused() -> None:
    with pytest.raises(UserError, match="at least one result"):
        compare([], arm(vllm))
