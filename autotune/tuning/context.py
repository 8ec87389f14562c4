"""A tuning run's request, result and state: what passes between its parts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from autotune.check.judged import Judged
from autotune.machine.fingerprint import Fingerprint
from autotune.machine.targets import Kind, Target
from autotune.measure.settings import MeasureSettings
from autotune.problem.layer import Problem, Stage
from autotune.protocol.backend import Backend, default_of
from autotune.results import Confirmation, Failure, Finalist, LayerConfig, Measurement, Round
from autotune.search.driver import Task
from autotune.search.layers import LayerSearch
from autotune.search.study import StageSearch
from autotune.space.config import Config
from autotune.space.space import BoundSpace
from autotune.store.records import LayerTrial, StoredTrial, TrialRecord, WinnerRecord
from autotune.store.store import Store

if TYPE_CHECKING:
    from autotune.tuning.sharing import SharedWork


@dataclass(frozen=True)
class RunRequest:
    """What to tune, where, and with which effort.

    Attributes:
        trials: configs a stage of each problem, and layers; a space that fits is swept whole.
        timeout_s: the search, and offline the checks, end after this time; None: never.
        workers: compile processes.
        measuring: conditions and limits on a live target.
        guards: tokens at which a setting of the whole process is timed besides, where knobs are variables.
        check_timeout_s: offline, checks of the short lists' machine code are given up after so long.
        stop_when: a search ends when less gain than this fraction is to be expected; None: at its budget.
        knobs: restrictions of the search spaces, `tile_k=256,512` or `stage1:tile_k=256`.
        devices: the GPUs to use, by their index among the visible ones; with one or none, the first visible.
        ray: address of the Ray cluster whose GPUs measure; None: this machine's do.
        tries: configs to try whatever the search thinks of them, as `autotune measure --config` takes them.
        command: the command line, for the record.
    """

    backend: str
    problems: Sequence[Problem]
    target: Target
    trials: int
    seed: int
    sampler: str
    workers: int
    timeout_s: float | None = None
    compile_timeout_s: float = 60.0
    allow_spills: bool = False
    measuring: MeasureSettings = MeasureSettings()  # noqa: RUF009 frozen
    stop_when: float | None = None
    check_timeout_s: float = 90.0
    guards: tuple[int, ...] = ()
    knobs: tuple[str, ...] = ()
    tries: tuple[str, ...] = ()
    devices: tuple[int, ...] = ()
    ray: str | None = None
    command: str = ""


@dataclass(frozen=True)
class RunResult:
    """What a run found.

    Attributes:
        complete: every search used its budget.
        best: the winner of each problem, or offline the best of its short list.
        stopped: why searches ended before their budget, and what they left untried; a sentence each.
        defaults: the defaults, by shape and stage.
        settings: what was timed for one setting of the process, and what was left out; a sentence each.
        left_out: of each problem's final, who was not timed to the end and why; a sentence each.
        failed: problems of which nothing can be told, as the default itself failed, and how it did.
        checks: offline, verdicts on the machine code of short-listed configs and of the defaults.
    """

    run: int
    environment: Fingerprint
    complete: bool
    best: Sequence[WinnerRecord]
    stopped: Sequence[str] = ()
    checks: Sequence[Judged] = ()
    defaults: Mapping[tuple[str, str], Config] = field(default_factory=dict)
    settings: Sequence[str] = ()
    left_out: Mapping[Problem, Sequence[str]] = field(default_factory=dict)
    failed: Mapping[Problem, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Conclusion:
    """What follows from a run's searches.

    Attributes:
        winners: see `RunResult.best`.
        settings: see there.
    """

    winners: Sequence[WinnerRecord]
    settings: Sequence[str] = ()


class Listener(Protocol):
    """Is told how a run goes, for a progress display."""

    def on_start(self, tasks: dict[Task, StageSearch], *, resumed: int) -> None:
        """The searches begin; `resumed` trials were in the store already."""

    def on_trial(self, trial: TrialRecord, search: StageSearch) -> None:
        """A trial is stored and told."""

    def on_layer(self, trial: LayerTrial, search: LayerSearch) -> None:
        """A layer is stored; it is told next."""

    def on_wait(self, sentence: str) -> None:
        """Others are on a GPU, or one is left out or lost; told from another thread."""

    def on_gpus(self, sentence: str) -> None:
        """Several GPUs were compared."""

    def on_check(self, problem: Problem) -> None:
        """The machine code of a problem's short list is about to be executed."""

    def on_confirm(self, problem: Problem, contenders: int) -> None:
        """The final of a problem begins."""

    def on_no_winner(self, problem: Problem, reason: str) -> None:
        """A problem ends without a winner."""


class Judge(Protocol):
    """Decides between finalists."""

    @property
    def kind(self) -> Kind:
        """What its times are."""

    @property
    def workload(self) -> str:
        """Text of the conditions."""

    def again(self, problem: Problem, stage: Stage, config: Config) -> Measurement | Failure | None:
        """One more window of a config; None: there is nothing new to learn."""

    def race(
        self, problem: Problem, configs: Sequence[LayerConfig], rounds: int, seed: int
    ) -> Sequence[Round]:
        """Rounds of layers on routings that neither the search nor a confirmation sees."""

    def confirm(self, problem: Problem, finalists: Sequence[Finalist]) -> Confirmation:
        """Paired rounds; the default is the first finalist."""


@dataclass
class Tuning:
    """A run under way.

    Attributes:
        layers: the search of each problem's layer; empty where layers are not timed.
        layer_workload: text of the conditions that layers are timed under.
        failed: see `RunResult`.
        checks_until: on the monotonic clock, when checks of machine code are given up.
        shared: the work is shared with other drivers on the same database; None: this is the only one.
    """

    request: RunRequest
    store: Store
    listener: Listener
    backend: Backend
    environment: Fingerprint
    id: int
    searches: dict[Task, StageSearch] = field(default_factory=dict)
    layers: dict[Problem, LayerSearch] = field(default_factory=dict)
    layer_workload: str = ""
    checks: list[Judged] = field(default_factory=list)
    left_out: dict[Problem, Sequence[str]] = field(default_factory=dict)
    failed: dict[Problem, str] = field(default_factory=dict)
    checks_until: float | None = None
    shared: "SharedWork | None" = None

    def space(self, problem: Problem, stage: Stage) -> BoundSpace:
        """The space on the target, of a guard too, which has no search."""
        return self.backend.space(problem.layer, problem.tokens, stage, self.request.target.device)

    def default(self, problem: Problem) -> LayerConfig:
        """The default of a problem."""
        return default_of(self.backend, problem.layer, problem.tokens, self.request.target.device)

    def trials(
        self,
        problem: Problem,
        stage: Stage,
        *,
        workload: str | None = None,
        space_digest: str | None = None,
        config: Config | None = None,
    ) -> list[StoredTrial]:
        """What the store holds of a stage on this stack, of this run and earlier ones; see `Store.trials`."""
        return self.store.trials(
            problem=problem,
            stage=stage,
            backend=self.backend.name,
            environment_key=self.environment.key,
            workload=workload,
            space_digest=space_digest,
            config=config,
        )

    def default_failed(self, problem: Problem, reason: str) -> None:
        """A problem ends without a winner, since there is nothing to compare with."""
        self.failed[problem] = reason
        self.listener.on_no_winner(problem, reason)

    def winners(self, kind: Kind, chosen: Sequence[int]) -> list[WinnerRecord]:
        """The best of each problem among the winners that this run chose, by their ids."""
        return self.store.winners(kind=kind, among=chosen)
