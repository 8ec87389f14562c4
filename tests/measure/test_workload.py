"""Memory is worked out beforehand, and passes are what the problem says."""

import pytest

from autotune.errors import UserError
from autotune.machine.devices import DEVICES
from autotune.measure.machine import CpuMachine
from autotune.measure.settings import MeasureSettings
from autotune.measure.workload import GIB, Workload, check_memory, expert_bytes, memory_needed, plan
from autotune.problem.layer import Problem, Stage
from autotune.problem.routing import Routing
from autotune.protocol.registry import weight_bytes
from tests.measure.conftest import PROBLEM, QUICK, TINY
from tests.measure.fake_runtime import FakeRuntime
from tests.spaces import KIMI

PACKED = 1_057_000_000  # one Kimi layer at TP8


@pytest.mark.parametrize(("card", "tokens"), [("h100", 1), ("h100", 8), ("mi325x", 4), ("mi325x", 160)])
def test_kimi_fits_any_card_that_it_is_tuned_on(card: str, tokens: int) -> None:
    problem = Problem(KIMI, min(tokens, 4), max(1, tokens // 4))
    ring = plan(problem, MeasureSettings(), DEVICES[card].last_level_cache_bytes, seed=0)
    needed = memory_needed(KIMI, ring.count + 1, PACKED, tokens)
    assert needed < 20 * GIB
    check_memory(KIMI, ring.count + 1, PACKED, [tokens], 64 * GIB, MeasureSettings())


def test_too_little_memory_is_one_sentence_that_names_the_option() -> None:
    free = memory_needed(KIMI, 3, PACKED, 4) - 1
    with pytest.raises(UserError, match=r"GiB of GPU memory and \d\.\d are free: lower --cold \(now 2"):
        check_memory(KIMI, 3, PACKED, [4], free, MeasureSettings())
    with pytest.raises(UserError, match="raise --tp"):
        check_memory(KIMI, 1, PACKED, [4], GIB, MeasureSettings())


def test_where_only_the_largest_count_does_not_fit_it_is_that_which_is_left_out() -> None:
    free = memory_needed(KIMI, 3, PACKED, 4096) - 1
    with pytest.raises(
        UserError, match=r"leave out the 4096 tokens \(--shape, --concurrency or, of a run, --guards\)"
    ):
        check_memory(KIMI, 3, PACKED, [4, 64, 4096], free, MeasureSettings())


def test_too_little_memory_is_said_before_anything_is_allocated() -> None:
    runtime = FakeRuntime()
    runtime.machine.free_bytes = lambda: 1000  # type: ignore[method-assign]
    workload = Workload(runtime, TINY, QUICK)
    with pytest.raises(UserError, match="free"):
        workload.load((PROBLEM,))
    assert workload.weights is None


def test_the_ring_is_planned_for_the_stage_with_the_smaller_weights() -> None:
    """What is cold for stage 2 is colder for stage 1."""
    assert expert_bytes(KIMI) == 7168 * (128 + 4)
    per_step = weight_bytes("triton").expert(KIMI, Stage.STAGE2)
    assert expert_bytes(KIMI) == pytest.approx(per_step)


def test_a_pass_has_the_problems_tokens_and_router_weights_that_sum_to_one() -> None:
    workload = Workload(FakeRuntime(), TINY, QUICK)
    problem = Problem(TINY, 2, concurrency=3, routing=Routing("correlated", 0.5))
    workload.load((problem,))
    made = workload.pass_of(problem, seed=1)
    assert len(made.steps) >= QUICK.steps
    assert made.ring.reuse_bytes > QUICK.cold * CpuMachine().last_level_cache()
    for step in made.steps:
        assert step.ids.shape == (6, TINY.top_k)
        assert step.router.sum(dim=1).tolist() == pytest.approx([1.0] * 6)
    assert workload.pass_of(problem, seed=1) is made
    assert (workload.pass_of(problem, seed=2).steps[0].ids != made.steps[0].ids).any()


def test_unlike_conditions_have_unlike_keys() -> None:
    keys = {MeasureSettings(cold=cold, seed=seed).key for cold in (0, 1, 2) for seed in (0, 1)}
    assert len(keys) == 6
    assert MeasureSettings(window_s=1).key == MeasureSettings(window_s=2).key


def test_odd_rounds_are_refused() -> None:
    with pytest.raises(ValueError, match="even"):
        MeasureSettings(judge_rounds=3)
