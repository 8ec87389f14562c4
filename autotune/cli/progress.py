"""Progress of a run: a live display in a terminal, plain lines when piped, nothing for machines."""

import sys
import time
from collections import Counter
from typing import TYPE_CHECKING

from autotune.problem import Problem
from autotune.results import Status
from autotune.search.driver import Task
from autotune.search.study import StageSearch
from autotune.store.records import TrialRecord

if TYPE_CHECKING:
    from rich.console import RenderableType

_PLAIN_EVERY_S = 10.0


class Tally:
    """What has happened so far; the base of both displays."""

    def __init__(self) -> None:
        self.tasks: dict[Task, StageSearch] = {}
        self.counts: Counter[Status] = Counter()
        self.merged = 0
        self.compile_s = 0.0
        self.measure_s = 0.0
        self.resumed = 0
        self.no_winner: dict[Problem, str] = {}
        self._first_at = 0.0
        self._total = 0

    def on_start(self, tasks: dict[Task, StageSearch], *, resumed: int) -> None:
        self.tasks, self.resumed = tasks, resumed
        self._total = sum(max(0, search.budget - search.asked) for search in tasks.values())

    def on_trial(self, trial: TrialRecord, search: StageSearch) -> None:
        if not self.done:
            self._first_at = time.monotonic()
        self.counts[trial.status] += 1
        self.merged += trial.merged_into is not None
        self.compile_s += trial.compile_s
        self.measure_s += trial.measure_s

    def on_check(self, problem: Problem) -> None:
        pass

    def on_confirm(self, problem: Problem, contenders: int) -> None:
        pass

    def on_no_winner(self, problem: Problem, reason: str) -> None:
        self.no_winner[problem] = reason

    def __enter__(self) -> "Tally":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    @property
    def done(self) -> int:
        """Trials of this run."""
        return self.counts.total()

    @property
    def total(self) -> int:
        """Trials that this run will have made."""
        return self._total

    @property
    def eta_s(self) -> float | None:
        """Seconds to the end of the search at the pace since the first trial; None: nothing to go by.

        What comes before the first trial, such as starting workers, happens once.
        """
        if self.done < 2:
            return None
        pace = (time.monotonic() - self._first_at) / (self.done - 1)
        return pace * max(0, self.total - self.done)

    def by_status(self) -> str:
        """Trials by status, with how many were merged, as words."""
        parts = [f"{self.counts[status]} {status}" for status in Status if self.counts[status]]
        merged = [f"{self.merged} of them merged with equal machine code"] if self.merged else []
        return ", ".join([*parts, *merged]) or "none yet"

    def best(self, task: Task) -> str:
        """The best so far against the default, as words."""
        search = self.tasks[task]
        if search.best is None:
            return "no figure yet"
        default = dict(search.results).get(search.space.default)
        against = f", default {default:.2f} µs" if default is not None else ""
        return f"best {search.best[1]:.2f} µs{against}"


class PlainProgress(Tally):
    """Lines now and then."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self._kind = kind
        self._last = time.monotonic()

    def on_start(self, tasks: dict[Task, StageSearch], *, resumed: int) -> None:
        super().on_start(tasks, resumed=resumed)
        for (problem, stage), search in tasks.items():
            how = "swept whole" if search.sweeps else f"{search.budget} trials"
            print(f"{problem.shape} {stage}: {search.space.size:,} legal configs, {how}")
        if resumed:
            print(f"resuming: {resumed} trials are in the database already")

    def on_trial(self, trial: TrialRecord, search: StageSearch) -> None:
        super().on_trial(trial, search)
        if time.monotonic() - self._last >= _PLAIN_EVERY_S or self.done == self.total:
            self._last = time.monotonic()
            eta = "" if self.eta_s is None else f", about {self.eta_s:.0f} s to go"
            print(f"{self.done}/{self.total} trials ({self.by_status()}){eta}")
            for problem, stage in self.tasks:
                print(f"  {problem.shape} {stage}: {self.best((problem, stage))} ({self._kind})")
            sys.stdout.flush()

    def on_check(self, problem: Problem) -> None:
        print(f"{problem.shape}: executing the short list's machine code on the CPU", flush=True)

    def on_confirm(self, problem: Problem, contenders: int) -> None:
        print(f"{problem.shape}: confirming {contenders} layer configs on fresh routings", flush=True)


class LiveProgress(Tally):
    """A display that is redrawn in place; use it as a context manager."""

    def __init__(self, kind: str) -> None:
        from rich.live import Live

        super().__init__()
        self._kind = kind
        self._phase = "searching"
        self._live = Live(get_renderable=self._render, refresh_per_second=4, transient=True)

    def __enter__(self) -> "LiveProgress":
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def on_check(self, problem: Problem) -> None:
        self._phase = f"executing the short list's machine code at {problem.shape}"

    def on_confirm(self, problem: Problem, contenders: int) -> None:
        self._phase = f"confirming {contenders} layer configs at {problem.shape}"

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
        eta = "" if self.eta_s is None else f", about {self.eta_s:.0f} s to go"
        clock = f"compile {self.compile_s:.0f} s, device {self.measure_s:.0f} s, {self._phase}{eta}"
        bar = Table.grid()  # a bar alone does not end its line
        bar.add_row(ProgressBar(total=max(1, self.total), completed=self.done, width=60))
        return Group(table, bar, Text(f"{self.by_status()}"), Text(clock))
