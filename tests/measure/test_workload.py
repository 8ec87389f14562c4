"""Memory is worked out beforehand, and passes are what the problem says."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from autotune.errors import UserError
from autotune.kernels import formats
from autotune.kernels.formats import Format
from autotune.machine.devices import DEVICES
from autotune.measure import workload as workloads
from autotune.measure.machine import CpuMachine
from autotune.measure.settings import MeasureSettings
from autotune.measure.workload import (
    GIB,
    Workload,
    check_memory,
    expert_bytes,
    make_activations,
    make_steps,
    make_weights,
    memory_needed,
    plan,
    without_ties,
)
from autotune.problem.layer import Layer, Problem, Stage
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


# What is put on the device.

LAYER = Layer("small", model_dim=256, inter_dim=128, experts=64, top_k=2, tp=1)


@contextlib.contextmanager
def elsewhere() -> Iterator[None]:
    """What is made on no device in particular has no numbers; and torch's own generator is somewhere else."""
    torch.rand(7)
    with torch.device("meta"):
        yield


def test_memory_is_weights_copies_slots_of_partial_sums_and_a_spare() -> None:
    layer = Layer("mine", model_dim=1024, inter_dim=256, experts=16, top_k=4, tp=1)
    weights = 16 * (2 * 256 * (1024 // 2 + 4) + 1024 * (256 // 2 + 4))  # INT4, and a float32 scale a row
    # Eight splits of float32 of gate, up and output a slot; twice, for references and graphs.
    slots = 2 * 10 * 4 * (8 * 4 * (2 * 256 + 1024))
    assert memory_needed(layer, 3, 1000, 10) == weights + 3 * 1000 + slots + (512 << 20)
    assert GIB == 1 << 30


@pytest.mark.parametrize(
    ("changes", "copies", "remedy"),
    [
        ({}, 2, "lower --cold (now 2 caches' worth of weights, 2 copies), or free the GPU"),
        ({}, 1, "raise --tp (now --tp 8), or free the GPU"),
        ({"ep": 8}, 1, "raise --ep (now --tp 8 --ep 8), or free the GPU"),
    ],
)
def test_the_remedy_is_what_needs_the_memory(changes: dict[str, int], copies: int, remedy: str) -> None:
    layer = replace(KIMI, **changes)
    needed = memory_needed(layer, copies, PACKED, 4)
    settings = MeasureSettings()
    check_memory(layer, copies, PACKED, [4], needed, settings)
    with pytest.raises(UserError) as told:
        check_memory(layer, copies, PACKED, [4], needed - 1, settings)
    gib = f"{needed / GIB:.1f}"
    assert str(told.value) == (
        f"measuring {layer.model} needs {gib} GiB of GPU memory and {gib} are free: {remedy}"
    )


def test_the_largest_count_is_left_out_only_where_the_others_fit() -> None:
    large, small = (memory_needed(KIMI, 3, PACKED, count) for count in (4096, 4))
    settings = MeasureSettings()
    check_memory(KIMI, 3, PACKED, [4, 4096], large, settings)
    with pytest.raises(UserError) as told:
        check_memory(KIMI, 3, PACKED, [4, 4096], small, settings)
    assert str(told.value) == (
        f"measuring {KIMI.model} needs {large / GIB:.1f} GiB of GPU memory and {small / GIB:.1f} are free:"
        " leave out the 4096 tokens (--shape, --concurrency or, of a run, --guards), or free the GPU"
    )
    with pytest.raises(UserError, match="lower --cold"):
        check_memory(KIMI, 3, PACKED, [4, 4096], small - 1, settings)


def test_weights_use_every_value_and_no_two_channels_are_alike() -> None:
    with elsewhere():
        w = make_weights(LAYER, "cpu", 3)
    assert (w.w1.shape, w.w2.shape) == ((64, 256, 128), (64, 256, 64))
    assert (w.w1_scale.shape, w.w2_scale.shape) == ((64, 256), (64, 256))
    for tensor in (w.w1, w.w2):
        assert tensor.dtype is torch.int8
        assert set(tensor.unique().tolist()) == set(range(-128, 128))
        counts = torch.bincount(tensor.flatten().int() + 128)
        assert counts.max() < 1.25 * counts.min()
    # Four to one, so that a row of K random INT4, whose deviation is 4.6, comes out at order one.
    for scale, k in ((w.w1_scale, 256), (w.w2_scale, 128)):
        in_order = (scale * 4.6 * k**0.5).flatten().sort().values
        assert float(in_order[0]) == pytest.approx(0.5, rel=2e-3)
        assert float(in_order[-1]) == pytest.approx(2.0, rel=2e-3)
        assert float(in_order.median()) == pytest.approx(1.0, rel=2e-2)
        assert len(scale.unique()) > 0.99 * scale.numel()


def same(one: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> list[bool]:
    return [torch.equal(a.float(), b.float()) for a, b in zip(one, other, strict=True)]


def test_equal_seeds_give_equal_numbers_and_unlike_seeds_unlike_ones() -> None:
    def weights(seed: int) -> tuple[torch.Tensor, ...]:
        with elsewhere():
            return make_weights(LAYER, "cpu", seed)._tensors()

    def inputs(seed: int) -> list[torch.Tensor]:
        with elsewhere():
            made = make_activations(LAYER, 4, "cpu", seed)
        return [made.hidden, made.a1, made.a1_scale, made.a2, made.a2_scale]

    def routers(seed: int) -> list[torch.Tensor]:
        ids, copies = np.zeros((3, 4, 2), np.int32), np.zeros(3, np.int32)
        with elsewhere():
            return [step.router for step in make_steps(ids, copies, "cpu", seed)]

    for make in (weights, inputs, routers):
        assert all(same(make(1), make(1))), make
        assert not any(same(make(1), make(2))), make


def test_tokens_differ_by_up_to_four_in_magnitude_and_are_quantised_row_by_row() -> None:
    with elsewhere():
        made = make_activations(LAYER, 512, "cpu", 0)
    assert (made.hidden.shape, made.hidden.dtype) == ((512, 256), torch.bfloat16)
    assert (made.a2.shape, made.a2_scale.shape) == ((512, 2, 128), (512, 2))
    for values in (made.hidden.float(), made.a2.float() * made.a2_scale[..., None]):
        sizes = values.flatten(0, -2).std(dim=1).sort().values
        assert 0.4 < float(sizes[2]) < 0.6
        assert 1.7 < float(sizes[-3]) < 2.3
        assert float(sizes.median()) == pytest.approx(1.0, rel=0.1)
    again = made.a1.float() * made.a1_scale[:, None]
    assert float((again - made.hidden.float()).norm() / made.hidden.float().norm()) < 1e-2
    assert made.a1.dtype is torch.int8


def test_a_format_of_its_own_has_operands_of_its_own() -> None:
    made = make_activations(LAYER, 4, "cpu", 0, Format.BF16)
    assert (made.a1.dtype, made.a2.dtype) == (torch.bfloat16, torch.bfloat16)
    assert torch.equal(made.a1, made.hidden)
    x = torch.randn(64, 128).bfloat16()
    assert torch.equal(without_ties(x, Format.BF16), x.masked_fill(formats.ties(Format.BF16, x), 0.0))
    assert torch.equal(without_ties(x), x.masked_fill(formats.ties(Format.INT8, x), 0.0))
    assert not torch.equal(without_ties(x), x)


def test_a_step_has_its_copy_its_slots_and_weights_of_which_none_is_negligible() -> None:
    ids = np.arange(2 * 512 * 2, dtype=np.int32).reshape(2, 512, 2)[:, ::-1]  # not contiguous
    with elsewhere():
        steps = make_steps(ids, np.array([1, 0], np.int32), "cpu", 0)
    assert [step.copy for step in steps] == [1, 0]
    assert all(type(step.copy) is int for step in steps)
    for step, own in zip(steps, ids, strict=True):
        assert step.ids.tolist() == own.tolist()
        assert step.ids.dtype is torch.int32
        assert step.router.sum(dim=1).tolist() == pytest.approx([1.0] * 512)
        # Of two between 1 and e before they are normalised the lesser is over a quarter.
        assert 1 / (1 + math.e) < float(step.router.min()) < 0.3
    assert not torch.equal(steps[0].router, steps[1].router)


# The workload.


class Counting(FakeRuntime):
    """Writes down what it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.did: list[Any] = []

    def prepare(self, layer: Layer, weights: Any) -> None:
        self.did.append(("prepare", layer, weights))
        super().prepare(layer, weights)

    def grow(self, copies: int) -> None:
        self.did.append(("grow", copies))
        super().grow(copies)


def test_a_hot_pass_is_one_routing_over_and_over_on_one_copy() -> None:
    ring = plan(PROBLEM, replace(QUICK, cold=0.0, steps=9), 1 << 16, seed=5)
    assert (len(ring.ids), ring.count) == (9, 1)
    assert (ring.ids == PROBLEM.draw(1, 5)[0]).all()


def test_a_cold_pass_touches_more_than_so_many_caches_between_two_uses() -> None:
    for cold in (0.5, 1.0):
        ring = plan(PROBLEM, replace(QUICK, cold=cold), 1 << 16, seed=5)
        assert ring.reuse_bytes > cold * (1 << 16)
    settings = replace(QUICK, cold=1.0)
    assert (plan(PROBLEM, settings, 1 << 16, 5).ids != plan(PROBLEM, settings, 1 << 16, 6).ids).any()
    other_slots = plan(PROBLEM, replace(settings, seed=1), 1 << 16, 5)
    assert (plan(PROBLEM, settings, 1 << 16, 5).ids != other_slots.ids).any()


@pytest.mark.parametrize(("cold", "spare"), [(0.0, 0), (0.5, 1)])
def test_a_layer_has_the_copies_that_its_problems_need_and_one_more_where_there_are_several(
    cold: float, spare: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(workloads, "check_memory", lambda *of: checked.append(of))
    runtime, settings = Counting(), replace(QUICK, cold=cold, seed=9)
    problems = (PROBLEM, Problem(TINY, 1))
    workload = Workload(runtime, TINY, settings)
    workload.load(problems)
    needed = max(plan(problem, settings, CpuMachine().last_level_cache(), 9).count for problem in problems)
    assert (needed > 1) == bool(spare)
    copies = needed + spare
    packed, free = runtime.packed_bytes(TINY), runtime.machine.free_bytes()
    assert checked == [(TINY, copies, packed, [4, 1], free, settings)]
    assert runtime.did == [("prepare", TINY, workload.weights), ("grow", copies)]
    assert workload.weights is not None
    assert all(same(workload.weights._tensors(), make_weights(TINY, "cpu", 9)._tensors()))


def test_a_layer_without_problems_has_one_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(workloads, "check_memory", lambda *of: checked.append(of))
    runtime = Counting()
    Workload(runtime, TINY, QUICK).load(())
    assert [(copies, tokens) for _, copies, _, tokens, _, _ in checked] == [(1, [1])]
    assert runtime.did[1:] == [("grow", 1)]


def test_a_pass_has_the_inputs_of_the_settings_seed_and_routings_of_its_own() -> None:
    runtime, settings = Counting(), replace(QUICK, seed=9)
    workload = Workload(runtime, TINY, settings)
    with elsewhere():  # all is on the machine's device
        workload.load((PROBLEM,))
        made = workload.pass_of(PROBLEM, 3)
    assert workload.weights is not None
    assert workload.weights.w1.device.type == "cpu"
    ring = plan(PROBLEM, settings, CpuMachine().last_level_cache(), 3)
    assert (made.ring.ids == ring.ids).all()
    inputs = make_activations(TINY, PROBLEM.tokens, "cpu", 9)
    assert all(same([made.inputs.hidden, made.inputs.a2], [inputs.hidden, inputs.a2]))
    routed = make_steps(ring.ids, ring.copies, "cpu", 3)
    assert all(same([step.router for step in made.steps], [step.router for step in routed]))
    assert [step.copy for step in made.steps] == ring.copies.tolist()
    assert len(workload.pass_of(PROBLEM, 3, 40).steps) >= 40
    # It is grown only where a pass needs more than there are.
    assert [did[1] for did in runtime.did[1:]] == sorted({did[1] for did in runtime.did[1:]})


def test_the_latest_sixteen_passes_are_kept_until_they_are_to_be_forgotten() -> None:
    workload = Workload(FakeRuntime(), TINY, QUICK)
    workload.load((PROBLEM,))
    passes = [workload.pass_of(PROBLEM, seed) for seed in range(16)]
    assert [workload.pass_of(PROBLEM, seed) for seed in range(16)] == passes
    workload.pass_of(PROBLEM, 16)
    assert workload.pass_of(PROBLEM, 1) is passes[1]
    assert workload.pass_of(PROBLEM, 0) is not passes[0]
    workload.forget_passes()
    assert workload.pass_of(PROBLEM, 5) is not passes[5]


def test_what_the_runtimes_format_is_its_inputs_are_in() -> None:
    runtime = FakeRuntime()
    runtime.format = Format.BF16  # type: ignore[attr-defined]
    workload = Workload(runtime, TINY, QUICK)
    workload.load((PROBLEM,))
    assert workload.pass_of(PROBLEM, 0).inputs.a1.dtype is torch.bfloat16
