"""Ctrl-C, SIGTERM and SIGHUP: acknowledged at once, taken where nothing is half done.

Python raises KeyboardInterrupt wherever the main thread happens to be: within a library's lock, or in a
finaliser, where it is swallowed. So a run holds it back and looks for it between its steps.
"""

import contextlib
import errno
import os
import signal
import sys
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:  # this is imported before everything else, to be there at once
    from concurrent.futures import Future

T = TypeVar("T")

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_MOMENT_S = 0.2  # after which one that came is looked for


@dataclass
class _State:
    """What came.

    Attributes:
        signum: the first signal; 0: none.
        times: how many came.
        raised: KeyboardInterrupt was raised for it.
        held: how many blocks hold it back.
        stderr: where the user reads.
    """

    signum: int = 0
    times: int = 0
    raised: bool = False
    held: int = 0
    stderr: int = 2


_state = _State()


def install() -> None:
    """From now on the three end the program alike; one that is ignored, as under nohup, stays so."""
    for signum in _SIGNALS:
        if signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, _came)


def exit_code() -> int:
    """Of a program that such a signal ended: 130, 143 or 129."""
    return 128 + (_state.signum or signal.SIGINT)


def ended() -> bool:
    """Whether such a signal ends the program."""
    return _state.raised


def look() -> None:
    """Raises KeyboardInterrupt where one came and was held back."""
    if _state.signum and not _state.raised and threading.current_thread() is threading.main_thread():
        _state.raised = True
        raise KeyboardInterrupt


@contextmanager
def held_back() -> Iterator[None]:
    """Holds KeyboardInterrupt back until `look`, or the end of the block.

    Elsewhere than in the main thread, and where a signal is another program's to handle, nothing is held
    back.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # As a library: Ctrl-C is Python's own before and after.
    borrowed = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if borrowed:
        signal.signal(signal.SIGINT, _came)
        _state.signum, _state.times, _state.raised = 0, 0, False
    _state.held += 1
    try:
        yield
    finally:
        _state.held -= 1
        if borrowed:
            signal.signal(signal.SIGINT, signal.default_int_handler)
    look()


def wait_for(
    futures: "Collection[Future[Any]]", timeout: float | None = None, *, first: bool = False
) -> "Collection[Future[Any]]":
    """Waits for all futures, or the first of them, and looks for an interrupt; those that are done.

    Args:
        timeout: seconds; None: no limit.
    """
    from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, wait

    until = FIRST_COMPLETED if first else ALL_COMPLETED
    end = None if timeout is None else time.monotonic() + timeout
    with held_back():  # not to be raised within the library's locks
        while True:
            look()
            left = _MOMENT_S if end is None else min(_MOMENT_S, max(0.0, end - time.monotonic()))
            done, under_way = wait(futures, left, until)
            if not under_way or (done and first) or (end is not None and time.monotonic() >= end):
                return done


def result_of(future: "Future[T]") -> T:
    """`future.result()` that looks for an interrupt."""
    wait_for([future])
    return future.result()


@contextmanager
def user_reads(stderr: int) -> Iterator[None]:
    """While descriptor 2 leads elsewhere, `stderr` is where a signal is acknowledged."""
    _state.stderr = stderr
    try:
        yield
    finally:
        _state.stderr = 2


@contextmanager
def children_spared() -> Iterator[None]:
    """Processes that are started here get neither Ctrl-C nor the terminal's end: they are ours to end.

    They inherit that until `spare` makes it last, so that one which still starts does not die with a
    traceback. The process that watches over semaphores would take SIGHUP for its end, and report leaks.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def spare() -> None:
    """In a worker: leaves Ctrl-C and the terminal's end to the driver; SIGTERM ends it in silence."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def _came(signum: int, _: object) -> None:
    _state.signum = _state.signum or signum
    _state.times += 1
    if signum == signal.SIGHUP:
        _leave_terminal()
    if _state.times == 1:
        _say("\nstopping…\n")
    elif _state.times == 2:
        _say("\nstopping already; once more ends this at once\n")
    else:
        os._exit(exit_code())  # workers die with their driver
    if not _state.held and not _state.raised:
        _state.raised = True
        raise KeyboardInterrupt


def _say(text: str) -> None:
    # Past the buffers, in which the main thread may be half way through a line.
    with contextlib.suppress(OSError, ValueError):
        os.write(_state.stderr, text.encode(getattr(sys.stderr, "encoding", None) or "ascii", "replace"))


def _leave_terminal() -> None:
    """What is printed to a terminal that is gone is an error in the midst of stopping."""
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        with contextlib.suppress(OSError):
            if _is_dead_terminal(stream):
                os.dup2(null, stream)
    os.close(null)


def _is_dead_terminal(stream: int) -> bool:
    try:
        os.tcgetpgrp(stream)
    except OSError as error:
        return error.errno == errno.EIO
    return False
