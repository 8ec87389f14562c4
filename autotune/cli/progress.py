"""Progress of a run: a live display in a terminal, plain lines when piped, nothing for machines."""

import os
import sys
import time
from collections import Counter
from statistics import median
from typing import TYPE_CHECKING

from autotune.cli import logfile
from autotune.cli.eta import Eta
from autotune.machine.targets import Kind
from autotune.problem.layer import Problem
from autotune.report.wording import tie_text
from autotune.results import Failure, Status
from autotune.search.driver import Task
from autotune.search.layers import LayerSearch
from autotune.search.study import StageSearch
from autotune.store.records import LayerTrial, TrialRecord
from autotune.text import counted, duration

if TYPE_CHECKING:
    from rich.console import RenderableType

_PLAIN_EVERY_S = 10.0
_EXECUTING = "executing the short list's machine code on the CPU, to check it and to estimate it as executed"


class Progress:
    """What has happened so far; the base of both displays, and all that machines get.

    Args:
        timeout_s: seconds after which the run tries nothing new; None: never.

    Attributes:
        waiting: the last that was said of whom it waits for, unless something was timed undisturbed since.
    """

    def __init__(self, timeout_s: float | None = None) -> None:
        self.tasks: dict[Task, StageSearch] = {}
        self.counts: Counter[Status] = Counter()
        self.layers = 0
        self.merged = 0
        self.compile_s = 0.0
        self.measure_s = 0.0
        self.resumed = 0
        self.no_winner: dict[Problem, str] = {}
        self.waiting: str | None = None
        self.eta = Eta(timeout_s)
        self._open: dict[Task, int] = {}

    def on_start(self, tasks: dict[Task, StageSearch], *, resumed: int) -> None:
        self.tasks, self.resumed = tasks, resumed
        self._open = {task: max(0, search.budget - search.asked) for task, search in tasks.items()}
        self.eta.start(self.left, len({problem for problem, _ in tasks}))

    def on_trial(self, trial: TrialRecord, search: StageSearch) -> None:
        task = (trial.problem, trial.stage)
        self._open[task] = max(0, self._open.get(task, 0) - 1)
        if trial.time_us is not None and trial.contended is None:
            self.waiting = None
        self.counts[trial.status] += 1
        self.merged += trial.merged_into is not None
        self.compile_s += trial.compile_s
        self.measure_s += trial.measure_s
        self.eta.trial(self.left, trial.measure_s)
        outcome = trial.reason if trial.time_us is None else f"{trial.time_us:.2f} µs {trial.kind}"
        logfile.note(
            f"trial {trial.problem.shape} {trial.stage} {trial.status}: {outcome}, {trial.config},"
            f" {trial.origin}, compile {trial.compile_s:.1f} s, device {trial.measure_s:.2f} s"
        )

    def on_layer(self, trial: LayerTrial, search: LayerSearch) -> None:
        self.layers += 1
        outcome = trial.outcome
        told = outcome.reason if isinstance(outcome, Failure) else f"{median(outcome.us):.2f} µs"
        against = "" if isinstance(outcome, Failure) else f", default {median(outcome.default_us):.2f} µs"
        self.measure_s += outcome.seconds
        logfile.note(
            f"layer {trial.problem.shape}: {told}{against}, {trial.config.key}, {trial.origin},"
            f" device {outcome.seconds:.3f} s"
        )

    def on_wait(self, sentence: str) -> None:
        self.waiting = sentence
        logfile.note(sentence)
        self._say(sentence)

    def _say(self, sentence: str) -> None:
        print(sentence, file=sys.stderr, flush=True)

    def on_gpus(self, sentence: str) -> None:
        logfile.note(sentence)

    def on_check(self, problem: Problem) -> None:
        self.eta.final()

    def on_confirm(self, problem: Problem, contenders: int) -> None:
        self.waiting = None
        self.eta.final()
        logfile.note(f"final {problem.shape}: {counted(contenders, 'layer config')}")

    def on_no_winner(self, problem: Problem, reason: str) -> None:
        self.no_winner[problem] = reason

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    @property
    def done(self) -> int:
        """Trials of this run."""
        return self.counts.total()

    @property
    def left(self) -> int:
        """Trials that are still to come."""
        return sum(
            count for task, count in self._open.items() if task in self.tasks and not self.tasks[task].stopped
        )

    @property
    def total(self) -> int:
        """Trials that this run will have made."""
        return self.done + self.left

    @property
    def to_go(self) -> str:
        """How long it still takes, as words; `–` where nothing is known yet."""
        seconds = self.eta.seconds
        if seconds is None:
            return "time to go –"
        return f"about {duration(seconds)} to go" + ("" if self.eta.finals_known else ", then the checks")

    def by_status(self) -> str:
        """Trials by status, with how many reused a binary, as words."""
        parts = [f"{self.counts[status]} {status}" for status in Status if self.counts[status]]
        reused = [f"{counted(self.merged, 'trial')} reused an identical binary"] if self.merged else []
        return ", ".join([*parts, *reused]) or "no result yet"

    def spoken(self) -> str:
        """What this run did, as words."""
        if not self.done and self.resumed:
            return f"nothing left to try; {counted(self.resumed, 'stored trial')} used"
        layers = f" and {counted(self.layers, 'layer')}" if self.layers else ""
        return f"{counted(self.done, 'trial')}{layers}: {self.by_status()}"

    def stopped(self, command: str) -> str:
        """What is said where the user ends a run early; it may have waited all the while."""
        waited = f"\nNothing was timed undisturbed since it said: {self.waiting}" if self.waiting else ""
        return f"Stopped. Every finished trial is stored; the same command resumes:\n  {command}{waited}"

    def best(self, task: Task) -> str:
        """The best so far against the default, as words."""
        search = self.tasks[task]
        if search.best is None:
            return "no time yet"
        default = dict(search.results).get(search.space.default)
        against = f", default {default:.2f} µs" if default is not None else ""
        best = f"{search.best[1]:.2f}"
        ties = tie_text(sum(f"{us:.2f}" == best for _, us in search.results))
        return f"best {best} µs{f' ({ties})' if ties else ''}{against}"


def _comparing(kind: str, contenders: int) -> str:
    """What happens to the contenders of a final; a replay has none."""
    configs = counted(contenders, "layer config")
    if kind == Kind.REPLAYED:
        return f"drawing recorded samples of {configs}"
    return f"confirming {configs} on fresh routings"


class PlainProgress(Progress):
    """Lines now and then."""

    def __init__(self, kind: str, timeout_s: float | None = None) -> None:
        super().__init__(timeout_s)
        self._kind = kind
        self._last = time.monotonic()

    def on_start(self, tasks: dict[Task, StageSearch], *, resumed: int) -> None:
        super().on_start(tasks, resumed=resumed)
        for (problem, stage), search in tasks.items():
            how = "all are tried" if search.sweeps else counted(search.budget, "trial")
            print(f"{problem.shape} {stage}: {counted(search.space.size, 'legal config')}, {how}")
        if resumed:
            print(f"resuming: {counted(resumed, 'stored trial')}")

    def on_trial(self, trial: TrialRecord, search: StageSearch) -> None:
        super().on_trial(trial, search)
        if time.monotonic() - self._last >= _PLAIN_EVERY_S or self.done == self.total:
            self._last = time.monotonic()
            print(f"{self.done}/{counted(self.total, 'trial')} ({self.by_status()}), {self.to_go}")
            for problem, stage in self.tasks:
                print(f"  {problem.shape} {stage}: {self.best((problem, stage))} ({self._kind})")
            sys.stdout.flush()

    def on_gpus(self, sentence: str) -> None:
        print(sentence, flush=True)

    def on_check(self, problem: Problem) -> None:
        super().on_check(problem)
        print(f"{problem.shape}: {_EXECUTING}", flush=True)

    def on_confirm(self, problem: Problem, contenders: int) -> None:
        super().on_confirm(problem, contenders)
        print(f"{problem.shape}: {_comparing(self._kind, contenders)}", flush=True)


class LiveProgress(Progress):
    """A display that is redrawn in place; use it as a context manager."""

    def __init__(self, kind: str, timeout_s: float | None = None) -> None:
        from rich.live import Live

        super().__init__(timeout_s)
        self._kind = kind
        self._phase = "searching"
        self._live = Live(get_renderable=self._render, refresh_per_second=4, transient=True)

    def __enter__(self) -> "LiveProgress":
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def _say(self, sentence: str) -> None:
        self._live.console.print(sentence, highlight=False)

    def on_gpus(self, sentence: str) -> None:
        self._say(sentence)

    def on_check(self, problem: Problem) -> None:
        super().on_check(problem)
        self._phase = f"{problem.shape}: {_EXECUTING}"

    def on_confirm(self, problem: Problem, contenders: int) -> None:
        super().on_confirm(problem, contenders)
        self._phase = f"{problem.shape}: {_comparing(self._kind, contenders)}"

    def _render(self) -> "RenderableType":
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        table = Table("shape", "stage", "trials", f"best against default ({self._kind})", box=None)
        for (problem, stage), search in self.tasks.items():
            table.add_row(
                problem.shape,
                stage,
                f"{len(search.results)}/{search.budget}",
                self.best((problem, stage)),
            )
        clock = f"compile {self.compile_s:.0f} s, device {self.measure_s:.0f} s, {self._phase}, {self.to_go}"
        bar = Table.grid()  # a bar alone does not end its line
        bar.add_row(ProgressBar(total=max(1, self.total), completed=self.done, width=60))
        return Group(table, bar, Text(f"{self.by_status()}"), Text(clock))


def shown_progress(silent: bool, kind: str, timeout_s: float | None) -> Progress:
    """What a run tells while it goes on: nothing, lines, or a table that is redrawn."""
    if silent:
        return Progress(timeout_s)
    # A terminal that cannot go back a line gets plain ones.
    redrawn = sys.stdout.isatty() and os.environ.get("TERM") not in ("dumb", "unknown", "")
    return (LiveProgress if redrawn else PlainProgress)(kind, timeout_s)
