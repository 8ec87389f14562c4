"""What the gate launches, in which state, and the words in which it refuses."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from autotune.kernels import formats
from autotune.kernels.formats import Format, flips, quantise
from autotune.measure import gate as gating
from autotune.measure.bounds import BF16, ROOM, TILE, TILE_ROOM, Deviation, Expected, bound, to_bf16
from autotune.measure.gate import (
    Case,
    Incorrect,
    Left,
    check_launches,
    judge,
    make_case,
    make_cases,
    parts,
    poison,
)
from autotune.measure.workload import make_activations, make_steps, make_weights
from autotune.problem.layer import Layer
from autotune.protocol.runtime import Launch, LogicalWeights, Output, Path, What

LAYER = Layer("small", model_dim=128, inter_dim=64, experts=8, top_k=2, tp=1)
TOKENS = 4
PATH = Path(requantised=True)


@pytest.fixture(scope="module")
def weights() -> LogicalWeights:
    return make_weights(LAYER, "cpu", seed=0)


@pytest.fixture(scope="module")
def case(weights: LogicalWeights) -> Case:
    (uniform, *_) = make_cases(LAYER, weights, TOKENS, None, 1, "cpu", seed=0, thorough=False)
    return uniform


def writes(result: torch.Tensor, **more: Any) -> Launch:
    """A launch that writes `result`."""
    output = Output.allocate(tuple(result.shape), "cpu")
    return Launch(lambda: output.tensor.copy_(result), output.tensor, guards=output.guards, **more)


def right(case: Case, what: What) -> torch.Tensor:
    return case.references[what].bfloat16()


def refusal(launch: Launch, case: Case, what: What, path: Path = PATH) -> Incorrect:
    with pytest.raises(Incorrect) as told:
        check_launches([launch], [case], what, path)
    return told.value


# The words.


def test_values_that_are_not_finite_are_counted_and_placed(case: Case) -> None:
    result = right(case, What.STAGE2)
    result[1, 7] = result[3, 0] = math.nan
    told = refusal(writes(result), case, What.STAGE2)
    assert str(told) == (
        f"at {case.name}: 2 of 4 rows hold values that were never written or are not finite, the first at row"
        " 1, column 7"
    )
    assert told.error == math.inf


def test_an_output_that_is_off_as_a_whole_is_told_with_its_bound(case: Case) -> None:
    told = refusal(writes(1.01 * right(case, What.STAGE2)), case, What.STAGE2, Path())
    limit = case.bound(What.STAGE2, Path())
    assert (
        str(told) == f"at {case.name}: relative error {told.error:.2e} exceeds the path's bound {limit:.2e}"
    )
    assert told.error == pytest.approx(0.01, rel=0.1)


def verdict(deviation: Deviation, limit: float = 0.02) -> str | None:
    case = replace_name("here")
    try:
        gating._judge(case, Expected(torch.ones(3, TILE), limit), deviation, " of it")
    except Incorrect as told:
        return str(told)
    return None


def replace_name(name: str) -> Case:
    return Case(name, 1, None, None, {}, None, Format.INT8, None)  # type: ignore[arg-type]


def test_what_is_at_its_bound_passes() -> None:
    slack = 3.0
    assert verdict(Deviation(0.02, TILE_ROOM * 0.02, 0, 0, 0)) is None
    assert verdict(Deviation(0.02, slack * TILE_ROOM * 0.02, 0, 0, 0, slack)) is None
    assert verdict(Deviation(0.0201, 0.0, 0, 0, 0)) == (
        "at here: relative error of it 2.01e-02 exceeds the path's bound 2.00e-02"
    )
    assert verdict(Deviation(0.01, 0.31, 1, 16, 0, slack)) == (
        "at here: relative error of it 3.10e-01 in row 1, columns 16 to 31, exceeds 3.00e-01, though the"
        " 1.00e-02 overall is within its bound"
    )
    assert verdict(Deviation(0.01, 0.0, 2, 5, 1)) == (
        "at here: 1 of 3 rows hold values that were never written or are not finite, the first at row 2,"
        " column 5"
    )


def test_a_write_outside_is_told_with_the_error_of_the_output(case: Case) -> None:
    result = right(case, What.STAGE2)
    for place in (0, 1):
        launch = writes(result)

        def run(launch: Launch = launch, place: int = place) -> None:
            launch.run()
            launch.guards[place][0, 0] = 0.0

        told = refusal(replace(launch, run=run), case, What.STAGE2)
        assert str(told) == f"at {case.name}: it wrote outside of its output"
        assert told.error == check_launches([writes(result)], [case], What.STAGE2, PATH)


def test_a_launch_without_guards_has_nothing_outside(case: Case) -> None:
    launch = replace(writes(right(case, What.STAGE2)), guards=())
    with torch.device("meta"):
        assert check_launches([launch], [case], What.STAGE2, PATH) > 0


# The state in which it launches.


def test_outputs_scratch_and_guards_are_poisoned() -> None:
    floats, integers, small = (
        torch.zeros(4),
        torch.zeros(4, dtype=torch.int32),
        torch.zeros(4, dtype=torch.int8),
    )
    output, guard = torch.zeros(4), torch.zeros(4)
    launch = Launch(lambda: None, output, scratch=(floats, integers, small), guards=(guard,))
    adding = Launch(lambda: None, torch.ones(4), accumulates=True)
    poison([launch, adding])
    assert all(tensor.isnan().all() for tensor in (output, floats, guard))
    assert integers.tolist() == [(2**31 - 1) // 3] * 4
    assert small.tolist() == [127 // 3] * 4
    assert adding.output.tolist() == [0.0] * 4


def test_every_case_is_launched_twice_into_poisoned_buffers(case: Case) -> None:
    found: list[bool] = []
    output = Output.allocate(tuple(case.references[What.STAGE2].shape), "cpu")

    def run() -> None:
        found.append(bool(output.tensor.isnan().all()))
        output.tensor.copy_(right(case, What.STAGE2))

    launch = Launch(run, output.tensor, guards=output.guards)
    check_launches([launch, launch], [case, case], What.STAGE2, PATH)
    assert found == [True] * 4
    check_launches([launch], [case], What.STAGE2, PATH, times=3)
    assert len(found) == 7


def test_each_launch_has_one_case(case: Case) -> None:
    launch = writes(right(case, What.STAGE2))
    with pytest.raises(ValueError, match="zip"):
        check_launches([launch], [case, case], What.STAGE2, PATH)


@pytest.mark.parametrize(("kept", "batches"), [(1, [1, 1, 1, 1]), (3, [3, 1]), (100, [4])])
def test_so_many_results_are_kept_to_be_judged_at_once_as_their_size_allows(
    kept: int, batches: list[int], case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    errors = iter((1e-3, 3e-3, 2e-3, 0.0))

    def check(todo: Sequence[Any], what: What, path: Path) -> float:
        seen.append(len(todo))
        return next(errors)

    monkeypatch.setattr(gating, "_check_some", check)
    size = case.references[What.STAGE2].numel()
    monkeypatch.setattr(gating, "_JUDGED_AT_ONCE", kept * size + size // 2)
    launch = writes(right(case, What.STAGE2))
    worst = check_launches([launch, launch], [case, case], What.STAGE2, PATH)
    assert seen == batches
    assert worst == (1e-3 if len(batches) == 1 else 3e-3)


def test_the_error_is_the_worst_of_all_launches(case: Case) -> None:
    lenient = replace(case, _bounds={(What.STAGE2, PATH): 0.05})
    better, worse = writes(right(case, What.STAGE2)), writes(1.01 * right(case, What.STAGE2))
    alone = [check_launches([each], [lenient], What.STAGE2, PATH) for each in (better, worse)]
    assert alone[0] < alone[1]
    for order in ([better, worse], [worse, better]):
        assert check_launches(order, [lenient, lenient], What.STAGE2, PATH) == alone[1]


def test_what_is_left_is_judged_as_it_was_and_not_as_the_next_launch_leaves_it(case: Case) -> None:
    launch = writes(right(case, What.STAGE1), intermediate=torch.ones(8, 64))
    launch.run()
    left = Left.by(launch)
    launch.output.fill_(0.0)
    assert launch.intermediate is not None
    launch.intermediate.fill_(0.0)
    assert torch.equal(left.output, right(case, What.STAGE1))
    assert left.intermediate is not None
    assert left.intermediate.tolist() == torch.ones(8, 64).tolist()
    assert left.guards_intact.tolist() is True
    assert Left.by(writes(right(case, What.STAGE1))).intermediate is None
    launch.run()
    assert judge(launch, case, What.STAGE1, PATH) == pytest.approx(BF16, rel=0.2)


# What is judged.


def of_layer(case: Case, intermediate: torch.Tensor, *, shown: bool = True) -> Launch:
    """A layer's launch that leaves stage 1's output as it is, and what stage 2 makes of it."""
    output = right_second(case, intermediate)
    return writes(output, intermediate=intermediate if shown else None)


def right_second(case: Case, intermediate: torch.Tensor) -> torch.Tensor:
    return case.layer_of(intermediate).bfloat16()


def test_a_layer_that_shows_its_intermediate_is_judged_in_halves(case: Case) -> None:
    first = right(case, What.STAGE1)
    launch = of_layer(case, first)
    assert check_launches([launch], [case], What.LAYER, PATH) < 2.5e-3
    told = refusal(replace(launch, intermediate=first * 1.02), case, What.LAYER)
    limit = case.bound(What.STAGE1, replace(PATH, requantised=False))
    assert str(told) == (
        f"at {case.name}: relative error of stage 1, in the layer, {told.error:.2e} exceeds the path's bound"
        f" {limit:.2e}"
    )
    wrong = writes(1.02 * right_second(case, first), intermediate=first)
    told = refusal(wrong, case, What.LAYER)
    assert f"relative error of stage 2, from the layer's own intermediate, {told.error:.2e} exceeds" in str(
        told
    )


def test_a_layer_that_does_not_show_it_is_judged_as_a_whole(case: Case) -> None:
    first = right(case, What.STAGE1)
    (whole,) = parts([Left.by(of_layer(case, first, shown=False))], [case], What.LAYER, PATH)
    assert whole.of == ""
    assert torch.equal(whole.expected[0].reference, case.references[What.LAYER])
    assert whole.expected[0].limit == case.bound(What.LAYER, PATH)
    mixed = [Left.by(of_layer(case, first)), Left.by(of_layer(case, first, shown=False))]
    assert len(list(parts(mixed, [case, case], What.LAYER, PATH))) == 1


def test_the_first_half_has_no_roundings_of_stage_2(case: Case) -> None:
    path = Path(
        requantised=True, gate_up_bf16=True, contributions_bf16=True, bf16_adds=8, silu_bf16=True, slices=2
    )
    left = [Left.by(of_layer(case, right(case, What.STAGE1)))]
    first, second = parts(left, [case], What.LAYER, path)
    stage1 = Path(gate_up_bf16=True, silu_bf16=True, slices=2)
    assert first.of == " of stage 1, in the layer,"
    assert first.expected[0].limit == case.bound(What.STAGE1, stage1)
    assert second.of == " of stage 2, from the layer's own intermediate,"
    assert second.expected[0].limit >= bound(path, BF16)


def test_equal_intermediates_of_one_case_are_worked_out_once(
    case: Case, weights: LogicalWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = replace(case, name="another")
    asked: list[str] = []
    second_half = Case.second_half

    def counted(self: Case, intermediate: torch.Tensor, path: Path) -> Expected:
        asked.append(self.name)
        return second_half(self, intermediate, path)

    monkeypatch.setattr(Case, "second_half", counted)
    first = right(case, What.STAGE1)
    unlike = first.clone()
    unlike[0, 0] *= 1.01
    left = [Left.by(of_layer(case, each)) for each in (first, first, unlike, unlike)]
    _, second = parts(left, [case, case, case, other], What.LAYER, PATH)
    assert asked == [case.name, case.name, "another"]
    assert second.expected[0] is second.expected[1]
    assert second.expected[1] is not second.expected[2]


def test_what_stands_in_another_gpus_slots_is_not_judged(case: Case, weights: LogicalWeights) -> None:
    ids = np.array([[[0, -1], [-2, 3], [-1, -2], [4, 5]]], np.int32)
    (step,) = make_steps(ids, np.zeros(1, np.int32), "cpu", 0)
    part = make_case("part of the experts", weights, case.inputs, step)
    result = right(part, What.STAGE1)
    result[[1, 2, 4, 5]] = math.nan
    error = check_launches([writes(result)], [part], What.STAGE1, PATH)
    assert 0 < error < 2 * BF16
    shaped = writes(result.view(4, 2, 64))
    assert check_launches([shaped], [part], What.STAGE1, PATH) == error
    result[0, 5] = math.nan
    refusal(writes(result), part, What.STAGE1)
    here = part.here(torch.ones(8, 64))
    assert here.sum(dim=1).tolist() == [64.0, 0.0, 0.0, 64.0, 0.0, 0.0, 64.0, 64.0]


# The bound of a case.


def test_a_case_changes_its_digest_with_every_byte_that_is_judged_by(case: Case) -> None:
    before = case.digest()
    held = [
        *(case.inputs.hidden, case.inputs.a1, case.inputs.a1_scale, case.inputs.a2, case.inputs.a2_scale),
        *(case.step.ids, case.step.router, case.gate_up, *case.references.values()),
    ]
    assert len(held) == 11
    for tensor in held:
        first = tensor.flatten()[0].clone()
        tensor.view(-1)[0] += 1
        assert case.digest() != before, tensor.dtype
        tensor.view(-1)[0] = first
        assert case.digest() == before


def test_what_is_simulated_ends_in_the_outputs_own_rounding(case: Case) -> None:
    for what in (What.STAGE1, What.STAGE2, What.LAYER):
        reference = case.references[what]
        for path in (Path(), Path(toward_zero=True)):
            left = to_bf16(reference, toward_zero=path.toward_zero)
            error = float((left - reference).norm() / reference.norm())
            assert case.simulated(what, path) == pytest.approx(error, rel=1e-4)
    # Re-quantised, the layer goes through a rounded intermediate, some of whose integers flip.
    left = to_bf16(case.layer_of(right(case, What.STAGE1).float()), toward_zero=False)
    reference = case.references[What.LAYER]
    error = float((left - reference).norm() / reference.norm())
    assert case.simulated(What.LAYER, Path(requantised=True)) == pytest.approx(error, rel=1e-4)
    assert error > 1.5 * case.simulated(What.LAYER, Path())


def test_narrow_sums_are_simulated_eight_times_and_the_worst_counts(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    draws: list[int] = []
    simulate = gating.simulate_stage1

    def noted(gate_up: torch.Tensor, path: Path, draw: int) -> torch.Tensor:
        draws.append(draw)
        exact = simulate(gate_up, replace(path, sums=0.0), draw)
        return exact * (1.1 if draw == 5 else 1.0)

    monkeypatch.setattr(gating, "simulate_stage1", noted)
    path = Path(sums=1e-3, requantised=True)
    for what in (What.STAGE1, What.LAYER):
        draws.clear()
        assert case.simulated(what, path) == pytest.approx(0.1, rel=0.05)
        assert draws == list(range(8))
    draws.clear()
    case.simulated(What.STAGE2, replace(path, requantised=False))
    case.simulated(What.STAGE1, Path())
    assert draws == [0]


def test_a_case_of_zeros_has_no_error(case: Case) -> None:
    zeros = replace(case, references={What.STAGE2: torch.zeros(4, 128)})
    assert zeros.simulated(What.STAGE2, Path()) == 0.0


def test_a_bound_is_worked_out_once_a_path(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = replace(case, _bounds={})
    asked: list[Any] = []
    simulated = Case.simulated
    monkeypatch.setattr(Case, "simulated", lambda self, *of: asked.append(of) or simulated(self, *of))
    for _ in range(2):
        for path in (Path(), Path(contributions_bf16=True)):
            assert fresh.bound(What.STAGE2, path) == bound(
                path, fresh.references and simulated(case, What.STAGE2, path)
            )
    assert asked == [(What.STAGE2, Path()), (What.STAGE2, Path(contributions_bf16=True))]


def tied(case: Case) -> torch.Tensor:
    """An intermediate of which two rows have values half-way between two integers."""
    rows = torch.zeros(8, 64)
    rows[:, 0] = 127.0
    rows[:, 1:40] = torch.arange(1, 40)
    rows[2, 5], rows[7, 9] = 5.5, 30.5
    return rows.bfloat16()


def test_either_choice_at_a_tie_is_right_and_widens_the_bound_of_the_rows_that_it_changes(case: Case) -> None:
    rows = tied(case)
    q, scale = quantise(Format.INT8, rows)
    reference = case.stage2_of(q, scale, case.step.ids, case.step.router)
    change = case.stage2_of(flips(Format.INT8, rows), scale, case.step.ids, case.step.router)
    expected = case.second_half(rows, PATH)
    assert torch.allclose(expected.reference, reference, rtol=1e-5, atol=1e-5)
    whole = float(change.norm() / reference.norm())
    assert expected.limit == pytest.approx(bound(PATH, math.hypot(BF16, whole)), rel=1e-4)
    by_row = change.norm(dim=1) / reference.norm(dim=1)
    slack = (1 + (ROOM * by_row / expected.limit).square()).sqrt()
    assert expected.slack is not None
    assert expected.slack.tolist() == pytest.approx(slack.tolist(), rel=1e-4)
    assert [value > 1.0 for value in expected.slack.tolist()] == [False, True, False, True]
    shaped = case.second_half(rows.view(4, 2, 64), PATH)
    assert torch.equal(shaped.reference, expected.reference)


def test_without_ties_or_with_exact_divisions_there_is_no_excuse(case: Case) -> None:
    rows = tied(case)
    even = torch.where(flips(Format.INT8, rows) != 0, torch.zeros(()), rows.float()).bfloat16()
    for intermediate, path in ((rows, replace(PATH, exact_division=True)), (even, PATH)):
        expected = case.second_half(intermediate, path)
        assert expected.slack is None
        assert expected.limit == bound(path, BF16)
        q, scale = quantise(Format.INT8, intermediate)
        assert torch.equal(expected.reference, case.stage2_of(q, scale, case.step.ids, case.step.router))
    cut = replace(PATH, toward_zero=True)
    assert case.second_half(even, cut).limit == bound(cut, 2 * BF16)


# How cases are made.


def test_a_case_is_named_for_its_tokens_and_routing_and_seeded(weights: LogicalWeights) -> None:
    made = make_cases(LAYER, weights, 3, None, 1, "cpu", seed=5, thorough=True)
    names = [case.name for case in made]
    assert names[:2] == ["3 tokens, uniform routing", "3 tokens, all on the same experts"]
    assert "3 tokens, first and last experts" in names
    assert {case.tokens for case in made} == {3}
    inputs = make_activations(LAYER, 3, "cpu", 5)
    assert torch.equal(made[0].inputs.hidden, inputs.hidden)
    again = make_cases(LAYER, weights, 3, None, 1, "cpu", seed=5, thorough=False)
    other = make_cases(LAYER, weights, 3, None, 1, "cpu", seed=6, thorough=False)
    assert (len(made), len(again)) == (6, 2)
    assert again[0].digest() == made[0].digest()
    assert not torch.equal(other[0].inputs.hidden, made[0].inputs.hidden)
    assert not torch.equal(other[0].step.router, made[0].step.router)
    assert not torch.equal(other[0].step.ids, made[0].step.ids)


@pytest.mark.parametrize("form", [Format.INT8, Format.FP8, Format.BF16, Format.GROUPED])
def test_a_case_is_in_the_numbers_of_its_format(form: Format, weights: LogicalWeights) -> None:
    (case, _) = make_cases(LAYER, weights, 2, None, 1, "cpu", seed=5, thorough=False, form=form)
    assert case.form is form
    assert case.inputs.a1.dtype is make_activations(LAYER, 2, "cpu", 5, form).a1.dtype
    gate, up = case.gate_up.chunk(2, dim=1)
    assert torch.allclose(
        case.references[What.STAGE1], gate / (1 + torch.exp(-gate)) * up, rtol=1e-4, atol=1e-6
    )
    whole = case.layer_of(case.references[What.STAGE1])
    assert torch.equal(case.references[What.LAYER], whole)
    # By channel in the checkpoint, in groups where the format has them.
    scaled = formats.weight_scales(form, weights.w1_scale, 128)
    assert scaled.ndim == (3 if form is Format.GROUPED else 2)
    assert case.references[What.STAGE2].shape == (2, 128)


def test_an_accumulating_launch_may_be_judged_at_its_bound(case: Case) -> None:
    output = Output.allocate(tuple(case.references[What.STAGE2].shape), "cpu")
    launch = Launch(
        lambda: output.tensor.add_(right(case, What.STAGE2)),
        output.tensor,
        accumulates=True,
        guards=output.guards,
    )
    assert check_launches([launch], [case], What.STAGE2, PATH) == pytest.approx(BF16, rel=0.2)
