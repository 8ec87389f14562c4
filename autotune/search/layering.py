"""Tries layers within a run: asks the layer searches, compiles what is missing, times, stores, tells."""

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from autotune.machine.fingerprint import Fingerprint
from autotune.machine.targets import Kind
from autotune.problem.layer import Problem, Stage
from autotune.results import Compiled, Failure, LayerConfig
from autotune.search.evaluate import Compiler, LayerEvaluator, LayerOutcome
from autotune.search.layers import LayerAsk, LayerSearch
from autotune.store.records import LayerTrial

COMPILING = 12  # layers for each GPU that wait for a compile at most


@dataclass(frozen=True)
class _Compiling:
    """A layer one of whose stages is being compiled."""

    problem: Problem
    ask: LayerAsk
    stages: Mapping[Stage, Future[Compiled | Failure]]


class Layering:
    """The layer searches of a run, and what of theirs is under way.

    Args:
        refuse: why a compiled stage is not launched; None: it may be.
        record: stores a finished layer, before its search is told.
        near: problems whose best layer is worth a try at a problem, by problem.
        gpus: that time layers.
    """

    def __init__(
        self,
        searches: Mapping[Problem, LayerSearch],
        *,
        pool: Compiler,
        evaluator: LayerEvaluator,
        refuse: Callable[[Compiled], str | None],
        record: Callable[[LayerTrial], None],
        backend: str,
        environment: Fingerprint,
        workload: str,
        kind: Kind,
        near: Mapping[Problem, Iterable[Problem]],
        gpus: int = 1,
    ) -> None:
        self.searches = searches
        self.seconds = 0.0
        """What layers took on the device."""
        self._pool, self._evaluator, self._refuse, self._record = pool, evaluator, refuse, record
        self._said = {"backend": backend, "environment": environment, "workload": workload, "kind": kind}
        self._near = near
        self._ahead = COMPILING * gpus
        self._compiling: list[_Compiling] = []
        self._compiled: list[_Compiling] = []
        self._timing: dict[Future[LayerOutcome], tuple[Problem, LayerAsk]] = {}
        self._turn = 0

    @property
    def done(self) -> bool:
        """Every search is, and nothing is under way."""
        return not self.waiting() and not self._compiled and all(s.done for s in self.searches.values())

    @property
    def timing(self) -> int:
        """Layers that are on the device or wait for it."""
        return len(self._timing)

    def waiting(self) -> list[Future[Any]]:
        """What is under way."""
        compiles = [
            future for layer in self._compiling for future in layer.stages.values() if not future.done()
        ]
        return [*compiles, *self._timing]

    def start(self, *, paced: bool = False) -> bool:
        """Puts a layer on the device's queue; False: none is ready. Asks for more compiles on the way.

        Args:
            paced: a search does not go through its budget before its stages have shown their best.
        """
        self._sort_out()
        while not self._compiled and len(self._compiling) < self._ahead and self._ask(paced):
            self._sort_out()
        if not self._compiled:
            return False
        layer = self._compiled.pop(0)
        self._time(layer.problem, layer.ask)
        return True

    def take(self, done: Iterable[Future[Any]]) -> None:
        """Stores and tells what has been timed."""
        for future in done:
            if future in self._timing:
                self._timed(*self._timing.pop(future), future.result())

    def give_up(self) -> None:
        """Time is up: what has not begun is dropped."""
        self._compiling.clear()
        self._compiled.clear()
        self._timing = {future: of for future, of in self._timing.items() if not future.cancel()}

    def _ask(self, paced: bool) -> bool:
        """One more layer of the next search in turn, or of the one that promises most."""
        searches = self.searches.items()
        problems = [p for p, search in searches if not search.done and not (paced and search.ahead)]
        if not problems:
            return False
        self._turn += 1
        order = problems[self._turn % len(problems) :] + problems[: self._turn % len(problems)]
        if self._turn % 2 == 0:
            order.sort(key=lambda problem: -(self.searches[problem].expected_improvement or 1.0))
        for problem in order:
            ask = self.searches[problem].ask()
            if ask is not None:
                layer, tokens = problem.layer, problem.tokens
                stages = {s: self._pool.submit(layer, tokens, s, ask.config.of(s)) for s in Stage}
                self._compiling.append(_Compiling(problem, ask, stages))
                return True
        return False

    def _sort_out(self) -> None:
        """What has been compiled goes on; what cannot be is told."""
        for layer in [c for c in self._compiling if all(future.done() for future in c.stages.values())]:
            self._compiling.remove(layer)
            bad = next((stage for stage, future in layer.stages.items() if self._bad(future.result())), None)
            if bad is not None:
                self.searches[layer.problem].refuse(layer.ask.config, bad)
            else:
                self._compiled.append(layer)

    def _bad(self, outcome: Compiled | Failure) -> bool:
        return isinstance(outcome, Failure) or self._refuse(outcome) is not None

    def _time(self, problem: Problem, ask: LayerAsk) -> None:
        default = self.searches[problem].default
        self._timing[self._evaluator.evaluate_layer(problem, ask.config, default)] = problem, ask

    def _timed(self, problem: Problem, ask: LayerAsk, outcome: LayerOutcome) -> None:
        search = self.searches[problem]
        self.seconds += outcome.seconds
        self._record(
            LayerTrial(
                problem=problem,
                config=ask.config,
                default=search.default,
                origin=ask.origin,
                outcome=outcome,
                **self._said,  # type: ignore[arg-type]
            )
        )
        if isinstance(outcome, Failure):
            search.tell(ask.config, None)
        elif outcome.contended is not None:
            self._time(problem, ask)  # again, after what waits now
        elif search.tell(ask.config, outcome.ratio):
            self._pass_on(problem, ask.config)

    def _pass_on(self, problem: Problem, best: LayerConfig) -> None:
        for other in self._near.get(problem, ()):
            self.searches[other].offer(best, "near")
