"""Verdicts on many candidates: stored ones, else from workers that may hang or eat memory."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType

from autotune.check.check import can_check, checker_of, execute
from autotune.check.execution import Executed
from autotune.compile.workers import DEFAULT_MEMORY_LIMIT_BYTES, Workers
from autotune.errors import UserError
from autotune.machine.devices import Device
from autotune.problem.layer import Layer, Problem, Stage
from autotune.processes import interrupt
from autotune.protocol.backend import CompileRefused
from autotune.protocol.registry import load_backend
from autotune.results import CheckVerdict, Compiled, Failure, Status
from autotune.space.config import Config
from autotune.store.store import Store

DEFAULT_TIME_LIMIT_S = 120.0  # the compile included


@dataclass(frozen=True)
class Candidate:
    """What is to be checked.

    Attributes:
        label: where it comes from, for people: `default`, `published`, …
        binary_hash: where it is known: a verdict on it need not be made again.
    """

    problem: Problem
    stage: Stage
    config: Config
    label: str = ""
    binary_hash: str | None = None


@dataclass(frozen=True)
class Judged:
    """A candidate with its verdict.

    Attributes:
        verdict: None: there is none.
        why: why there is none, as one sentence.
        binary_hash: None: it was not compiled.
        stored: the verdict is from the store.
        executed: None where the verdict is from the store or the execution did not end.
    """

    candidate: Candidate
    verdict: CheckVerdict | None
    why: str | None = None
    binary_hash: str | None = None
    stored: bool = False
    executed: Executed | None = None

    @property
    def wrong(self) -> bool:
        """Whether the candidate must not be used."""
        return self.verdict is not None and self.verdict.wrong

    @property
    def text(self) -> str:
        """The verdict, or why there is none, as a line for people."""
        return self.verdict.text if self.verdict is not None else f"not checked: {self.why}"


class Checks:
    """Checks candidates of one backend for one device; use it as a context manager.

    Every verdict is in the store when it is returned.
    """

    def __init__(
        self,
        backend: str,
        device: Device,
        *,
        workers: int,
        store: Store,
        reuse: bool = True,
        time_limit_s: float = DEFAULT_TIME_LIMIT_S,
        budget_s: float | None = None,
    ) -> None:
        """Args:
        workers: processes.
        reuse: whether a stored verdict counts; else it is made again.
        time_limit_s: of one candidate, its compile included.
        budget_s: from now on nothing more is started after so long; None: no limit.
        """
        self._device, self._store, self._reuse = device, store, reuse
        self._compiler = checker_of(backend).compiler()
        self._pool = CheckPool(backend, device, workers=workers, time_limit_s=time_limit_s)
        self._deadline = None if budget_s is None else time.monotonic() + budget_s

    def __enter__(self) -> Checks:
        self._pool.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.__exit__(kind, error, trace)

    def judge(self, candidates: Iterable[Candidate]) -> list[Judged]:
        """Verdicts on all candidates, in their order; what is not done in time has none."""
        judged: dict[int, Judged] = {}
        started: dict[int, tuple[Candidate, Future[Checked | Failure]]] = {}
        for index, candidate in enumerate(candidates):
            known = self._known(candidate)
            if known is not None:
                judged[index] = known
                continue
            problem = candidate.problem
            future = self._pool.submit(problem.layer, problem.tokens, candidate.stage, candidate.config)
            started[index] = (candidate, future)
        left = None if self._deadline is None else max(0.0, self._deadline - time.monotonic())
        interrupt.wait_for([future for _, future in started.values()], left)
        for index, (candidate, future) in started.items():
            judged[index] = self._judged(candidate, future)
        return [judged[index] for index in sorted(judged)]

    def _known(self, candidate: Candidate) -> Judged | None:
        if not self._reuse or candidate.binary_hash is None:
            return None
        verdict = self._store.verdict(candidate.binary_hash, self._compiler)
        if verdict is None:
            return None
        return Judged(candidate, verdict, binary_hash=candidate.binary_hash, stored=True)

    def _judged(self, candidate: Candidate, future: Future[Checked | Failure]) -> Judged:
        if not future.done():
            return Judged(candidate, None, "the time for checks was up")
        judged = _judged(candidate, future.result())
        if judged.binary_hash is not None and judged.verdict is not None:
            self._store.record_verdict(judged.binary_hash, self._compiler, self._device.arch, judged.verdict)
        return judged


def judge_once(backend: str, device: Device, candidates: Sequence[Candidate]) -> list[Judged]:
    """Verdicts on a few candidates, all at once and without a store.

    Raises:
        UserError: the backend's binaries for the device cannot be executed here.
    """
    with CheckPool(backend, device, workers=len(candidates)) as pool:
        futures = [
            pool.submit(each.problem.layer, each.problem.tokens, each.stage, each.config)
            for each in candidates
        ]
        outcomes = [interrupt.result_of(future) for future in futures]
        return [_judged(each, outcome) for each, outcome in zip(candidates, outcomes, strict=True)]


def _judged(candidate: Candidate, outcome: Checked | Failure) -> Judged:
    if isinstance(outcome, Failure):
        return Judged(candidate, None, outcome.reason)
    binary = outcome.compiled.binary_hash
    return Judged(candidate, outcome.verdict, binary_hash=binary, executed=outcome.executed)


@dataclass(frozen=True)
class Checked:
    """A candidate that was compiled and executed.

    Attributes:
        executed: None: the execution did not end.
    """

    compiled: Compiled
    verdict: CheckVerdict
    executed: Executed | None = None


class CheckPool:
    """A pool of workers that compile a candidate and check the binary; use it as a context manager.

    Compiles go through the compiler's own cache, so what the search has compiled costs nothing again. What
    takes too long or kills its worker becomes a `Failure`: no verdict.
    """

    def __init__(
        self,
        backend: str,
        device: Device,
        *,
        workers: int,
        time_limit_s: float = DEFAULT_TIME_LIMIT_S,
        memory_limit_bytes: int = DEFAULT_MEMORY_LIMIT_BYTES,
    ) -> None:
        checker_of(backend)
        if not can_check(backend, device):
            raise UserError(
                f"{device.name} is {device.arch}: only gfx942 machine code can be executed here,"
                " e.g. --target offline:mi325x"
            )
        self._backend = load_backend(backend)
        self._device = device
        self._time_limit_s = time_limit_s
        self._made: dict[str, Future[Checked | Failure]] = {}
        self._workers = Workers(workers, memory_limit_bytes=memory_limit_bytes)

    def __enter__(self) -> CheckPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._workers.close()

    def submit(self, layer: Layer, tokens: int, stage: Stage, config: Config) -> Future[Checked | Failure]:
        """Starts a check, or gives the one that is under way or done for the same binary."""
        key = self._backend.artefact_key(layer, tokens, stage, config)
        if key not in self._made:
            job = (self._backend.name, layer, tokens, stage, config, self._device)
            reason = f"the check took longer than {self._time_limit_s:g} s"
            late = Failure(Status.TIMEOUT, reason, self._time_limit_s)
            self._made[key] = self._workers.run(
                _check, job, time_limit_s=self._time_limit_s, late=late, died=_death
            )
        return self._made[key]


def _death(how: str) -> Failure:
    return Failure(Status.RUNTIME_ERROR, f"the check's process {how}")


def _check(
    backend: str, layer: Layer, tokens: int, stage: Stage, config: Config, device: Device
) -> Checked | Failure:
    """Runs in a worker."""
    warnings.simplefilter("ignore")  # a compiler's remarks are not about the candidates
    started = time.perf_counter()
    try:
        listing = checker_of(backend).listing(layer, tokens, stage, config, device)
    except CompileRefused as refused:
        return Failure(Status.COMPILE_ERROR, str(refused), time.perf_counter() - started)
    if not listing.text:
        reason = "needs more LDS than a workgroup has: there is no code"
        return Failure(Status.CONSTRAINT, reason, time.perf_counter() - started)
    verdict, executed = execute(backend, layer, tokens, stage, config, listing)
    return Checked(listing.compiled, verdict, executed)
