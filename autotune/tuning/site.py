"""Compiles, times and decides on candidates at a site: a GPU, an offline device or a recording."""

from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from autotune.compile.pool import CompilePool
from autotune.machine.fingerprint import Fingerprint
from autotune.machine.targets import offline_fingerprint
from autotune.machine.visible import environment_of
from autotune.measure.lock import InOrder
from autotune.problem.layer import Stage
from autotune.processes.spawning import end_ahead
from autotune.protocol.backend import Backend
from autotune.protocol.legality import require_computed
from autotune.protocol.registry import load_backend
from autotune.replay.files import read_table
from autotune.replay.machine import ReplayMachine
from autotune.replay.target import ReplayBackend, ReplayJudge
from autotune.results import LayerConfig
from autotune.search.driver import UNHEARD
from autotune.search.evaluate import Clock, Compiler, Estimator, Evaluator, LayerEvaluator, WallClock
from autotune.search.live import LiveJudge
from autotune.tuning.calibration import Calibrating, homes
from autotune.tuning.context import Conclusion, Listener, RunRequest, Tuning
from autotune.tuning.finals import confirm_all
from autotune.tuning.fleet import Fleet
from autotune.tuning.kept import compile_pool, live_judge
from autotune.tuning.process_settings import guard_problems, time_settings
from autotune.tuning.short_list import short_list


class Site(Protocol):
    """What differs between a live run, an offline one and a replayed one."""

    @property
    def backend(self) -> Backend:
        """Whose spaces are searched; a recording's is what was recorded."""

    @property
    def compiler(self) -> Compiler:
        """Compiles candidates."""

    @property
    def evaluator(self) -> Evaluator:
        """Gives candidates their times."""

    @property
    def clock(self) -> Clock:
        """By which the searches wait."""

    @property
    def layers(self) -> LayerEvaluator | None:
        """Times layers; None: a layer is its stages added up."""

    @property
    def pairs(self) -> Collection[LayerConfig] | None:
        """The only layers that can be timed; None: all."""

    @property
    def environment(self) -> Fingerprint:
        """The device and stack.

        Raises:
            UserError: they cannot be used.
        """

    def begin(self, current: Tuning) -> None:
        """What comes before the searches."""

    def conclude(self, current: Tuning) -> Conclusion:
        """What follows when the searches have ended."""


@contextmanager
def open_site(request: RunRequest, listener: Listener) -> Iterator[Site]:
    """The site of a request's target; its processes end with the context.

    Raises:
        UserError: the backend is not installed, or does not compute the layer.
    """
    backend = load_backend(request.backend)
    if not request.target.live:
        end_ahead()
    if request.target.table is not None:
        yield _replayed(request, backend)
        return
    for problem in request.problems:
        require_computed(backend, request.backend, problem.layer)
    if request.ray is not None:
        with _on_a_cluster(request, request.ray, backend, listener) as site:
            yield site
        return
    with compile_pool(request, backend) as pool:
        if not request.target.live:
            yield Offline(request, backend, pool, Estimator(backend, request.target.device))
            return
        # While the measure worker starts, what is tried first is compiled and the searches are made: each
        # takes several seconds.
        with _judge(request, backend, listener) as judge:
            _compile_defaults(request, backend, pool)
            first, gpus = request.problems[0], max(1, len(request.devices))
            pool.warm(first.layer, first.tokens, Stage.STAGE1, min(request.workers, UNHEARD * gpus))
            yield Live(backend, pool, judge)


@contextmanager
def _on_a_cluster(
    request: RunRequest, address: str, backend: Backend, listener: Listener
) -> "Iterator[Live]":
    """The GPUs and CPUs of a Ray cluster."""
    from autotune.tuning import actors, cluster

    ray = cluster.connect(address)
    try:
        nodes = cluster.nodes_of(ray.nodes())
        problems = [*request.problems, *guard_problems(request, backend)]
        judges = [
            actors.RayGpu(ray, backend, problems, request.measuring, nodes.accelerator)
            for _ in range(nodes.gpus)
        ]
        names = [f"{number} of {address}" for number in range(nodes.gpus)]
        limit_s, device = request.compile_timeout_s, request.target.device
        with (
            actors.RayCompiler(ray, backend, device, nodes.cpus, limit_s) as compiler,
            Fleet(judges, names, listener.on_wait) as fleet,
        ):
            _compile_defaults(request, backend, compiler)
            yield Live(backend, compiler, fleet)
    finally:
        cluster.leave()


def _judge(
    request: RunRequest, backend: Backend, listener: Listener
) -> AbstractContextManager[LiveJudge | Fleet]:
    """The judge of one GPU or several, not yet started."""
    problems = [*request.problems, *guard_problems(request, backend)]
    if len(request.devices) < 2:
        return live_judge(backend, problems, request.measuring, listener.on_wait)

    def named(index: int) -> Callable[[str], None]:
        return lambda sentence: listener.on_wait(f"GPU {index}: {sentence}")

    order = InOrder(len(request.devices))
    judges = [
        LiveJudge(backend, problems, request.measuring, named(index), environment_of(index), order)
        for index in request.devices
    ]
    return Fleet(judges, [str(index) for index in request.devices], listener.on_wait)


if TYPE_CHECKING:
    from autotune.tuning.actors import RayCompiler


@dataclass
class Live:
    """The GPUs of this machine, or of a cluster."""

    backend: Backend
    compiler: "CompilePool | RayCompiler"
    evaluator: LiveJudge | Fleet
    clock: Clock = field(default_factory=WallClock)
    calibrating: Calibrating | None = None
    pairs = None

    @property
    def layers(self) -> LayerEvaluator:
        return self.evaluator

    @property
    def environment(self) -> Fingerprint:
        return self.evaluator.fingerprint

    def begin(self, current: Tuning) -> None:
        """Equal GPUs are compared, where there is anything left to measure on them."""
        end_ahead()
        fleet, searches = self.evaluator, current.searches.values()
        if not isinstance(fleet, Fleet) or len(fleet.gpus) < 2:
            return
        fleet.stay(homes(current, fleet))  # until they are found to agree
        if not all(search.done for search in searches):
            self.calibrating = Calibrating(current, self.compiler, fleet)

    def conclude(self, current: Tuning) -> Conclusion:
        """The finals, then the settings of the whole process where knobs are variables."""
        if self.calibrating is not None:
            self.calibrating.wait()
        self.compiler.close()  # what it still compiles is not waited for, nor to disturb the finals
        winners = confirm_all(current, self.evaluator)
        return Conclusion(winners, time_settings(current, self.evaluator, winners))


@dataclass
class Offline:
    """A device that is not here: its machine code is compiled, and its times are estimates."""

    request: RunRequest
    backend: Backend
    compiler: CompilePool
    evaluator: Estimator
    clock: Clock = field(default_factory=WallClock)
    layers = None
    pairs = None

    @property
    def environment(self) -> Fingerprint:
        source = self.backend.source_digest()
        return offline_fingerprint(self.request.target, backend=self.backend.name, kernel_source=source)

    def begin(self, current: Tuning) -> None:
        pass

    def conclude(self, current: Tuning) -> Conclusion:
        """The short lists."""
        self.compiler.close()
        return Conclusion(short_list(current))


@dataclass
class Replayed:
    """A recorded table, which answers at the recorded costs."""

    backend: ReplayBackend
    machine: ReplayMachine
    judge: ReplayJudge

    @property
    def compiler(self) -> Compiler:
        return self.machine

    @property
    def evaluator(self) -> Evaluator:
        return self.machine

    @property
    def layers(self) -> LayerEvaluator | None:
        return self.machine if self.judge.table.layers else None

    @property
    def pairs(self) -> Collection[LayerConfig]:
        return self.judge.table.layers

    @property
    def clock(self) -> Clock:
        return self.machine

    @property
    def environment(self) -> Fingerprint:
        return self.judge.fingerprint

    def begin(self, current: Tuning) -> None:
        pass

    def conclude(self, current: Tuning) -> Conclusion:
        """The finals, on recorded samples."""
        return Conclusion(confirm_all(current, self.judge))


def _replayed(request: RunRequest, backend: Backend) -> Replayed:
    assert request.target.table is not None
    table = read_table(request.target.table)
    machine = ReplayMachine(table, compile_processes=request.workers)
    return Replayed(ReplayBackend(backend, table), machine, ReplayJudge(table, request.measuring))


def _compile_defaults(request: RunRequest, backend: Backend, pool: Compiler) -> None:
    """Starts the compiles of the defaults; the searches will ask for them and find them under way."""
    for problem in request.problems:
        layer, tokens = problem.layer, problem.tokens
        for stage in Stage:
            space = backend.space(layer, tokens, stage, request.target.device)
            pool.submit(layer, tokens, stage, space.default)
