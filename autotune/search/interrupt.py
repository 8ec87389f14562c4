"""Ctrl-C at a point where nothing is half done."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def held_back() -> Iterator[Callable[[], None]]:
    """Holds Ctrl-C back until what is given is called, which then raises KeyboardInterrupt.

    Python raises it wherever the main thread happens to be: within a library's lock, or in a finaliser, where
    it is swallowed. Elsewhere than in the main thread, and where SIGINT is not Python's own, nothing is held
    back.
    """
    came = threading.Event()

    def look() -> None:
        if came.is_set():
            came.clear()
            raise KeyboardInterrupt

    usual = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or usual is not signal.default_int_handler:
        yield look
        return
    signal.signal(signal.SIGINT, lambda *_: came.set())
    try:
        yield look
    finally:
        signal.signal(signal.SIGINT, usual)
    look()
