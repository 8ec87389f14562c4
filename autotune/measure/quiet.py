"""Waits until the GPU is this process's alone: for another autotune's end, for others to leave it quiet."""

import threading
import time
from collections.abc import Callable

from autotune.errors import UserError
from autotune.measure import lock
from autotune.measure.process import WorkerProcess
from autotune.measure.settings import MeasureSettings
from autotune.results import Failure

_AGAIN_S = 1.0
_SAY_AGAIN_S = 20.0
_MOST_IN_A_ROW = 60
"""Disturbed windows one after the other, with a GPU that looked quiet before each of them."""


class Quiet:
    """The quiet of one measurer's GPU.

    For the measurer's one thread, except `give_up`.

    Attributes:
        gpu: the GPU's UUID or PCI address; None: it is not told, or was not asked yet.
        contended: windows so far that others disturbed.
        who: disturbed the last of them, in words.
    """

    def __init__(
        self, settings: MeasureSettings, say: Callable[[str], None], order: lock.InOrder | None = None
    ) -> None:
        self._settings, self._say = settings, say
        self._order = order
        self._given_up = threading.Event()
        self._entered = False
        self.gpu: str | None = None
        self._locked: str | None = None
        self._in_a_row = 0
        self._since = 0.0
        self._said_at: float | None = None
        self.contended = 0
        self.who = ""

    def enter(self, worker: WorkerProcess) -> None:
        """Takes the GPU before anything of ours is on it; only the first call does something.

        Raises:
            UserError: others are on it and stay.
        """
        if self._entered:
            return
        insists = self._settings.shared_gpu
        order, self._order = self._order or lock.InOrder(1), None
        name: str | None = None
        try:
            look = worker.look()
            name = None if isinstance(look, Failure) else look.gpu
        finally:
            order.tell(name)
        if isinstance(look, Failure):
            return
        self._entered = True
        self.gpu = look.gpu
        if look.gpu is not None:
            with order.turn(look.gpu, self._given_up):
                if lock.acquire(look.gpu, self._say, self._given_up, wait=not insists):
                    self._locked = look.gpu
        if look.neighbours is None and not order.waited:
            return
        if insists:
            self._say(f"measuring beside {look.neighbours}: times are marked as those of a shared GPU")
            return

        def again() -> str | None:
            """By a fresh process: work that has just ended was still in the first one's times."""
            worker.end()
            look = worker.look()
            return None if isinstance(look, Failure) else look.neighbours

        self._since = time.monotonic()
        self._outlast(again)

    def wait(self, watch: "Callable[[], str | Failure | None]") -> None:
        """Before a request: where the last one was disturbed, waits until `watch` sees nobody.

        Raises:
            UserError: they stay.
        """
        if self._in_a_row:
            self._outlast(watch)

    def heard(self, contended: str | None) -> bool:
        """After a request: whether it was disturbed, by whom in words, and has to be made again.

        Raises:
            UserError: so were too many before it.
        """
        if contended is None:
            self._in_a_row = 0
            return False
        self.contended += 1
        self._in_a_row += 1
        self.who = contended
        if self._in_a_row == 1:
            self._since = time.monotonic()
        self._tell(contended)
        if self._in_a_row >= _MOST_IN_A_ROW:
            raise self._refusal(contended)
        return True

    def renew(self, say: Callable[[str], None]) -> None:
        """Another run goes on with the GPU, and has its own way to be told."""
        self._say, self._said_at, self._in_a_row = say, None, 0

    def give_up(self) -> None:
        """Ends all waiting."""
        self._given_up.set()

    def leave(self) -> None:
        """Gives the GPU to whoever waits for it."""
        if self._locked is not None:
            lock.release(self._locked)
            self._locked = None

    def _outlast(self, watch: "Callable[[], str | Failure | None]") -> None:
        while not self._given_up.is_set():
            who = watch()
            if who is None or isinstance(who, Failure):  # of a worker that is gone: the next request tells
                return
            self._tell(who)
            if time.monotonic() - self._since > self._settings.patience_s:
                raise self._refusal(who)
            self._given_up.wait(_AGAIN_S)

    def _tell(self, who: str) -> None:
        now = time.monotonic()
        if self._said_at is None or now - self._said_at > _SAY_AGAIN_S:
            self._said_at = now
            self._say(
                f"{who} is on this GPU too: what was timed beside it is put off until the GPU is quiet, for"
                f" {self._settings.patience_s:g} s at most (--shared-gpu measures beside it)"
            )

    def _refusal(self, who: str) -> UserError:
        insist = ", or measure beside it with --shared-gpu, which marks the times"
        return UserError(not_alone(who, time.monotonic() - self._since) + insist)


def not_alone(who: str, seconds: float) -> str:
    """What a user is told who is not alone for so long."""
    return (
        f"{who} is on this GPU too, and has been for {seconds:.0f} s: end it, or wait for it, and give the"
        " same command again"
    )
