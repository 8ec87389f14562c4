"""Several equal GPUs behind one judge: each takes the next piece of work when it is free.

The GPUs share one queue. What is measured of one binary goes to one GPU as long as more of it waits: its
numeric gate is then paid once. A GPU that would idle takes some of it all the same, and gates it itself. A
final is one piece of work, so it stays on one GPU. A GPU that is lost ends only what was on it, and that goes
back to the queue.
"""

import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from autotune.errors import UserError
from autotune.machine.fingerprint import Fingerprint
from autotune.machine.targets import Kind
from autotune.problem.layer import Problem, Stage
from autotune.results import (
    Compiled,
    Confirmation,
    Failure,
    Finalist,
    Gpu,
    LayerConfig,
    LayerMeasurement,
    Measurement,
    Round,
)
from autotune.search.evaluate import LayerOutcome, Outcome
from autotune.space.config import Config
from autotune.tuning.context import Judge

T = TypeVar("T")


class GpuJudge(Judge, Protocol):
    """One GPU, here or on another node; see `autotune.search.live.LiveJudge`.

    A request raises `UserError` where the GPU is lost, and `CancelledError` where the judge was closed.
    """

    @property
    def fingerprint(self) -> Fingerprint:
        """The GPU and stack, once its worker has started."""

    @property
    def gpu(self) -> Gpu:
        """Which of the equal GPUs it is."""

    def __enter__(self) -> Any:
        """Begins to start the worker."""

    def close(self) -> None:
        """Ends the worker, from any thread."""

    @property
    def layer_workload(self) -> str:
        """Text of the conditions of a search's layers."""

    def again(self, problem: Problem, stage: Stage, config: Config) -> Measurement | Failure:
        """Gate and one window of a config."""

    def layer(
        self, problem: Problem, config: LayerConfig, default: LayerConfig
    ) -> LayerMeasurement | Failure:
        """A layer beside the default, in one process."""

    def time_all(
        self, problem: Problem, finalists: Sequence[Finalist], twins: Mapping[int, int]
    ) -> Confirmation:
        """See `autotune.measure.table`."""


@dataclass
class _Job:
    """A piece of work.

    Attributes:
        group: jobs with equal ones go to one GPU while others have other work; empty: of its own.
        only: the GPU that must do it, by its number; None: any.
    """

    problem: Problem
    act: Callable[[GpuJudge], Any]
    result: "Future[Any]"
    group: str = ""
    only: int | None = None


class Fleet:
    """GPUs of one kind; a context manager, which starts all workers at once.

    Args:
        judges: one a GPU.
        names: what the user calls each.
        say: told in a sentence, from another thread, of a GPU that is left out or lost.
    """

    kind = Kind.MEASURED

    def __init__(self, judges: Sequence[GpuJudge], names: Sequence[str], say: Callable[[str], None]) -> None:
        self._judges, self.names, self._say = list(judges), list(names), say
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._there: set[int] = set()
        self._owner: dict[str, int] = {}
        self._home: dict[Problem, int] = {}
        self._fingerprint: Fingerprint | None = None
        self._threads: list[threading.Thread] = []
        self._last_loss: UserError | None = None

    def __enter__(self) -> Self:
        for judge in self._judges:
            judge.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends all workers; what waits is cancelled, and what is under way ends with `CancelledError`."""
        with self._changed:
            self._closed = True
            waiting, self._jobs = list(self._jobs), deque()
            self._changed.notify_all()
        for job in waiting:
            job.result.cancel()
        closing = [threading.Thread(target=judge.close) for judge in self._judges]
        for thread in closing:
            thread.start()
        for thread in [*closing, *self._threads]:
            thread.join()

    @property
    def closed(self) -> bool:
        """Whether it was closed: nothing is measured any more."""
        return self._closed

    @property
    def workload(self) -> str:
        return self._judges[0].workload

    @property
    def fingerprint(self) -> Fingerprint:
        """The stack that the GPUs have in common; waits for their workers.

        The largest group of equal GPUs is taken; why others are left out is said.

        Raises:
            UserError: none can be used.
        """
        if self._fingerprint is None:
            self._fingerprint = self._choose()
            for number in sorted(self._there):
                thread = threading.Thread(target=self._serve, args=(number,), name="gpu", daemon=True)
                self._threads.append(thread)
                thread.start()
        return self._fingerprint

    def _choose(self) -> Fingerprint:
        stacks: dict[int, Fingerprint] = {}
        for number, judge in enumerate(self._judges):
            try:
                stacks[number] = judge.fingerprint
            except UserError as error:
                self._last_loss = error
                self._say(f"GPU {self.names[number]} is left out: {error}")
        if not stacks:
            assert self._last_loss is not None
            raise self._last_loss
        sizes = Counter(stack.key for stack in stacks.values())
        common = next(s for s in stacks.values() if sizes[s.key] == max(sizes.values()))
        seen: dict[Gpu, int] = {}
        for number, stack in stacks.items():
            gpu = self._judges[number].gpu
            if stack.key != common.key:
                unlike = "; ".join(common.differences(stack))
                self._say(
                    f"GPU {self.names[number]} is left out, it is not equal to the others ({unlike}): give it"
                    " a run of its own"
                )
            elif gpu.uuid is not None and gpu in seen:
                self._say(f"GPU {self.names[number]} is left out: it is GPU {self.names[seen[gpu]]} again")
            else:
                self._there.add(number)
                seen[gpu] = number
                continue
            self._judges[number].close()
        return common

    @property
    def gpus(self) -> dict[int, Gpu]:
        """The GPUs that take part and are not lost, by their numbers."""
        with self._changed:
            return {number: self._judges[number].gpu for number in sorted(self._there)}

    def stay(self, homes: Mapping[Problem, int]) -> None:
        """From now on each problem is measured on one GPU only."""
        with self._changed:
            self._home = dict(homes)
            self._changed.notify_all()

    def run(
        self,
        problem: Problem,
        act: Callable[[GpuJudge], T],
        *,
        group: str = "",
        only: int | None = None,
    ) -> "Future[T]":
        """Does a piece of work on the GPU that is free first.

        Args:
            only: the number of the GPU that must do it.

        Returns:
            Its result; `UserError` where every GPU that may do it is lost.
        """
        job = _Job(problem, act, Future(), group, only)
        with self._changed:
            if self._closed:
                job.result.cancel()
            elif not self._may(job):
                job.result.set_exception(self._loss())
            else:
                self._jobs.append(job)
                self._changed.notify_all()
        return job.result

    def evaluate(
        self, problem: Problem, stage: Stage, config: Config, compiled: Compiled
    ) -> "Future[Outcome]":
        def act(judge: GpuJudge) -> Outcome:
            return judge.again(problem, stage, config)

        return self.run(problem, act, group=compiled.binary_hash)

    @property
    def layer_workload(self) -> str:
        return self._judges[0].layer_workload

    def evaluate_layer(
        self, problem: Problem, config: LayerConfig, default: LayerConfig
    ) -> "Future[LayerOutcome]":
        return self.run(problem, lambda judge: judge.layer(problem, config, default))

    def race(
        self, problem: Problem, configs: Sequence[LayerConfig], rounds: int, seed: int
    ) -> Sequence[Round]:
        """Rounds of layers, on one GPU."""
        return self.run(problem, lambda judge: judge.race(problem, configs, rounds, seed)).result()

    def again(self, problem: Problem, stage: Stage, config: Config) -> Measurement | Failure:
        """One more window of a config."""
        return self.run(problem, lambda judge: judge.again(problem, stage, config)).result()

    def confirm(self, problem: Problem, finalists: Sequence[Finalist]) -> Confirmation:
        """Paired rounds, on one GPU."""
        return self.run(problem, lambda judge: judge.confirm(problem, finalists)).result()

    def time_all(
        self, problem: Problem, finalists: Sequence[Finalist], twins: Mapping[int, int]
    ) -> Confirmation:
        """Every finalist in every round, on one GPU."""
        return self.run(problem, lambda judge: judge.time_all(problem, finalists, twins)).result()

    def _may(self, job: _Job) -> set[int]:
        """The GPUs that may do a job."""
        home = self._home.get(job.problem)
        there = self._there if job.only is None else self._there & {job.only}
        # Whose home is lost goes on elsewhere: its final is on one GPU all the same.
        return {home} if job.only is None and home in there else there

    def _loss(self) -> UserError:
        return self._last_loss or UserError("no GPU is left: see that they are free and their driver works")

    def _next(self, number: int) -> _Job | None:
        """The job that a GPU takes now; None: it is lost, or there is nothing more to come."""
        with self._changed:
            while not self._closed and number in self._there:
                mine = [job for job in self._jobs if number in self._may(job)]
                # Of two GPUs that are free the second leaves the rest of a group to the first.
                free = [job for job in mine if not self._left_to_another(job, number)]
                same = [job for job in free if self._owner.get(job.group) == number]
                # To idle costs more than a gate that is paid again: 15 ms on an H100, a window takes 40.
                waiting = Counter(job.group for job in mine)
                spare = [job for job in mine if waiting[job.group] > 1]
                if free or spare:
                    job = (same or free or spare[-1:])[0]
                    self._jobs.remove(job)
                    self._disown(number)
                    if job.group:
                        self._owner.setdefault(job.group, number)
                    return job
                if number in self._owner.values():
                    self._disown(number)
                    self._changed.notify_all()
                self._changed.wait()
        return None

    def _left_to_another(self, job: _Job, number: int) -> bool:
        """Whether a GPU that is at this job's group may, and will, do it."""
        owner = self._owner.get(job.group, number)
        return owner != number and owner in self._may(job)

    def _disown(self, number: int) -> None:
        self._owner = {group: gpu for group, gpu in self._owner.items() if gpu != number}

    def _serve(self, number: int) -> None:
        """A thread: gives work to one GPU."""
        while (job := self._next(number)) is not None:
            if not job.result.running() and not job.result.set_running_or_notify_cancel():
                continue
            try:
                answer = job.act(self._judges[number])
            except UserError as error:
                self._lose(number, job, error)
            except BaseException as error:  # noqa: BLE001  whoever waits is told
                job.result.set_exception(error)
            else:
                if self._closed:
                    job.result.set_exception(CancelledError())
                else:
                    job.result.set_result(answer)

    def _lose(self, number: int, job: _Job, error: UserError) -> None:
        with self._changed:
            if self._closed:
                job.result.set_exception(CancelledError())
                return
            self._there.discard(number)
            self._last_loss = error
            self._disown(number)
            self._jobs.appendleft(job)
            hopeless = [each for each in self._jobs if not self._may(each)]
            for each in hopeless:
                self._jobs.remove(each)
            left = len(self._there)
            self._changed.notify_all()
        if left:
            self._say(f"GPU {self.names[number]} is lost, {left} go on without it: {error}")
        for each in hopeless:
            # Some began on a GPU that was lost before.
            if each.result.running() or each.result.set_running_or_notify_cancel():
                each.result.set_exception(error)


def each_on_one(
    judge: Judge, problems: Sequence[Problem], act: Callable[[Problem, Judge], T]
) -> "list[Future[T]]":
    """Does something for each problem with a judge: beside each other on a fleet, else one by one."""
    if isinstance(judge, Fleet):
        return [judge.run(problem, partial(act, problem)) for problem in problems]
    done = []
    for problem in problems:
        future: Future[T] = Future()
        future.set_result(act(problem, judge))
        done.append(future)
    return done
