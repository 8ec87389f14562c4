"""How the driver waits: on the wall clock, or on a replayed machine's own."""

import time
from collections.abc import Collection
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any, Protocol

_MOMENT_S = 0.5  # after which an interrupt is looked for


class Clock(Protocol):
    """Time, and the waiting for something to finish."""

    def now(self) -> float:
        """Seconds since some beginning."""

    def wait(self, futures: Collection[Future[Any]]) -> Collection[Future[Any]]:
        """Waits until one of `futures` is done, or a moment; those that are done."""


class WallClock:
    """The clock of this machine."""

    def now(self) -> float:
        return time.monotonic()

    def wait(self, futures: Collection[Future[Any]]) -> Collection[Future[Any]]:
        return wait(futures, timeout=_MOMENT_S, return_when=FIRST_COMPLETED).done
