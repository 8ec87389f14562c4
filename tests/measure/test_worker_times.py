"""How the worker times: what is watched, what is kept for the next request, and what is given back when."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import pytest
import torch

from autotune.kernels.formats import Format
from autotune.measure import worker as working
from autotune.measure.gate import Case, Incorrect
from autotune.measure.timer import FIRST
from autotune.measure.worker import RoundTimes, Worker
from autotune.problem.layer import Layer, Problem, Stage
from autotune.protocol.runtime import ClockReading, Launch, What
from autotune.results import Gpu, LayerConfig
from autotune.space.config import Config
from tests.measure.conftest import FAKE, QUICK, TINY
from tests.measure.fake_runtime import Fault, fake_config, with_stages

M4 = Problem(TINY, 4)
LAYER_STEPS = 6  # fewer than usual, and not as many as a round's or a window's
WHO = "process 497 (python3)"


class Replay:
    """A pass over launches of `us` microseconds each; runs the last one, whose output is judged.

    Attributes:
        factors: each call to `passes` takes so many times as long; the last one lasts.
        asked: samples and passes a sample of each call.
    """

    method = "graph"

    def __init__(self, launches: Sequence[Launch], us: float, factors: list[float]) -> None:
        self.launches, self.us, self.factors = launches, us, factors
        self.asked: list[tuple[int, int]] = []
        self.closed = False

    def passes(self, samples: int, passes_a_sample: int) -> list[float]:
        assert not self.closed
        self.asked.append((samples, passes_a_sample))
        self.launches[-1].run()
        factor = self.factors.pop(0) if len(self.factors) > 1 else self.factors[0]
        return [factor * self.us * len(self.launches)] * samples

    def close(self) -> None:
        self.closed = True


class Watch:
    """Sees `who`; writes down what it is shown."""

    def __init__(self) -> None:
        self.who: str | None = None
        self.shown: list[tuple[str | None, str, int, list[list[float]]]] = []
        self.closed = 0

    def before(self) -> str:
        return "before"

    def disturbed(self, before: str | None, key: str, launches: Any, windows: Any) -> str | None:
        self.shown.append((before, key, len(launches), [list(window) for window in windows]))
        return self.who

    def now(self) -> str:
        return "now"

    def close(self) -> None:
        self.closed += 1


class Bench:
    """A prepared worker with its watch and all replays that it made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> None:
        self.worker = Worker(FAKE, replace(QUICK, **settings))
        self.watch = self.worker._watch = Watch()  # type: ignore[assignment]
        self.replays: list[Replay] = []
        self.factors: dict[float, list[float]] = {}
        machine = self.worker.runtime.machine
        monkeypatch.setattr(machine, "replay", self._replay)
        monkeypatch.setattr(machine, "identity", lambda: "GPU-1")
        self.worker._gpu = Gpu.here("GPU-1")
        self.worker.prepare(TINY, [M4])

    def _replay(self, launches: Sequence[Launch]) -> Replay:
        config: Config = launches[0].config  # type: ignore[attr-defined]
        us = float(str(config["us"])) / 1000
        self.replays.append(Replay(launches, us, self.factors.get(us, [1.0])))
        return self.replays[-1]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch, layer_steps=LAYER_STEPS)


# A stage's window.


def test_a_window_is_of_launches_and_is_watched_by_the_pass(bench: Bench) -> None:
    bench.watch.who = WHO
    result = bench.worker.measure(M4, Stage.STAGE1, fake_config(12.5))
    assert {sample.us for sample in result.samples} == {12.5}
    assert result.contended == WHO
    assert result.gpu == Gpu.here("GPU-1") == Gpu(result.gpu.host, "GPU-1")
    assert 0 < result.seconds < 60
    (replay,) = bench.replays
    steps = len(replay.launches)
    assert steps >= QUICK.steps
    assert bench.watch.shown == [
        ("before", f"{M4.key} stage1 {fake_config(12.5).key}", steps, [[12.5 * steps] * len(result.samples)])
    ]
    assert replay.closed


def test_a_windows_error_is_the_worse_of_the_gates_and_of_what_was_timed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    for gate, timed in ((3e-3, 1e-3), (1e-3, 3e-3)):
        monkeypatch.setattr(working, "check_launches", lambda *_, error=gate: error)
        monkeypatch.setattr(working, "judge", lambda *_, error=timed: error)
        assert bench.worker.measure(M4, Stage.STAGE1, fake_config(10 + gate)).error == 3e-3


def test_what_was_timed_is_judged_by_the_last_steps_output_that_one_pass_leaves(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[tuple[Launch, str, What]] = []
    poisoned: list[Any] = []

    def judge(launch: Launch, case: Case, what: What, path: Any) -> float:
        judged.append((launch, case.name, what))
        assert path == bench.worker.runtime.path(what, config)
        return 0.0

    config = fake_config()
    monkeypatch.setattr(working, "judge", judge)
    monkeypatch.setattr(working, "poison", poisoned.append)
    bench.worker.measure(M4, Stage.STAGE2, config)
    (replay,) = bench.replays
    assert poisoned == [replay.launches[-1:]]
    assert replay.asked[-1] == (1, 1)
    assert judged == [(replay.launches[-1], "the last step of the timed pass", What.STAGE2)]


def test_a_pass_that_adds_up_cannot_be_judged_by_its_last_step(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bind = bench.worker._bind
    monkeypatch.setattr(
        bench.worker, "_bind", lambda *of: [replace(launch, accumulates=True) for launch in bind(*of)]
    )
    monkeypatch.setattr(working, "check_launches", lambda *_: 1e-3)
    monkeypatch.setattr(working, "judge", lambda *_: pytest.fail("its output holds every step's sums"))
    assert bench.worker.measure(M4, Stage.STAGE2, fake_config()).error == 1e-3
    bench.worker.layer(M4, with_stages(fake_config()), with_stages(fake_config(11)))


def test_wrong_numbers_in_the_timed_pass_are_refused_and_its_graph_is_given_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(working, "check_launches", lambda *_: 1e-3)
    with pytest.raises(Incorrect, match="the last step of the timed pass"):
        bench.worker.measure(M4, Stage.STAGE1, fake_config(fault=Fault.WRONG_TILE))
    assert [replay.closed for replay in bench.replays] == [True]
    with pytest.raises(Incorrect, match="the last step of the timed pass"):
        bench.worker.layer(M4, with_stages(fake_config(fault=Fault.WRONG_TILE)), with_stages(fake_config(11)))
    assert [replay.closed for replay in bench.replays] == [True, False, True]  # the default's stays


def test_only_an_undisturbed_window_makes_others_poor(bench: Bench) -> None:
    def samples(us: float) -> int:
        return len(bench.worker.measure(M4, Stage.STAGE1, fake_config(us)).samples)

    bench.watch.who = WHO
    whole = samples(1.0)
    bench.watch.who = None
    assert samples(10.0) == whole
    assert samples(11.9) == whole
    assert samples(12.1) == FIRST
    # What is slower does not become the one that others are held against.
    assert samples(12.2) == FIRST
    assert samples(5.0) == whole
    assert samples(6.1) == FIRST


# A layer beside the default.

DEFAULT = with_stages(fake_config(10))  # 20 us a layer


def layer_of(bench: Bench, us: float, default: LayerConfig = DEFAULT) -> Any:
    return bench.worker.layer(M4, with_stages(fake_config(us)), default)


def test_a_layer_and_its_default_are_told_by_the_step_and_share_the_default_s_graph(bench: Bench) -> None:
    bench.watch.who = WHO
    first = layer_of(bench, 9)
    assert (set(first.us), set(first.default_us)) == ({18.0}, {20.0})
    assert (first.contended, first.gpu) == (WHO, Gpu.here("GPU-1"))
    assert 0 < first.seconds < 60
    assert 1e-3 < first.error < 2e-2
    base, own = bench.replays
    steps = len(own.launches)
    assert steps == len(bench.worker._load().pass_of(M4, QUICK.seed, LAYER_STEPS).steps) >= LAYER_STEPS
    assert len(base.launches) == steps
    key = f"{M4.key} layer {with_stages(fake_config(9)).key}"
    assert bench.watch.shown == [(None, key, steps, [[18.0 * steps] * len(first.us)])]
    layer_of(bench, 8)
    assert len(bench.replays) == 3
    layer_of(bench, 8, with_stages(fake_config(30)))
    assert len(bench.replays) == 5  # another default has its own
    assert [replay.closed for replay in bench.replays] == [False, True, True, False, True]


def test_a_layer_is_judged_as_a_whole_by_its_own_output(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bind = bench.worker._bind
    judged: list[Launch] = []

    def showing(*of: Any) -> list[Launch]:
        return [replace(launch, intermediate=torch.zeros(8, 64)) for launch in bind(*of)]

    monkeypatch.setattr(bench.worker, "_bind", showing)
    monkeypatch.setattr(working, "judge", lambda launch, *_: judged.append(launch) or 2e-3)
    poisoned: list[Any] = []
    monkeypatch.setattr(working, "poison", poisoned.append)
    paths: list[tuple[What, Any]] = []
    monkeypatch.setattr(bench.worker.runtime, "path", lambda *of: paths.append(of))
    assert layer_of(bench, 9).error == 2e-3
    assert paths == [(What.LAYER, with_stages(fake_config(9)))]
    assert judged == [replace(bench.replays[1].launches[-1], intermediate=None)]
    assert poisoned == [bench.replays[1].launches[-1:]]


def test_one_pass_is_enough_for_a_layer_that_is_far_behind_the_best_ratio_so_far(bench: Bench) -> None:
    assert len(layer_of(bench, 8).us) > 1
    assert len(layer_of(bench, 8.7).us) > 1
    assert len(layer_of(bench, 8.9).us) == 1
    bench.watch.who = WHO
    bench.worker._looked = -math.inf
    assert len(layer_of(bench, 2).us) > 1
    bench.watch.who = None
    assert len(layer_of(bench, 8.5).us) > 1  # what was disturbed sets no mark


def test_a_stray_time_of_the_default_is_taken_again_at_most_twice(bench: Bench) -> None:
    layer_of(bench, 9)
    base = bench.replays[0]
    looks = len(base.asked)
    for factors, tries, around in (
        ([1.05, 1.0], 1, 1.025),
        ([1.2, 1.2, 1.0], 2, 1.0),
        ([1.2] * 6 + [1.0], 3, 1.2),
    ):
        base.factors[:] = factors
        base.asked.clear()
        result = layer_of(bench, 9)
        assert len(base.asked) == tries * looks
        assert median(result.default_us) == pytest.approx(20.0 * around)


def test_others_are_looked_for_first_then_where_the_default_is_odd_and_now_and_then(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(working.time, "monotonic", lambda: now[0])

    def looks(factor: float = 1.0) -> int:
        bench.watch.shown.clear()
        for replay in bench.replays[:1]:
            replay.factors[:] = [factor]
        layer_of(bench, 10)
        return len(bench.watch.shown)

    assert looks() == 1
    assert looks() == 0
    assert looks(1.015) == 0
    assert looks(1.03) == 1
    now[0] += 0.25
    assert looks() == 0
    now[0] += 0.1
    assert looks() == 1
    # A default that has become faster is what the next ones are held against, looked at or not.
    assert looks(0.95) == 0
    assert looks(0.98) == 1


def test_the_time_of_a_disturbed_default_is_not_its_usual_one(bench: Bench) -> None:
    bench.factors[20.0] = [0.5]
    bench.watch.who = WHO
    assert layer_of(bench, 10).contended == WHO
    bench.watch.who = None
    bench.replays[0].factors[:] = [1.0]
    layer_of(bench, 10)
    assert bench.worker._usual == {(M4.key, DEFAULT.key): 20.0 * len(bench.replays[0].launches)}


# A part of a round.


def test_a_round_has_the_median_of_each_part_a_launch_and_is_watched_as_one(bench: Bench) -> None:
    config = with_stages(fake_config(10))
    bench.watch.who = WHO
    times = bench.worker.round(M4, (What.LAYER, What.STAGE1), config, 7, 5)
    assert times == RoundTimes({"layer": 20.0, "stage1": 10.0}, WHO)
    layer, stage = bench.replays
    assert layer.asked[-1] == (5, math.ceil(QUICK.min_sample_us / (20.0 * len(layer.launches))))
    assert stage.asked[0] == (2, 1)
    windows = [[20.0 * len(layer.launches)] * 5, [10.0 * len(stage.launches)] * 5]
    key = f"{M4.key} layer+stage1 {config.key}"
    assert bench.watch.shown == [("before", key, len(stage.launches), windows)]


def test_a_rounds_graphs_stay_for_its_opposite_and_go_with_the_next_routings(bench: Bench) -> None:
    config, other = with_stages(fake_config(10)), with_stages(fake_config(9))

    def round_of(seed: int, of: LayerConfig = config, problem: Problem = M4) -> None:
        bench.worker.round(problem, (What.LAYER,), of, seed, 5)

    round_of(1)
    round_of(1, other)
    round_of(1)
    assert [replay.closed for replay in bench.replays] == [False, False]
    round_of(2)
    assert [replay.closed for replay in bench.replays] == [True, True, False]
    round_of(2, config, Problem(TINY, 2))
    assert [replay.closed for replay in bench.replays] == [True, True, True, False]
    round_of(2)
    assert len(bench.replays) == 5


def test_a_rounds_pass_has_the_steps_that_are_asked_for_on_routings_of_its_seed(bench: Bench) -> None:
    config = with_stages(fake_config(10))
    worker = bench.worker
    worker.round(M4, (What.LAYER,), config, 1, 5, 40)
    assert len(bench.replays[0].launches) >= 40
    assert len(worker._load().pass_of(M4, 1, 40).steps) == len(bench.replays[0].launches)
    worker.round(M4, (What.LAYER,), config, 2, 5)
    assert QUICK.steps <= len(bench.replays[1].launches) < 40


def test_the_kernel_that_does_nothing_really_runs_on_the_device(bench: Bench) -> None:
    worker = bench.worker
    worker._nothing()
    spacer = worker._spacer
    assert spacer is not None
    assert spacer.device.type == "cpu"
    spacer.fill_(1)
    worker._nothing()
    assert worker._spacer is spacer
    assert float(spacer) == 0.0


# What a worker holds.


def test_nothing_is_measured_before_a_layer_is_there() -> None:
    worker = Worker(FAKE, QUICK)
    with pytest.raises(RuntimeError, match=r"^prepare\(\) comes first$"):
        worker.measure(M4, Stage.STAGE1, fake_config())


def test_a_layer_that_is_there_is_not_loaded_again_and_another_takes_its_place(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = bench.worker
    fingerprint = worker.prepare(TINY, [M4])
    assert (fingerprint.backend, fingerprint.kernel_source) == ("fake", "fake")
    there = worker._load()
    worker.prepare(TINY, [])
    assert worker._load() is there
    layer_of(bench, 9)
    worker.round(M4, (What.LAYER,), DEFAULT, 1, 5)
    loaded: list[Any] = []
    bench.watch.closed = 0
    monkeypatch.setattr(working.Workload, "load", lambda _, problems: loaded.append(problems))
    other = Layer("other", 64, 64, 4, 2, 1)
    worker.prepare(other, [M4, Problem(other, 1), Problem(other, 2)])
    assert worker._workload is not None
    assert worker._workload.layer == other
    assert loaded == [(Problem(other, 1), Problem(other, 2))]
    assert all(replay.closed for replay in bench.replays)
    assert bench.watch.closed == 1
    # Nothing of the first layer is known any more.
    held = ("_cases", "_last_steps", "_digests", "_passed", "_passed_at", "_fastest", "_fastest_layer")
    assert not any(getattr(worker, name) for name in (*held, "_usual", "_bases", "_replays"))


def test_after_a_failure_graphs_go_and_passes_are_made_anew(bench: Bench) -> None:
    layer_of(bench, 9)
    bench.worker.round(M4, (What.LAYER,), DEFAULT, 1, 5)
    before = bench.worker._load().pass_of(M4, 1)
    bench.worker.recover()
    assert all(replay.closed for replay in bench.replays)
    assert bench.worker._load().pass_of(M4, 1) is not before
    layer_of(bench, 9)


@pytest.mark.parametrize("what", ["a case", "the last step", "the weights"])
def test_a_candidate_that_overwrote_what_later_results_depend_on_is_found_out(
    what: str, bench: Bench
) -> None:
    worker = bench.worker
    worker.measure(M4, Stage.STAGE1, fake_config())
    worker.recover()
    if what == "the weights":
        worker.runtime._weights[0].w1.view(-1)[0] += 1  # type: ignore[attr-defined]
    else:
        cases = next(iter(worker._cases.values())) if what == "a case" else [*worker._last_steps.values()]
        cases[0].references[What.STAGE1].view(-1)[0] += 1
    told = "weights" if what == "the weights" else "references"
    with pytest.raises(RuntimeError, match=rf"^the {told} were overwritten$"):
        worker.recover()


def test_a_broken_device_is_found_out(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    did: list[str] = []
    machine = bench.worker.runtime.machine
    monkeypatch.setattr(machine, "synchronize", lambda: did.append("synchronise"))
    monkeypatch.setattr(machine, "free_bytes", lambda: did.append("free") or 1)
    bench.worker.recover()
    assert did == ["synchronise", "free"]
    monkeypatch.setattr(machine, "synchronize", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        bench.worker.recover()


def test_the_gpu_and_its_limits_are_told_as_they_are_now(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bench.worker.watch() == "now"
    for throttled in (True, False):
        monkeypatch.setattr(
            bench.worker.runtime.machine, "clock", lambda throttled=throttled: ClockReading(900, throttled)
        )
        assert bench.worker.throttled() is throttled
    monkeypatch.setattr("autotune.results.socket.gethostname", lambda: "node7")
    assert Gpu.here("GPU-1") == Gpu("node7", "GPU-1")
    assert Gpu.here(None) == Gpu("node7", None)


# The gate.


def test_a_gate_waits_for_the_device_and_its_error_is_the_worst(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = {4: 1e-3, 1: 2e-3, 2: 5e-3, 3: 3e-3}
    synchronised: list[bool] = []
    machine = bench.worker.runtime.machine
    monkeypatch.setattr(machine, "synchronize", lambda: synchronised.append(True))
    seen: list[tuple[int, What]] = []

    def check(launches: Sequence[Launch], cases: Sequence[Case], what: What, path: Any) -> float:
        seen.append((cases[0].tokens, what))
        assert len(launches) == len(cases)
        assert path == bench.worker.runtime.path(what, config)
        return errors[cases[0].tokens]

    config = fake_config()
    monkeypatch.setattr(working, "check_launches", check)
    assert bench.worker.check(M4, What.STAGE2, config) == 5e-3
    assert seen == [(tokens, What.STAGE2) for tokens in (4, 1, 2, 3)]
    assert synchronised == [True]
    errors[2] = 1.0
    assert bench.worker.check(M4, What.STAGE2, config) == 5e-3  # it passed, and is not asked again
    assert len(seen) == 4
    # What is known of another problem's counts counts for this one.
    del errors[1]
    assert bench.worker.check(Problem(TINY, 3), What.STAGE2, config) == 5e-3


def test_a_count_that_a_config_does_not_serve_is_not_checked_but_its_own_always_is(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    monkeypatch.setattr(bench.worker.runtime, "serves", lambda what, config, tokens: tokens == 2)
    monkeypatch.setattr(
        working, "check_launches", lambda launches, cases, *_: seen.append(cases[0].tokens) or 0.0
    )
    bench.worker.check(M4, What.STAGE1, fake_config())
    assert seen == [4, 2]


def test_the_cases_of_a_count_are_shared_by_problems_and_seeded_by_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[dict[str, Any]] = []
    make_cases: Callable[..., list[Case]] = working.make_cases

    def noted(*arguments: Any, **options: Any) -> list[Case]:
        layer, _, tokens, routing, sequences, device, seed = arguments
        assert (layer, device) == (TINY, "cpu")
        made.append({"tokens": tokens, "routing": routing, "of": sequences, "seed": seed, **options})
        return make_cases(*arguments, **options)

    monkeypatch.setattr(working, "make_cases", noted)
    problem = Problem(TINY, 1, concurrency=2)
    bench.worker.settings = replace(bench.worker.settings, seed=100)
    bench.worker.check(problem, What.STAGE1, fake_config())
    bench.worker.check(M4, What.STAGE1, fake_config())
    shared = {"form": made[0]["form"], "of": 2}
    assert made == [
        {"tokens": 2, "routing": problem.routing, "seed": 102, "thorough": True, **shared},
        {"tokens": 1, "routing": None, "seed": 101, "thorough": False, **shared},
        {**made[2], "tokens": 4, "routing": M4.routing, "seed": 104, "thorough": True, "of": 1},
        {**made[3], "tokens": 3, "routing": None, "seed": 103, "thorough": False},
    ]


def test_a_pass_is_judged_in_the_runtimes_own_numbers(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    formats: list[Format] = []

    def noted(name: str, weights: Any, inputs: Any, step: Any, form: Format) -> Case:
        formats.append(form)
        raise InterruptedError

    bench.worker.runtime.format = Format.BF16  # type: ignore[attr-defined]
    monkeypatch.setattr(working, "make_case", noted)
    with pytest.raises(InterruptedError):
        bench.worker._judge_last(M4, What.STAGE1, fake_config(), [])
    bench.worker._cases.clear()
    (case, *_) = bench.worker._cases_at(M4, 1)
    assert formats == [Format.BF16]
    assert case.form is Format.BF16


def test_a_layer_is_launched_with_the_configs_of_both_stages(bench: Bench) -> None:
    with pytest.raises(TypeError, match=r"^a layer is launched with the configs of both stages$"):
        bench.worker.check(M4, What.LAYER, fake_config())
    layer = LayerConfig(fake_config(3), fake_config(4))
    assert working._launched(What.SPACED, layer) is layer
    assert working._launched(What.STAGE1, layer) == fake_config(3)
    assert working._launched(What.STAGE2, layer) == fake_config(4)
    assert working._launched(What.STAGE2, fake_config(5)) == fake_config(5)
