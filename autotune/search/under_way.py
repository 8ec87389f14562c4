"""Keeps a search's compiles and evaluations under way, and how long it waits for the last compiles."""

from collections.abc import Collection
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from autotune.results import Compiled
from autotune.search.records import Task
from autotune.search.study import Ask
from autotune.store.records import TrialRecord

_SLOW = 8  # times the mean compile,
_SLOW_S = 10.0  # and seconds, beyond which one is slow
NOT_WAITED_FOR = "a compile that takes far longer than others was not waited for"


@dataclass
class Candidate:
    """A compile under way, and the tasks that wait for it."""

    ask: Ask
    tasks: list[Task]


@dataclass
class Evaluation:
    """An evaluation under way; `twins` have the same machine code and wait for its time."""

    task: Task
    ask: Ask
    compiled: Compiled
    twins: list[tuple[Ask, Compiled]] = field(default_factory=list)


@dataclass(frozen=True)
class Twin:
    """A finished trial that later candidates with the same machine code are merged into."""

    trial: int
    record: TrialRecord


class Patience:
    """Whether what is waited for are compiles that take far longer than others.

    A few configs take a compiler half a minute, as long as all the rest of a search with several GPUs.
    """

    def __init__(self) -> None:
        self._since: dict[Future[Any], float] = {}

    def ended(self, waiting: Collection[Future[Any]], now: float, mean_s: float) -> bool:
        """Whether everything waited for has been so for longer than a slow compile takes.

        Args:
            now: seconds, never less than before.
            mean_s: of a compile.
        """
        self._since = {future: self._since.get(future, now) for future in waiting}
        slow = max(_SLOW_S, _SLOW * mean_s)
        return bool(waiting) and all(now - began > slow for began in self._since.values())
