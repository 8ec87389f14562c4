"""What several drivers on one database tell each other: who tries what, and what came of it."""

from collections.abc import Collection, Iterable
from typing import Protocol

from autotune.problem.layer import Problem, Stage
from autotune.space.config import Config
from autotune.store.records import TrialRecord

Piece = tuple[Problem, Stage, Config]
"""A candidate at a problem."""


class Others(Protocol):
    """The other drivers; see `autotune.tuning.sharing`."""

    def claim(self, pieces: Collection[Piece]) -> Collection[Piece]:
        """Those that this driver is to do; the others are done, or somebody does them."""

    def finished(self, piece: Piece) -> None:
        """A piece of this driver's is stored."""

    def news(self) -> Iterable[TrialRecord]:
        """What others have finished since the last time; empty when they were asked a moment ago."""
