"""The arithmetic of the gate's bounds, on numbers that can be worked out by hand."""

import math
from typing import Any

import pytest
import torch

from autotune.measure import bounds
from autotune.measure.bounds import (
    BF16,
    ROOM,
    TILE,
    TILE_ROOM,
    Deviation,
    Expected,
    Part,
    bound,
    deviation,
    deviations,
    rounding,
    simulate_stage1,
    tile_slack,
    to_bf16,
)
from autotune.protocol.runtime import Path


def test_cutting_off_has_twice_the_size_of_rounding() -> None:
    assert (rounding(Path()), rounding(Path(toward_zero=True))) == (BF16, 2 * BF16)


@pytest.mark.parametrize(
    ("path", "squares"),
    [
        (Path(), 1),
        (Path(contributions_bf16=True), 2),
        (Path(contributions_bf16=True, scaled_bf16=True), 3),
        (Path(scaled_bf16=True), 1),  # nothing of stage 2 is rounded before its scale
        # Two slices: each has half of the square, so one rounding of all, and the sum after the second.
        (Path(contributions_bf16=True, slices=2), 1 + 2),
        (Path(contributions_bf16=True, slices=4), 1 + 1 + (2 + 3 + 4) / 4),
        (Path(slices=4), 1),
        # Eight additions: (1 + 2 + … + 8) / 8 in place of the output's one.
        (Path(bf16_adds=8), 4.5),
        (Path(bf16_adds=1), 1),
        (Path(bf16_adds=8, contributions_bf16=True), 5.5),
        (Path(toward_zero=True), 4),
        (Path(toward_zero=True, contributions_bf16=True), 8),
    ],
)
def test_a_bound_is_twice_the_root_of_the_sum_of_the_squares(path: Path, squares: float) -> None:
    expected = 2 * BF16 * math.sqrt(squares)
    assert bound(path, 0.0) == pytest.approx(expected)
    assert bound(path, BF16) == pytest.approx(expected)
    assert type(bound(path, BF16)) is float
    # What is simulated takes the place of the output's own rounding where it is larger.
    own = 4 if path.toward_zero else 1
    assert bound(path, 10 * BF16) == pytest.approx(2 * BF16 * math.sqrt(squares - own + 100))


def test_bfloat16_is_the_nearest_or_the_next_towards_zero() -> None:
    step = 2**-7
    values = torch.tensor([1 + 0.6 * step, -1 - 0.6 * step, 1 + 0.4 * step, 1.0, 0.0])
    assert to_bf16(values, toward_zero=False).tolist() == [1 + step, -1 - step, 1.0, 1.0, 0.0]
    assert to_bf16(values, toward_zero=True).tolist() == [1.0, -1.0, 1.0, 1.0, 0.0]
    columns = torch.stack([values, values]).T  # not contiguous
    assert to_bf16(columns, toward_zero=True)[:, 0].tolist() == [1.0, -1.0, 1.0, 1.0, 0.0]


# Stage 1 by a path's roundings.

GATE_UP = torch.randn(8, 2 * 64, generator=torch.Generator().manual_seed(0))


def rounded(x: torch.Tensor) -> torch.Tensor:
    return x.bfloat16().float()


def silu(x: torch.Tensor) -> torch.Tensor:
    return x / (1 + torch.exp(-x))


def stage1(gate_up: torch.Tensor, *, silu_bf16: bool = False) -> torch.Tensor:
    gate, up = gate_up[:, :64], gate_up[:, 64:]
    return rounded((rounded(silu(gate)) if silu_bf16 else silu(gate)) * up)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (Path(), stage1(GATE_UP)),
        (Path(gate_up_bf16=True), stage1(rounded(GATE_UP))),
        (Path(silu_bf16=True), stage1(GATE_UP, silu_bf16=True)),
        (Path(gate_up_bf16=True, scaled_bf16=True), stage1(rounded(rounded(GATE_UP / 1.37) * 1.37))),
        (Path(scaled_bf16=True), stage1(GATE_UP)),  # only what is rounded at all
        (Path(slices=3), stage1(GATE_UP)),
    ],
)
def test_stage_1_is_rounded_where_the_path_says_so(path: Path, expected: torch.Tensor) -> None:
    assert torch.allclose(simulate_stage1(GATE_UP, path), expected, rtol=1e-2, atol=1e-6)
    close = (simulate_stage1(GATE_UP, path) - expected).abs() > 1e-6 * expected.abs()
    assert float(close.float().mean()) < 0.02  # the last bit of an exponential decides few


def test_what_is_cut_off_is_never_larger() -> None:
    cut = simulate_stage1(GATE_UP, Path(toward_zero=True))
    exact = silu(GATE_UP[:, :64]) * GATE_UP[:, 64:]
    assert bool((cut.abs() <= exact.abs() * (1 + 1e-6)).all())
    assert bool((cut.abs() >= exact.abs() * (1 - 2**-7)).all())


def test_narrow_accumulators_add_noise_of_a_value_and_of_its_row() -> None:
    rows = torch.tensor([[4.0, 0.0, 1.0, 1.0]] * 20_000)
    mean = float(rows[0].square().mean())
    noisy: list[torch.Tensor] = []
    original = bounds.to_bf16
    path = Path(sums=1e-3, gate_up_bf16=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bounds, "to_bf16", lambda x, toward_zero: noisy.append(x) or x)
        simulate_stage1(rows, path, draw=3)
        simulate_stage1(rows, path, draw=3)
        simulate_stage1(rows, path, draw=4)
    assert original is bounds.to_bf16
    first, again, other = noisy[0], noisy[2], noisy[4]
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    deviations = (first - rows).std(dim=0)
    for column, value in enumerate(rows[0].tolist()):
        assert float(deviations[column]) == pytest.approx(1e-3 * math.sqrt(value**2 + mean / 6), rel=0.03)


def test_a_sum_of_slices_is_of_random_parts_of_like_size_added_up_one_by_one() -> None:
    total = torch.full((50, 400), 3.0)
    finished: list[torch.Tensor] = []
    sums: list[torch.Tensor] = []

    def finish(part: torch.Tensor) -> torch.Tensor:
        finished.append(part)
        return part

    def add(sum_: torch.Tensor) -> torch.Tensor:
        sums.append(sum_)
        return sum_

    made = bounds._sliced(total, 4, 7, finish, add)
    assert torch.allclose(made, total, atol=1e-4)
    assert (len(finished), len(sums)) == (4, 3)
    for count, partial in enumerate(sums, 2):
        assert torch.allclose(partial, torch.stack(finished[:count]).sum(dim=0), atol=1e-5)
    for part in finished:
        # Parts of 3 / 4 with a deviation of the row's size / sqrt(4), less what makes their sum right.
        assert float(part.mean()) == pytest.approx(0.75, abs=0.05)
        assert float(part.std()) == pytest.approx(1.5 * math.sqrt(3 / 4), rel=0.05)
    again = [part.clone() for part in finished]
    finished.clear()
    bounds._sliced(total, 4, 7, finish, add)
    assert all(torch.equal(a, b) for a, b in zip(again, finished, strict=True))
    bounds._sliced(total, 4, 8, finish, add)
    assert not torch.equal(finished[4], again[0])


def test_slices_are_rounded_before_and_after_each_addition() -> None:
    path = Path(gate_up_bf16=True, slices=4)
    one = simulate_stage1(GATE_UP, Path(gate_up_bf16=True))
    several = simulate_stage1(GATE_UP, path)
    exact = silu(GATE_UP[:, :64]) * GATE_UP[:, 64:]
    assert float((several - exact).norm() / (one - exact).norm()) > 1.2
    assert not torch.equal(several, simulate_stage1(GATE_UP, path, draw=1))


# How far an output is off.


def test_a_deviation_is_of_everything_and_of_its_worst_tile() -> None:
    reference = torch.ones(4, 3 * TILE)
    out = reference.clone()
    out[2, TILE + 3] += 1.0
    told = deviation(out, reference)
    assert told.error == pytest.approx(1 / math.sqrt(4 * 3 * TILE))
    assert told.tile_error == pytest.approx(1 / math.sqrt(TILE))
    assert (told.row, told.column, told.not_finite, told.slack) == (2, TILE, 0, 1.0)


def test_each_output_of_several_is_told_by_itself() -> None:
    references = torch.stack([torch.ones(2, 2 * TILE), 2 * torch.ones(2, 2 * TILE), torch.ones(2, 2 * TILE)])
    outs = references.clone()
    outs[1, 1, 0] += 1.0
    outs[2, 0, 5] = torch.inf
    right, wrong, broken = deviations(outs, references)
    assert (right.error, right.tile_error) == (0.0, 0.0)
    assert wrong.error == pytest.approx(1 / math.sqrt(4 * 4 * TILE))
    assert (wrong.row, wrong.column) == (1, 0)
    assert broken == Deviation(math.inf, math.inf, 0, 5, 1)


def test_the_first_value_that_is_not_finite_is_told_and_in_how_many_rows_there_are_any() -> None:
    reference = torch.ones(5, TILE)
    for wrong in (torch.nan, torch.inf, -torch.inf):
        out = reference.clone()
        out[1, 7] = out[1, 9] = out[3, 2] = wrong
        assert deviation(out, reference) == Deviation(math.inf, math.inf, 1, 7, 2)


def test_a_tile_where_contributions_cancel_is_measured_by_a_quarter_of_its_rows_average_tile() -> None:
    reference = torch.ones(1, 4 * TILE)
    reference[0, :TILE] = 0.0
    out = reference.clone()
    out[0, 0] += 0.1
    floor = math.sqrt(3 * TILE / 4 / 16)
    assert deviation(out, reference).tile_error == pytest.approx(0.1 / floor)


def test_the_last_tile_is_judged_on_what_it_has() -> None:
    reference = torch.ones(2, TILE + 4)
    out = reference.clone()
    out[1, TILE + 1] += 1.0
    told = deviation(out, reference)
    assert told.tile_error == pytest.approx(1 / math.sqrt(4))
    assert (told.row, told.column) == (1, TILE)


def test_a_token_of_zeros_must_come_out_as_zeros() -> None:
    zeros = torch.zeros(2, TILE)
    assert deviation(zeros, zeros).error == 0.0
    out = zeros.clone()
    out[1, 3] = 1e-3
    told = deviation(out, zeros)
    assert told.error > 1e9
    assert told.tile_error > 1e9
    assert (told.row, told.column) == (1, 0)


def test_a_rows_excuse_raises_its_tiles_bound_and_its_error_is_told_as_it_is() -> None:
    references = torch.ones(1, 3, 2 * TILE)
    outs = references.clone()
    outs[0, 0, 0] += 1.0
    outs[0, 2, TILE] += 1.5
    slack = torch.tensor([[1.0, 1.0, 2.0]])
    (told,) = deviations(outs, references, slack)
    assert (told.row, told.column, told.slack) == (0, 0, 1.0)  # 1 of 1 is more than 1.5 of 2
    assert told.tile_error == pytest.approx(1 / math.sqrt(TILE))
    (told,) = deviations(outs, references, torch.tensor([[2.0, 1.0, 2.0]]))
    assert (told.row, told.column, told.slack) == (2, TILE, 2.0)
    assert told.tile_error == pytest.approx(1.5 / math.sqrt(TILE))


def test_each_tile_may_have_an_excuse_of_its_own() -> None:
    references = torch.ones(1, 2, 2 * TILE)
    outs = references.clone()
    outs[0, 0, 0] += 1.0
    outs[0, 1, TILE] += 1.5
    (told,) = deviations(outs, references, torch.tensor([[[1.0, 1.0], [9.0, 1.0]]]))
    assert (told.row, told.column, told.slack) == (1, TILE, 1.0)
    (told,) = deviations(outs, references, torch.tensor([[[1.0, 9.0], [1.0, 2.0]]]))
    assert (told.row, told.column, told.slack) == (0, 0, 1.0)
    assert told.tile_error == pytest.approx(1 / math.sqrt(TILE))


def test_a_large_gate_beside_an_up_that_cancels_excuses_its_tile_and_no_other() -> None:
    """As on an H100: the error of a rounded sum is as large as its parts, and this gate multiplies it."""
    generator = torch.Generator().manual_seed(0)
    gate_up = torch.randn((64, 32 * TILE), generator=generator)
    gate_up[3, :TILE] = 0.0
    gate_up[3, :4] = 12.0  # and their ups are nearly nought
    gate_up[3, 16 * TILE : 16 * TILE + 4] = 1e-3
    path = Path(gate_up_bf16=True, slices=10, scaled_bf16=True)
    gate, up = gate_up.chunk(2, dim=1)
    reference = silu(gate) * up
    limit = bound(path, 7e-3)
    excused = tile_slack(reference, [simulate_stage1(gate_up, path, draw) for draw in range(8)], limit)
    assert excused[3, 0] == excused.max()
    assert excused.min() == 1
    assert excused.median() < 1.2
    out = simulate_stage1(gate_up, path, draw=99)
    assert Expected(reference, limit).share(deviation(out, reference)) > 1
    (told,) = deviations(out[None], reference[None], excused[None])
    assert Expected(reference, limit).share(told) < 0.7


@pytest.mark.parametrize(
    ("deviation", "share"),
    [
        (Deviation(0.01, 0.0, 0, 0, 0), 0.5),
        (Deviation(0.01, 0.2, 0, 0, 0), 2.0),  # a tile may be five bounds off
        (Deviation(0.01, 0.2, 0, 0, 0, slack=8.0), 0.5),
        (Deviation(0.01, 0.2, 0, 0, 0, slack=2.0), 1.0),
    ],
)
def test_what_an_output_takes_of_its_bound_is_the_worse_of_both(deviation: Deviation, share: float) -> None:
    assert Expected(torch.ones(1), 0.02).share(deviation) == pytest.approx(share)
    assert (ROOM, TILE, TILE_ROOM) == (2.0, 16, 5.0)


def test_a_part_is_judged_with_each_outputs_own_excuse_and_in_its_references_shape() -> None:
    reference = torch.ones(2, TILE)
    out = reference.clone()
    out[1, 0] += 1.0
    excused = Expected(reference, 0.02, torch.tensor([1.0, 4.0]))
    part = Part("", [out.view(2, 2, TILE // 2), out], [excused, Expected(reference, 0.02)])
    first, second = part.deviations()
    assert (first.slack, second.slack) == (4.0, 1.0)
    assert first.tile_error == second.tile_error == pytest.approx(1 / math.sqrt(TILE))


def on_meta(function: Any, *arguments: Any) -> Any:
    """What is made on no device in particular has no numbers."""
    with torch.device("meta"):
        return function(*arguments)


def test_everything_is_worked_out_on_the_outputs_device() -> None:
    reference = torch.ones(1, 2, TILE)
    assert on_meta(deviations, reference, reference)[0].error == 0.0
    part = Part("", [reference[0]], [Expected(reference[0], 0.02)])
    assert on_meta(part.deviations)[0].error == 0.0
    for path in (Path(sums=1e-3), Path(gate_up_bf16=True, slices=2)):
        assert on_meta(simulate_stage1, GATE_UP, path).isfinite().all()
