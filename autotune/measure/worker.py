"""Serves requests in the process that owns the GPU: gate, window, part of a round.

A `Worker` holds one runtime and one layer. It is only called by `requests`, which turns what goes wrong
into values.
"""

import gc
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any

from autotune.machine.fingerprint import Fingerprint
from autotune.measure.contention import Watch
from autotune.measure.gate import Case, check_launches, judge, make_case, make_cases, poison, served_tokens
from autotune.measure.settings import MeasureSettings
from autotune.measure.timer import passes_a_sample, time_beside, time_replay
from autotune.measure.workload import Pass, Workload
from autotune.problem.layer import Layer, Problem, Stage
from autotune.protocol.runtime import (
    Activations,
    Launch,
    LogicalWeights,
    Replay,
    Runtime,
    Step,
    Subject,
    What,
    format_of,
    load_runtime,
)
from autotune.results import Gpu, LayerConfig, LayerMeasurement, Measurement
from autotune.space.config import Config

if TYPE_CHECKING:
    import torch

_ODD = 1.02  # times its least time at which a default's pass beside a layer is looked into
_STRAY, _TRIES = 1.1, 3  # times its least time at which the default is timed again, and how often
_LOOK_S = 0.3  # seconds after which others are looked for anyhow


@dataclass(frozen=True)
class RoundTimes:
    """One contender's part of a round.

    Attributes:
        us: microseconds a launch by what was timed.
        contended: see `Measurement.contended`.
    """

    us: dict[str, float]
    contended: str | None


class Worker:
    """One runtime, one layer's weights, and what was prepared for them."""

    def __init__(self, backend: str, settings: MeasureSettings) -> None:
        self.runtime: Runtime = load_runtime(backend)
        self.settings = settings
        self._workload: Workload | None = None
        self._planned: tuple[Problem, ...] = ()
        self._cases: dict[tuple[str, int], list[Case]] = {}
        self._last_steps: dict[tuple[str, int | None], Case] = {}
        self._passed: dict[tuple[str, str, str], float] = {}
        self._passed_at: dict[tuple[str, str, int], float] = {}
        self._fastest: dict[tuple[str, Stage], float] = {}
        self._fastest_layer: dict[str, float] = {}
        self._usual: dict[tuple[str, str], float] = {}
        self._looked = -math.inf
        self._bases: dict[tuple[str, str], Replay] = {}
        self._replays: dict[tuple[str, str, str, int], tuple[Replay, Sequence[Launch], int]] = {}
        self._watch = Watch(self.runtime.machine, settings)
        self._spacer: torch.Tensor | None = None
        self._gpu = Gpu.here(self.runtime.machine.identity())
        self._digest = 0
        self._digests: dict[int, int] = {}

    def prepare(self, layer: Layer, problems: Sequence[Problem]) -> Fingerprint:
        """Loads a layer's weights, unless they are there with room for these problems."""
        planned = tuple(problem for problem in problems if problem.layer == layer)
        there = self._workload is not None and self._workload.layer == layer
        if not (there and set(planned) <= set(self._planned)):
            self._forget()
            self._workload = None  # before the next one is allocated
            gc.unfreeze()
            gc.collect()
            workload = Workload(self.runtime, layer, self.settings)
            workload.load(planned)
            self._workload, self._planned = workload, planned
            self._digest = self.runtime.digest()
            self.runtime.machine.synchronize()
            gc.collect()
            gc.freeze()  # what is there to stay need not be walked again and again
        return self.runtime.machine.fingerprint(self.runtime.name, self.runtime.kernel_source())

    def measure(self, problem: Problem, stage: Stage, config: Config) -> Measurement:
        """Gate, then a window.

        Raises:
            Incorrect: the gate refused it.
        """
        start = time.perf_counter()
        what = What(stage.value)
        error = self.check(problem, what, config)
        work = self._load().pass_of(problem, self.settings.seed)
        launches = self._launches(what, config, work)
        machine = self.runtime.machine
        before = self._watch.before()
        replay = machine.replay(launches)
        try:
            competes = (problem.key, stage)
            fastest = self._fastest.get(competes, math.inf)
            timing = time_replay(machine, replay, len(launches), self.settings, fastest)
            error = max(error, self._check_replay(problem, what, config, launches, replay))
        finally:
            replay.close()
        times = [sample.us for sample in timing.samples]
        window = [us * len(launches) for us in times]
        contended = self._watch.disturbed(before, f"{problem.key} {what} {config.key}", launches, [window])
        if contended is None:
            self._fastest[competes] = min(fastest, median(times))
        return Measurement(timing.samples, error, time.perf_counter() - start, contended, self._gpu)

    def layer(self, problem: Problem, config: LayerConfig, default: LayerConfig) -> LayerMeasurement:
        """A pass of layers beside the default's, on the search's routings; what was timed is judged.

        One case alone: the stages have passed gates of their own, and a finalist passes the layer's.

        Raises:
            Incorrect: the gate refused it.
        """
        start = time.perf_counter()
        work, machine = self._search_pass(problem, self.settings.layer_steps), self.runtime.machine
        at = (problem.key, default.key)
        if at not in self._bases:
            self._bases[at] = machine.replay(self._launches(What.LAYER, default, work))
        launches = self._launches(What.LAYER, config, work)
        replay = machine.replay(launches)
        try:
            poison(launches[-1:])
            fastest = self._fastest_layer.get(problem.key, math.inf)
            poor = self.settings.poor_layer * fastest
            usual = self._usual.get(at, math.inf)
            for _ in range(_TRIES):
                around, taken = time_beside(self._bases[at], replay, self.settings.min_sample_us, poor)
                if median(around) <= _STRAY * usual:  # one stray sample of the default would make it a winner
                    break
            # As a whole: its halves, one from the other, cost as much as all the rest, and a finalist's are.
            whole = [replace(launches[-1], intermediate=None)]
            error = self._judge_last(problem, What.LAYER, config, whole, self.settings.layer_steps)
        finally:
            replay.close()
        contended = self._disturbed(at, f"{problem.key} layer {config.key}", launches, taken, median(around))
        steps = len(launches)
        us, default_us = (tuple(pass_us / steps for pass_us in times) for times in (taken, around))
        measured = LayerMeasurement(us, default_us, error, time.perf_counter() - start, contended, self._gpu)
        if contended is None:
            self._fastest_layer[problem.key] = min(fastest, measured.ratio)
        return measured

    def _disturbed(
        self, at: tuple[str, str], key: str, launches: Sequence[Launch], taken: list[float], base_us: float
    ) -> str | None:
        """Who was at work on the GPU while a layer was timed; None: nobody.

        The default's passes around it tell as well as a look around, which takes as long as a layer: there is
        one where they are odd, and now and then.
        """
        usual = self._usual.get(at, math.inf)
        now = time.monotonic()
        if base_us <= _ODD * usual and now - self._looked < _LOOK_S and usual < math.inf:
            self._usual[at] = min(usual, base_us)
            return None
        self._looked = now
        contended = self._watch.disturbed(None, key, launches, [taken])
        if contended is None:
            self._usual[at] = min(usual, base_us)
        return contended

    def check(self, problem: Problem, what: What, config: Subject) -> float:
        """The gate: every case at every token count that the config would serve; its worst error.

        A config that passed is not checked again by this worker, nor is a stage as part of a layer's config.

        Raises:
            Incorrect: it did not pass.
        """
        config = _launched(what, config)
        key = (problem.key, what.value, config.key)
        if key not in self._passed:
            path = self.runtime.path(what, config)
            worst = 0.0
            for tokens in served_tokens(problem.tokens):
                # What another problem's gate has seen at this count need not be seen again: with every
                # shape in one run, most of a gate's counts are some other shape's own.
                there = (what.value, config.key, tokens)
                if tokens != problem.tokens:
                    if not self.runtime.serves(what, config, tokens):
                        continue
                    if there in self._passed_at:
                        worst = max(worst, self._passed_at[there])
                        continue
                cases = self._cases_at(problem, tokens)  # all have the same activations
                launches = self._bind(what, config, cases[0].inputs, [case.step for case in cases])
                error = check_launches(launches, cases, what, path)
                self._passed_at[there] = error
                worst = max(worst, error)
            self.runtime.machine.synchronize()
            self._passed[key] = worst
        return self._passed[key]

    def round(
        self,
        problem: Problem,
        what: Sequence[What],
        config: Subject,
        seed: int,
        samples: int,
        steps: int | None = None,
    ) -> RoundTimes:
        """Median microseconds a launch on the routings of `seed`, by what is timed.

        The graphs stay for the next round on the same routings, which runs in the opposite order.

        Args:
            steps: that the pass has at least; None: as the settings say.
        """
        times: dict[str, float] = {}
        taken: list[list[float]] = []
        before = self._watch.before()
        for part in what:
            replay, launches, passes = self._replay(problem, part, config, seed, steps)
            taken.append(replay.passes(samples, passes))
            times[part.value] = median(taken[-1]) / len(launches)
        key = f"{problem.key} {'+'.join(what)} {config.key}"
        return RoundTimes(times, self._watch.disturbed(before, key, launches, taken))

    def watch(self) -> str | None:
        """Who disturbs the GPU now, in words; None: nobody that is seen in a quarter of a second."""
        return self._watch.now()

    def throttled(self) -> bool:
        """Whether the GPU limits its clock now."""
        return self.runtime.machine.clock().throttled

    def recover(self) -> None:
        """After a candidate's failure: frees what it held, and finds out whether it broke anything.

        Raises:
            RuntimeError: the device, or memory that every later result depends on, is broken.
        """
        self._close_replays()
        gc.collect()
        self.runtime.machine.synchronize()
        self.runtime.machine.free_bytes()
        if self._workload is not None and self.runtime.digest() != self._digest:
            raise RuntimeError("the weights were overwritten")
        # References may be as well; and passes, which are cheap to make again.
        if any(case.digest() != self._digests[id(case)] for case in self._all_cases()):
            raise RuntimeError("the references were overwritten")
        self._load().forget_passes()

    def _search_pass(self, problem: Problem, steps: int | None = None) -> Pass:
        return self._load().pass_of(problem, self.settings.seed, steps)

    def _load(self) -> Workload:
        if self._workload is None or self._workload.weights is None:
            raise RuntimeError("prepare() comes first")
        return self._workload

    def _weights(self) -> LogicalWeights:
        weights = self._load().weights
        assert weights is not None
        return weights

    def _launches(self, what: What, config: Subject, work: Pass) -> list[Launch]:
        if what is not What.SPACED:
            return self._bind(what, config, work.inputs, work.steps)
        launches = self._bind(What.LAYER, config, work.inputs, work.steps)
        return [replace(launch, run=partial(_in_turn, self._nothing, launch.run)) for launch in launches]

    def _nothing(self) -> None:
        """A kernel that no layer knows of: what comes after it waits for all that came before."""
        import torch

        if self._spacer is None:
            self._spacer = torch.zeros(1, device=self.runtime.machine.device)
        self._spacer.zero_()

    def _bind(self, what: What, config: Subject, inputs: Activations, steps: Sequence[Step]) -> list[Launch]:
        launched = _launched(what, config)
        if isinstance(launched, LayerConfig):
            return self.runtime.layer(launched, inputs, steps)
        return self.runtime.stage(Stage(what.value), launched, inputs, steps)

    def _cases_at(self, problem: Problem, tokens: int) -> list[Case]:
        own = tokens == problem.tokens
        # At a count that is not its own, a problem's routing does not matter: problems share those cases.
        key = (problem.key if own else "", tokens)
        if key not in self._cases:
            cases = make_cases(
                *(problem.layer, self._weights(), tokens, problem.routing if own else None),
                *(problem.concurrency, self.runtime.machine.device, self.settings.seed + tokens),
                thorough=own,
                form=format_of(self.runtime),
            )
            self._digests |= {id(case): case.digest() for case in cases}
            self._cases[key] = cases
        return self._cases[key]

    def _check_replay(
        self, problem: Problem, what: What, config: Subject, launches: Sequence[Launch], replay: Replay
    ) -> float:
        """Judges what a pass leaves behind, its last step's output: what was timed is what was checked.

        Raises:
            Incorrect: the graph computes something else than its launches did.
        """
        if launches[-1].accumulates:  # its output holds every step's sums by now
            return 0.0
        poison(launches[-1:])
        replay.passes(1, 1)
        return self._judge_last(problem, what, config, launches)

    def _judge_last(
        self,
        problem: Problem,
        what: What,
        config: Subject,
        launches: Sequence[Launch],
        steps: int | None = None,
    ) -> float:
        """Judges the output of the search's last step; 0 where it holds the sums of more launches.

        Raises:
            Incorrect: it is wrong.
        """
        key = (problem.key, steps)
        if key not in self._last_steps:
            work = self._search_pass(problem, steps)
            name, form = "the last step of the timed pass", format_of(self.runtime)
            case = make_case(name, self._weights(), work.inputs, work.steps[-1], form)
            self._digests[id(case)] = case.digest()
            self._last_steps[key] = case
        if launches[-1].accumulates:
            return 0.0
        return judge(launches[-1], self._last_steps[key], what, self.runtime.path(what, config))

    def _replay(
        self, problem: Problem, what: What, config: Subject, seed: int, steps: int | None
    ) -> tuple[Replay, Sequence[Launch], int]:
        """The pass on the routings of `seed`, its launches, and passes a sample; earlier seeds' graphs go."""
        key = (problem.key, what.value, config.key, seed)
        if key not in self._replays:
            for old in [k for k in self._replays if k[0] != problem.key or k[3] != seed]:
                self._replays.pop(old)[0].close()
            launches = self._launches(what, config, self._load().pass_of(problem, seed, steps))
            replay = self.runtime.machine.replay(launches)
            passes = passes_a_sample(min(replay.passes(2, 1)), self.settings.min_sample_us)
            self._replays[key] = replay, launches, passes
        return self._replays[key]

    def _all_cases(self) -> list[Case]:
        return [case for cases in self._cases.values() for case in cases] + list(self._last_steps.values())

    def _close_replays(self) -> None:
        for replay in (*(kept[0] for kept in self._replays.values()), *self._bases.values()):
            replay.close()
        self._replays.clear()
        self._bases.clear()

    def _forget(self) -> None:
        self._close_replays()
        kept: dict[Any, Any]
        for kept in (self._cases, self._last_steps, self._digests, self._passed, self._passed_at):
            kept.clear()
        for kept in (self._fastest, self._fastest_layer, self._usual):
            kept.clear()
        self._watch.close()


def _launched(what: What, config: Subject) -> Subject:
    """The part of a config that a launch has."""
    if what in (What.LAYER, What.SPACED):
        if not isinstance(config, LayerConfig):
            raise TypeError("a layer is launched with the configs of both stages")
        return config
    return config.of(Stage(what.value)) if isinstance(config, LayerConfig) else config


def _in_turn(*parts: Callable[[], None]) -> None:
    for part in parts:
        part()
