"""One autotune at a time on a GPU: two would time each other's noise.

A lock file a GPU in a folder of the machine's, which ends with its process whatever becomes of it. Containers
are kept apart where they share that folder; where they do not, the other's work is seen in the measurements.
"""

import fcntl
import json
import os
import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

FOLDER_VARIABLE = "AUTOTUNE_LOCKS"
_FOLDER = "/tmp"
_AGAIN_S = 0.5
_WAITED_S = 1.0  # more than taking a free GPU needs


@dataclass
class _Held:
    file: int
    count: int


_held: dict[str, _Held] = {}
_lock = threading.Lock()


class InOrder:
    """Lets one run take its GPUs in the order of their names, as every run does.

    Two runs that each held a GPU and waited for the other's would wait for ever.

    Args:
        gpus: how many the run takes, each in a thread of its own.

    Attributes:
        waited: another autotune had one of them first.
    """

    def __init__(self, gpus: int) -> None:
        self._awaited = gpus
        self._waiting: set[str] = set()
        self._changed = threading.Condition()
        self.waited = False

    def tell(self, gpu: str | None) -> None:
        """One of the run's GPUs has this name; None: it has none, or is not there."""
        with self._changed:
            self._awaited -= 1
            if gpu is not None:
                self._waiting.add(gpu)
            self._changed.notify_all()

    @contextmanager
    def turn(self, gpu: str, given_up: threading.Event) -> Iterator[None]:
        """Begins when the GPUs with lesser names are taken, after `tell`; within it this one is."""
        with self._changed:
            while not given_up.is_set() and (self._awaited > 0 or gpu != min(self._waiting | {gpu})):
                self._changed.wait(_AGAIN_S)
        start = time.monotonic()
        try:
            yield
        finally:
            with self._changed:
                self.waited |= time.monotonic() - start > _WAITED_S
                self._waiting.discard(gpu)
                self._changed.notify_all()


def path_of(gpu: str) -> Path:
    """The lock file of a GPU, which is named by its UUID or PCI address."""
    name = "".join(letter if letter.isalnum() else "-" for letter in gpu)
    return Path(os.environ.get(FOLDER_VARIABLE) or _FOLDER, f"autotune-{name}.lock")


def acquire(gpu: str, say: Callable[[str], None], given_up: threading.Event, *, wait: bool = True) -> bool:
    """Takes a GPU for this process, which may do so several times; waits while another has it.

    Args:
        say: told, once, whom it waits for.
        given_up: ends the waiting.
        wait: False: whoever has it may keep it.

    Returns:
        Whether it is this process's.
    """
    said = False
    while not given_up.is_set():
        with _lock:
            if gpu in _held:
                _held[gpu].count += 1
                return True
            file = _open(path_of(gpu))
            if file is None:  # no place for a lock: nobody can be kept out
                return False
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                holder = _holder(file)
                os.close(file)
            else:
                _sign(file)
                _held[gpu] = _Held(file, 1)
                return True
        if not wait:
            return False
        if not said:
            say(f"waiting for the GPU: {holder}")
            said = True
        given_up.wait(_AGAIN_S)
    return False


def release(gpu: str) -> None:
    """Gives back what one `acquire` took."""
    with _lock:
        held = _held[gpu]
        held.count -= 1
        if not held.count:
            del _held[gpu]
            os.close(held.file)


def _open(path: Path) -> int | None:
    """The lock file, readable at least; None: it can be neither opened nor made.

    Opened before it is made: in a sticky folder the kernel refuses O_CREAT for a file of somebody else's.
    """
    for flags in (os.O_RDWR, os.O_RDWR | os.O_CREAT | os.O_EXCL, os.O_RDONLY):
        try:
            file = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        except OSError:
            continue
        if flags & os.O_CREAT:
            os.fchmod(file, 0o666)  # whatever the umask: other users lock it too
        return file
    return None


def _sign(file: int) -> None:
    """Writes who holds it; whoever may only read the file locks it without a name."""
    about = {"pid": os.getpid(), "command": shlex.join(["autotune", *sys.argv[1:]]), "since": time.time()}
    try:
        os.ftruncate(file, 0)
        os.pwrite(file, json.dumps(about).encode(), 0)
    except OSError:
        return


def _holder(file: int) -> str:
    try:
        about = json.loads(os.pread(file, 1 << 16, 0))
        since = datetime.fromtimestamp(about["since"]).astimezone()
        return f"process {about['pid']} ({about['command']}) measures on it since {since:%H:%M:%S}"
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return "another autotune measures on it"
