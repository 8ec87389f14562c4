"""Correct kernels pass with room to spare, and the smallest real fault does not pass."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autotune.measure import gate as gating
from autotune.measure.bounds import BF16, ROOM, TILE_ROOM, bound, deviation, to_bf16
from autotune.measure.gate import Case, Incorrect, case_routings, check_launches, make_cases, served_tokens
from autotune.measure.workload import make_activations, make_weights, without_ties
from autotune.problem.layer import Layer
from autotune.problem.routing import Routing
from autotune.protocol.runtime import Launch, LogicalWeights, Output, Path, What
from tests.gate import check_launch

# Real K and inter_dim decide how large roundings and faults are; experts and rows only how many there are.
LAYER = Layer("narrow", model_dim=1024, inter_dim=256, experts=12, top_k=8, tp=8)
TOKENS = 4


@pytest.fixture(scope="module")
def weights() -> LogicalWeights:
    torch.set_num_threads(1)  # matrices are small, and other tests run beside these
    return make_weights(LAYER, "cpu", seed=0)


@pytest.fixture(scope="module")
def cases(weights: LogicalWeights) -> list[Case]:
    return make_cases(LAYER, weights, TOKENS, Routing(), 1, "cpu", seed=0, thorough=True)


def launched(result: torch.Tensor, *, accumulates: bool = False) -> Launch:
    """A launch that writes `result`."""
    output = Output.allocate(tuple(result.shape), "cpu")

    def run() -> None:
        if accumulates:
            output.tensor.add_(result)
        else:
            output.tensor.copy_(result)

    return Launch(run, output.tensor, accumulates=accumulates, guards=output.guards)


@pytest.fixture(scope="module")
def parts(cases: list[Case], weights: LogicalWeights) -> list[torch.Tensor]:
    """Each case's contributions."""
    return [contributions(case, weights) for case in cases]


def contributions(case: Case, weights: LogicalWeights) -> torch.Tensor:
    """Stage 2's float32 contribution of every slot, [tokens, top_k, model_dim]."""
    from autotune.kernels.reference import stage2_reference

    a2, scale = case.inputs.a2, case.inputs.a2_scale
    parts = [
        stage2_reference(
            a2[:, k],
            scale[:, k],
            weights.w2,
            weights.w2_scale,
            case.step.ids[:, k : k + 1],
            case.step.router[:, k : k + 1],
        )
        for k in range(a2.shape[1])
    ]
    return torch.stack(parts, dim=1)


def added_one_by_one(parts: torch.Tensor) -> torch.Tensor:
    """The sum over experts by bfloat16 atomics: every addition is rounded."""
    total = torch.zeros_like(parts[:, 0]).bfloat16()
    for k in range(parts.shape[1]):
        total = (total.float() + parts[:, k].bfloat16().float()).bfloat16()
    return total


PATHS = {
    "float32 sum": Path(),
    "bfloat16 contributions": Path(contributions_bf16=True),
    "bfloat16 atomics": Path(contributions_bf16=True, bf16_adds=8),
    "cut off": Path(toward_zero=True),
}


def simulate(path: Path, parts: torch.Tensor) -> torch.Tensor:
    if path.bf16_adds:
        return added_one_by_one(parts)
    if path.contributions_bf16:
        return parts.bfloat16().float().sum(dim=1).bfloat16()
    return to_bf16(parts.sum(dim=1), toward_zero=path.toward_zero).bfloat16()


@pytest.mark.parametrize("name", PATHS)
def test_every_path_passes_at_about_half_of_its_bound(
    name: str, cases: list[Case], parts: list[torch.Tensor]
) -> None:
    path = PATHS[name]
    for case, summands in zip(cases, parts, strict=True):
        result = simulate(path, summands)
        error = check_launch(launched(result), case, What.STAGE2, path)
        assert 0.35 < error / case.bound(What.STAGE2, path) < 0.65


def test_the_layers_path_passes_at_half_of_its_bound(cases: list[Case]) -> None:
    path = Path(requantised=True)
    for case in cases:
        result = case.layer_of(case.references[What.STAGE1].bfloat16().float()).bfloat16()
        error = check_launch(launched(result), case, What.LAYER, path)
        assert error / case.bound(What.LAYER, path) == pytest.approx(0.5, abs=0.01)


def test_a_rougher_path_than_declared_fails(cases: list[Case], parts: list[torch.Tensor]) -> None:
    rough = added_one_by_one(parts[0])
    with pytest.raises(Incorrect, match="bound"):
        check_launch(launched(rough), cases[0], What.STAGE2, Path())


def test_the_closed_form_agrees_with_the_simulated_numbers_at_real_size() -> None:
    """Simulated at M=4, 7168 x 256: 1.66e-3, 2.3e-3, 3.3e-3 to 4.3e-3."""
    assert bound(PATHS["float32 sum"], 1.66e-3) / ROOM == pytest.approx(1.66e-3, rel=0.01)
    assert bound(PATHS["bfloat16 contributions"], 1.66e-3) / ROOM == pytest.approx(2.35e-3, rel=0.02)
    assert 3.3e-3 < bound(PATHS["bfloat16 atomics"], 1.66e-3) / ROOM < 4.3e-3


def broken(fault: str, reference: torch.Tensor) -> torch.Tensor:
    """A correct result of stage 1 with one fault in it; tiles are as small as any space has them."""
    result = reference.bfloat16()
    if fault == "one wrong tile":
        result[5, 32:48] = result[5, 48:64].clone()
    if fault == "one split of fourteen is missing from a tile":
        result[5, :16] *= 1 - 1 / 14
    if fault == "one K step of 56 is missing from a tile":
        # A random part of the sum: 1/56 of its square, so 13 % of its norm.
        noise = torch.randn(16, generator=torch.Generator().manual_seed(0))
        result[5, :16] += (noise * (1 / 56) ** 0.5 * reference[5, :16].norm() / 4).bfloat16()
    if fault == "one row has a scale that is 5 % off":
        result[5] *= 1.05
    if fault == "one element is its neighbour":
        result[5, 100] = -result[5, 100] - 0.3 * reference[5].abs().mean().bfloat16()
    if fault == "one row was never written":
        result[5] = torch.nan
    if fault == "one row is zero":
        result[5] = 0
    if fault == "rows are shifted":
        result = result.roll(1, dims=0)
    return result


@pytest.mark.parametrize(
    "fault",
    [
        "one wrong tile",
        "one split of fourteen is missing from a tile",
        "one K step of 56 is missing from a tile",
        "one row has a scale that is 5 % off",
        "one element is its neighbour",
        "one row was never written",
        "one row is zero",
        "rows are shifted",
    ],
)
def test_one_small_fault_in_a_large_output_fails(fault: str, cases: list[Case]) -> None:
    case = cases[0]
    result = broken(fault, case.references[What.STAGE1])
    with pytest.raises(Incorrect, match="uniform routing"):
        check_launch(launched(result), case, What.STAGE1, Path())


def test_the_global_norm_alone_would_hide_a_missing_split(cases: list[Case]) -> None:
    """Why tiles are judged as well."""
    case = cases[0]
    reference = case.references[What.STAGE1]
    result = broken("one split of fourteen is missing from a tile", reference)
    found = deviation(result, reference)
    assert found.error < case.bound(What.STAGE1, Path())
    assert found.tile_error > TILE_ROOM * case.bound(What.STAGE1, Path())
    assert (found.row, found.column) == (5, 0)


def test_correct_tiles_stay_far_below_the_tile_bound(cases: list[Case], parts: list[torch.Tensor]) -> None:
    for case, summands in zip(cases, parts, strict=True):
        for path in PATHS.values():
            reference = case.references[What.STAGE2]
            found = deviation(simulate(path, summands), reference)
            assert found.tile_error < 0.5 * TILE_ROOM * case.bound(What.STAGE2, path)


def test_an_accumulating_launch_starts_from_zeros_each_time(cases: list[Case]) -> None:
    result = cases[0].references[What.STAGE2].bfloat16()
    check_launch(launched(result, accumulates=True), cases[0], What.STAGE2, Path(bf16_adds=8))


def test_an_accumulating_launch_that_leaves_a_row_out_fails(cases: list[Case]) -> None:
    result = cases[0].references[What.STAGE2].bfloat16()
    result[1] = 0
    with pytest.raises(Incorrect):
        check_launch(launched(result, accumulates=True), cases[0], What.STAGE2, Path(bf16_adds=8))


def test_a_stale_partial_sum_of_an_earlier_launch_does_not_pass(cases: list[Case]) -> None:
    reference = cases[0].references[What.STAGE2].bfloat16()
    output = Output.allocate(tuple(reference.shape), "cpu")
    scratch = (reference / 2).clone()  # as the launch before left it
    integers = torch.zeros(8, dtype=torch.int32)

    def run() -> None:  # adds its own half to a half that nobody computed this time
        output.tensor.copy_(reference / 2 + scratch)

    launch = Launch(run, output.tensor, scratch=(scratch, integers), guards=output.guards)
    with pytest.raises(Incorrect, match="never written"):
        check_launch(launch, cases[0], What.STAGE2, Path())
    assert bool((integers > 1 << 28).all())


def test_a_launch_that_is_right_only_the_first_time_fails(cases: list[Case]) -> None:
    """A kernel that leaves its arrival counters where they are, as split-K by atomics may."""
    result = cases[0].references[What.STAGE2].bfloat16()
    output = Output.allocate(tuple(result.shape), "cpu")
    arrivals = [0]

    def run() -> None:
        arrivals[0] += 1
        output.tensor.copy_(result if arrivals[0] == 1 else torch.zeros_like(result))

    with pytest.raises(Incorrect, match="bound"):
        check_launch(Launch(run, output.tensor, guards=output.guards), cases[0], What.STAGE2, Path())


def test_a_write_past_the_output_fails(cases: list[Case]) -> None:
    result = cases[0].references[What.STAGE2].bfloat16()
    launch = launched(result)

    def run() -> None:
        launch.run()
        launch.guards[0][-1, -1] = 1.0

    with pytest.raises(Incorrect, match="outside"):
        check_launch(Launch(run, launch.output, guards=launch.guards), cases[0], What.STAGE2, Path())


@pytest.mark.parametrize(
    ("tokens", "served"),
    [
        (1, (1,)),
        (4, (4, 1, 2, 3)),
        (5, (5, 1, 2, 3, 4, 6, 7, 8)),
        (9, (9, *range(1, 9), *range(10, 17))),
        (16, (16, *range(1, 16))),
        (17, (17, 1, 9, 13, 16, 32)),
        (40, (40, 1, 20, 30, 33, 39, 64)),
        (160, (160, 1, 80, 120, 129, 159, 256)),
    ],
)
def test_a_config_is_checked_at_what_it_would_serve(tokens: int, served: tuple[int, ...]) -> None:
    assert served_tokens(tokens) == served


@given(st.integers(1, 24), st.integers(2, 40), st.integers(1, 8), st.integers(0, 99))
def test_the_cases_cover_the_corners_of_routing(tokens: int, experts: int, top_k: int, seed: int) -> None:
    layer = Layer("any", 64, 32, experts, min(top_k, experts), 1)
    cases = case_routings(layer, tokens, Routing(), 1, seed, thorough=True)
    for ids in cases.values():
        assert ids.shape == (tokens, layer.top_k)
        assert ids.min() >= 0
        assert ids.max() < experts
        assert all(len(set(row)) == layer.top_k for row in ids.tolist())
    assert len(set(cases["all on the same experts"].flat)) == layer.top_k
    ends = set(cases["first and last experts"].flat)
    assert layer.top_k == 1 or {0, experts - 1} <= ends
    if experts > layer.top_k:
        assert len(set(cases["an expert without a token"].flat)) < experts


def test_quantising_the_inputs_is_no_matter_of_taste() -> None:
    """A division that is off in the last bits gives the same integers."""
    x = make_activations(LAYER, 16, "cpu", seed=3).hidden.float()
    peak = x.abs().amax(dim=1, keepdim=True)
    exact = torch.round(x * (127 / peak))
    assert (torch.round(x * (127 / peak) * (1 + 1e-5)) == exact).all()
    assert (torch.round(x * (127 / peak) * (1 - 1e-5)) == exact).all()
    assert float((x == 0).float().mean()) < 0.05


def test_ties_are_taken_out_and_nothing_else() -> None:
    x = torch.tensor([[127.0, 3.5, 3.0, -2.5, -2.0]]).bfloat16()
    assert without_ties(x).tolist() == [[127.0, 0.0, 3.0, 0.0, -2.0]]


def test_weights_are_full_int4_and_no_two_experts_are_alike(weights: LogicalWeights) -> None:
    from autotune.kernels.layout import unpack_int4

    values = unpack_int4(weights.w1)
    assert sorted(values.unique().tolist()) == list(range(-8, 8))
    assert len({expert.numpy().tobytes() for expert in weights.w1}) == LAYER.experts
    assert float(weights.w1_scale.max() / weights.w1_scale.min()) > 3


def test_one_bfloat16_rounding_is_what_the_bound_takes_it_for() -> None:
    x = torch.randn(1 << 16, generator=torch.Generator().manual_seed(0))
    error = (x.bfloat16().float() - x).norm() / x.norm()
    assert float(error) == pytest.approx(BF16, rel=0.02)
    cut = (to_bf16(x, toward_zero=True) - x).norm() / x.norm()
    assert float(cut) == pytest.approx(2 * BF16, rel=0.02)


def test_a_case_knows_when_what_it_judges_by_was_overwritten(weights: LogicalWeights) -> None:
    (case, *_) = make_cases(LAYER, weights, 1, None, 1, "cpu", seed=9, thorough=False)
    before = case.digest()
    assert case.digest() == before
    case.references[What.STAGE2][0, 5] += 1e-3
    assert case.digest() != before


def test_many_results_are_judged_as_each_would_be(
    cases: list[Case], parts: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = PATHS["float32 sum"]
    launches = [launched(simulate(path, summands)) for summands in parts]
    alone = max(check_launch(one, case, What.STAGE2, path) for one, case in zip(launches, cases, strict=True))
    together = check_launches(launches, cases, What.STAGE2, path)
    assert together == pytest.approx(alone, rel=1e-6)
    # Few at a time, where they are large: no batch is a whole number of launches.
    monkeypatch.setattr(gating, "_JUDGED_AT_ONCE", 3 * cases[0].references[What.STAGE2].numel())
    assert check_launches(launches, cases, What.STAGE2, path) == pytest.approx(alone, rel=1e-6)


@pytest.mark.parametrize("wrong", [0, 2])
def test_among_many_results_the_wrong_one_is_named(
    wrong: int, cases: list[Case], parts: list[torch.Tensor]
) -> None:
    results = [simulate(PATHS["float32 sum"], summands) for summands in parts]
    results[wrong][1] = torch.nan
    launches = [launched(result) for result in results]
    with pytest.raises(Incorrect, match=f"{cases[wrong].name}: 1 of {TOKENS} rows hold values"):
        check_launches(launches, cases, What.STAGE2, Path())
