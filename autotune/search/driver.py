"""Runs the searches: ask, compile, evaluate, store, tell. The only writer of trials.

Compiling overlaps evaluating: while candidates wait for the device, the pool compiles the next ones. One
compiled candidate is evaluated at every problem that shares its binary. Where layers are searched, they and
the stages share the device. A finished result is committed before any search is told of it, so the store is
never behind what the sampler knows.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from itertools import chain, cycle
from typing import Any

from autotune.compile.isa import refusal
from autotune.machine.devices import Device
from autotune.machine.fingerprint import Fingerprint
from autotune.problem.layer import Problem, Stage
from autotune.processes import interrupt
from autotune.protocol.backend import remedy
from autotune.results import Compiled, Failure, Measurement, Sample, Status
from autotune.search.doubt import Doubt
from autotune.search.evaluate import Clock, Compiler, Cost, Estimate, Evaluator, Outcome, WallClock
from autotune.search.layering import Layering
from autotune.search.records import Records
from autotune.search.records import Task as Task
from autotune.search.sharing import Others
from autotune.search.study import Ask, StageSearch
from autotune.search.under_way import NOT_WAITED_FOR, Candidate, Evaluation, Patience, Twin
from autotune.space.config import Config
from autotune.store.records import TrialRecord

_CLAIM_AGAIN_S = 5.0  # after which it is asked whether another driver still does what it claimed
_IN_FLIGHT = 4  # on the device's queue where layers and stages share it: it never waits, and turns are near
_AHEAD = 1.5  # compiles' worth of work that waits for the device
UNHEARD = 4  # candidates under way for each GPU, of which nobody has heard yet what they teach,
_UNHEARD_SHARE = 1 / 8  # and so many more for each one that has been heard of


@dataclass(frozen=True)
class DriverSettings:
    """Limits of a search.

    Attributes:
        timeout_s: stop asking after this time; None: never.
        compile_ahead: compiles under way at once.
        gpus: evaluations under way at once.
    """

    backend: str
    environment: Fingerprint
    allow_spills: bool = False
    timeout_s: float | None = None
    compile_ahead: int = 4
    gpus: int = 1


class Driver:
    """Drives the searches of all tasks until each is done or time is up."""

    def __init__(
        self,
        searches: dict[Task, StageSearch],
        *,
        settings: DriverSettings,
        device: Device,
        pool: Compiler,
        evaluator: Evaluator,
        artefact_key: Callable[[Problem, Stage, Config], str],
        record: Callable[[TrialRecord, tuple[Sample, ...]], int],
        on_trial: Callable[[TrialRecord], None],
        clock: Clock | None = None,
        one_config: bool = False,
        others: Others | None = None,
        layering: Layering | None = None,
    ) -> None:
        """
        Args:
            layering: the search of layers, beside the stages'; None: there is none.
            one_config: both stages of a layer have the same config, so what is tried at one is tried at both.
            others: drivers that share the work; None: there are none.
        """
        self._others = others
        self._elsewhere: dict[tuple[Task, Config], Ask] = {}
        self._claimed_at = 0.0
        self._one_config = one_config
        self._searches = searches
        self._settings = settings
        self._device = device
        self._pool = pool
        self._evaluator = evaluator
        self._artefact_key = artefact_key
        self._records = Records(
            settings.backend, settings.environment, evaluator, lambda task: searches[task].space.space.digest
        )
        self._record = record
        self._on_trial = on_trial
        self._clock = clock or WallClock()
        self._compiling: dict[Future[Compiled | Failure], list[Candidate]] = {}
        self._ready: deque[Evaluation] = deque()
        self._evaluating: dict[Future[Outcome], Evaluation] = {}
        self._layering = layering
        self._compiles, self._evaluations = Cost(), Cost()
        self._by_binary: dict[tuple[Task, str], Evaluation | Twin] = {}
        self._patience = Patience()
        self._dropped = 0
        self._doubt = Doubt()
        self._held: dict[Task, list[tuple[Ask, Failure]]] = {task: [] for task in searches}
        for task, search in searches.items():
            if search.results:  # of an earlier run
                self._doubt.compiled(task)
                self._doubt.ran(task)

    def run(self) -> bool:
        """Searches until done.

        Returns:
            Whether every search used its budget; False when time was up first.

        Raises:
            UserError: nothing can be compiled or run here: see `autotune.search.doubt`.
        """
        deadline = None if self._settings.timeout_s is None else self._clock.now() + self._settings.timeout_s
        turns = self._turns()

        def in_time() -> bool:
            return deadline is None or self._clock.now() < deadline

        while True:
            interrupt.look()
            while in_time() and self._has_room() and self._start_next(turns):
                # Asking takes a moment: the device need not wait until there is enough to compile.
                self._take([future for future in self._waiting() if future.done()])
                self._dispatch()
                interrupt.look()
            self._hear()
            if in_time():
                self._dispatch()
            else:
                self._give_up()
            waiting = self._waiting()
            if self._patience.ended(waiting, self._clock.now(), self._compiles.mean) and self._may_leave():
                self._leave()
                continue
            if not waiting and not self._elsewhere:
                for task in self._held:
                    self._release(task)
                return not self._dropped and all(search.done for search in self._searches.values())
            done = self._clock.wait(waiting)
            interrupt.look()  # what ended us may have ended a worker too: no candidate is to blame
            self._take(done)

    def _give_up(self) -> None:
        """Time is up: what is being compiled or waits for the device is dropped; what is on it ends."""
        before = len(self._waiting()) + len(self._ready)
        self._compiling.clear()
        self._ready.clear()
        if self._layering:
            self._layering.give_up()
        self._evaluating = {
            future: evaluation for future, evaluation in self._evaluating.items() if not future.cancel()
        }
        self._dropped += before - len(self._waiting()) + len(self._elsewhere)
        self._elsewhere.clear()

    def _may_leave(self) -> bool:
        """Whether compiles alone are left, and none that was asked for or that all is compared with."""
        needed = any(
            candidate.ask.origin == "asked" or candidate.ask.config == self._searches[task].space.default
            for candidate in chain.from_iterable(self._compiling.values())
            for task in candidate.tasks
        )
        timing = self._layering.timing if self._layering else 0
        under_way = needed or timing or self._evaluating or self._ready or self._elsewhere
        return not under_way and all(search.done for search in self._searches.values())

    def _leave(self) -> None:
        """Ends without what is being compiled; nothing is stored of it, so the next run tries it."""
        for candidate in chain.from_iterable(self._compiling.values()):
            for task in candidate.tasks:
                self._searches[task].stopped = NOT_WAITED_FOR
        self._compiling.clear()
        if self._layering:
            self._layering.give_up()

    def _release(self, task: Task) -> None:
        """Stores the failures that waited for something to compile: they are the candidates' own."""
        held, self._held[task] = self._held[task], []
        for ask, failure in held:
            self._finish(self._records.failed(task, ask, failure))

    def _waiting(self) -> list[Future[Any]]:
        layers = self._layering.waiting() if self._layering else []
        return [*self._compiling, *self._evaluating, *layers]

    def _dispatch(self) -> None:
        """Puts evaluations on the device's queue: all there are, or in turn with layers."""
        layering = self._layering
        while True:
            here = len(self._evaluating) + (layering.timing if layering else 0)
            if layering and here >= _IN_FLIGHT * self._settings.gpus:
                return
            # Half of the time is each's; a GPU with nothing to do does not wait for a layer to be thought of.
            idle = here < self._settings.gpus
            turn = self._ready and (layering is None or idle or layering.seconds > self._evaluations.total)
            under_way = bool(self._ready or self._evaluating or self._compiling)
            if turn or layering is None or not layering.start(paced=under_way):
                if not self._ready:
                    return
                of = self._ready.popleft()
                self._evaluating[self._evaluator.evaluate(*of.task, of.ask.config, of.compiled)] = of

    def _take(self, done: Iterable[Future[Any]]) -> None:
        """Goes on with what has finished."""
        for future in done:
            if future in self._compiling:
                for candidate in self._compiling.pop(future):
                    self._compiled(candidate, future.result())
            elif future in self._evaluating:
                self._evaluated(self._evaluating.pop(future), future.result())
            elif self._layering:
                self._layering.take([future])

    def _has_room(self) -> bool:
        """Whether another compile is worth while now.

        What is in flight is asked for without feedback, so there should be only as much as keeps the device
        busy: as much work for it as the next compile takes. Until both costs are known, and where evaluating
        costs nothing, the compile workers set the pace; but while little is known, each result teaches the
        next proposal too much to ask for many at once.
        """
        under_way = len(self._compiling)
        unheard = UNHEARD * self._settings.gpus + _UNHEARD_SHARE * self._compiles.count
        if under_way >= self._settings.compile_ahead or (self._evaluations.mean and under_way >= unheard):
            return False
        coming = sum(len(candidate.tasks) for waiting in self._compiling.values() for candidate in waiting)
        here = len(self._ready) + len(self._evaluating) + coming
        queued = here * self._evaluations.mean / self._settings.gpus
        return (
            not self._compiles.count or queued <= _AHEAD * self._compiles.mean or not self._evaluations.mean
        )

    def _turns(self) -> Iterator[Task]:
        """In turn the next task, so that no problem waits for another's budget, and the most promising."""
        for task in cycle(self._searches):
            yield task
            improvements = {
                other: search.expected_improvement
                for other, search in self._searches.items()
                if not search.done
            }
            if improvements and None not in improvements.values():
                yield max(improvements, key=lambda other: improvements[other] or 0.0)

    def _start_next(self, turns: Iterator[Task]) -> bool:
        """Asks one search and starts the compile; False when no search has anything to try."""
        for _, task in zip(range(2 * len(self._searches)), turns, strict=False):
            ask = self._searches[task].ask()
            if ask is not None:
                tasks = [task, *self._riders(task, ask.config)]
                self._start(ask, tasks)
                if self._one_config:
                    self._start_at_the_other_stage(ask, tasks)
                return True
        return False

    def _hear(self) -> None:
        """Tells the searches what other drivers have finished, and takes over what they no longer do."""
        if self._others is None:
            return
        for record in self._others.news():
            task = (record.problem, record.stage)
            search = self._searches.get(task)
            if search is not None and self._elsewhere.pop((task, record.config), None) is not None:
                search.tell(record.config, record.time_us)
            elif search is not None and not search.knows(record.config):
                search.observe(record.config, record.time_us)
        now = self._clock.now()
        if self._elsewhere and now - self._claimed_at > _CLAIM_AGAIN_S:
            self._claimed_at = now
            left = {(*task, config): (task, config) for task, config in self._elsewhere}
            for piece in self._others.claim(list(left)):
                task, config = left[piece]
                self._submit(self._elsewhere.pop((task, config)), [task])

    def _start(self, ask: Ask, tasks: list[Task]) -> None:
        """Starts what no other driver does; of the rest the results are waited for."""
        if self._others is not None:
            mine = set(self._others.claim([(*task, ask.config) for task in tasks]))
            self._elsewhere |= {(t, ask.config): ask for t in tasks if (*t, ask.config) not in mine}
            tasks = [task for task in tasks if (*task, ask.config) in mine]
        if tasks:
            self._submit(ask, tasks)

    def _submit(self, ask: Ask, tasks: list[Task]) -> None:
        problem, stage = tasks[0]
        future = self._pool.submit(problem.layer, problem.tokens, stage, ask.config)
        self._compiling.setdefault(future, []).append(Candidate(ask, tasks))

    def _start_at_the_other_stage(self, ask: Ask, tasks: Iterable[Task]) -> None:
        for problem, stage in tasks:
            for other in Stage:
                search = self._searches.get((problem, other))
                if other is not stage and search is not None and search.join(ask.config, required=True):
                    ships = search.space.default == ask.config
                    self._start(Ask(ask.config, "default" if ships else ask.origin), [(problem, other)])

    def _riders(self, task: Task, config: Config) -> Iterable[Task]:
        """Other problems that the same binary serves and that have not tried it."""
        problem, stage = task
        key = self._artefact_key(problem, stage, config)
        for other, search in self._searches.items():
            same_kernel = other[1] is stage and other[0].layer == problem.layer and other != task
            if same_kernel and self._artefact_key(other[0], stage, config) == key and search.join(config):
                yield other

    def _compiled(self, candidate: Candidate, outcome: Compiled | Failure) -> None:
        self._compiles.add(outcome.seconds)
        ask = candidate.ask
        for index, task in enumerate(candidate.tasks):
            if index:  # a rider: its origin is its own, and what was compiled once is paid once
                ships = self._searches[task].space.default == ask.config
                ask = Ask(ask.config, "default" if ships else "shared")
                outcome = replace(outcome, seconds=0.0)
            if isinstance(outcome, Failure):
                ships = self._searches[task].space.default == ask.config
                if not self._doubt.of(task, outcome, ships=ships):
                    self._release(task)
                    self._finish(self._records.failed(task, ask, outcome))
                elif remedy(outcome.reason) is None:
                    self._held[task].append((ask, outcome))
                continue
            self._doubt.compiled(task)
            self._release(task)
            reason = refusal(outcome.facts, self._device, allow_spills=self._settings.allow_spills)
            if reason is not None:
                failure = Failure(Status.CONSTRAINT, reason)
                self._finish(self._records.failed(task, ask, failure, outcome))
                continue
            self._evaluate(task, ask, outcome)

    def _evaluate(self, task: Task, ask: Ask, compiled: Compiled) -> None:
        twin = self._by_binary.get((task, compiled.binary_hash))
        if isinstance(twin, Twin):
            self._finish(self._records.merged(twin.trial, twin.record, ask, compiled))
        elif twin is not None:
            twin.twins.append((ask, compiled))
        else:
            evaluation = Evaluation(task, ask, compiled)
            self._by_binary[task, compiled.binary_hash] = evaluation
            self._ready.append(evaluation)

    def _evaluated(self, evaluation: Evaluation, outcome: Outcome) -> None:
        task, ask, compiled = evaluation.task, evaluation.ask, evaluation.compiled
        self._evaluations.add(0.0 if isinstance(outcome, Estimate) else outcome.seconds)
        if isinstance(outcome, Measurement) and outcome.contended is not None:
            self._put_off(evaluation, outcome)
            return
        samples: tuple[Sample, ...] = ()
        if isinstance(outcome, Failure):
            record = self._records.failed(task, ask, outcome, compiled)
        else:
            self._doubt.ran(task)
            record = self._records.trial(task, ask, compiled, Status.OK, time_us=outcome.us)
            if isinstance(outcome, Measurement):
                record = replace(record, gate_error=outcome.error, measure_s=outcome.seconds, gpu=outcome.gpu)
                samples = outcome.samples
        twin = Twin(self._finish(record, samples), record)
        if isinstance(outcome, Failure):
            self._doubt.of(task, outcome, ships=False)
        self._by_binary[task, compiled.binary_hash] = twin
        for other, other_compiled in evaluation.twins:
            self._finish(self._records.merged(twin.trial, twin.record, other, other_compiled))

    def _put_off(self, evaluation: Evaluation, outcome: Measurement) -> None:
        """Stores a window that others disturbed, marked; it is measured again after what waits now."""
        task, ask, compiled = evaluation.task, evaluation.ask, evaluation.compiled
        record = self._records.trial(task, ask, compiled, Status.OK, time_us=outcome.us)
        known = {"gate_error": outcome.error, "measure_s": outcome.seconds, "gpu": outcome.gpu}
        self._record(replace(record, contended=outcome.contended, **known), outcome.samples)  # type: ignore[arg-type]
        self._ready.append(evaluation)

    def _finish(self, record: TrialRecord, samples: tuple[Sample, ...] = ()) -> int:
        """Stores a trial, then tells its search: never the other way round."""
        trial = self._record(record, samples)
        if self._others is not None:
            self._others.finished((record.problem, record.stage, record.config))
        self._searches[record.problem, record.stage].tell(record.config, record.time_us)
        self._on_trial(record)
        return trial
