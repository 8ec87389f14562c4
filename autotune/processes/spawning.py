"""Child processes that may hang, be killed or abort without harm, and that print nothing to the user.

A child answers requests over a pipe, one at a time, and shares nothing else with its driver: no lock that a
killed child would keep, no semaphore to be leaked. What it prints goes to a log, from its interpreter's first
line on: a child that dies while it starts leaves a traceback of `multiprocessing`, which helps no user.
"""

import contextlib
import ctypes
import os
import pickle
import resource
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext, SpawnProcess
from multiprocessing.resource_tracker import ensure_running
from pathlib import Path
from typing import Any

from autotune.processes import interrupt

_redirected = threading.Lock()
_ahead: list[tuple[SpawnProcess, Connection]] = []
_FROM_OUTSIDE = (-signal.SIGKILL, -signal.SIGTERM)
_END_S = 10.0


class ChildLate(Exception):
    """No answer in time; the child was killed."""


class ChildDied(Exception):
    """The child went before it answered.

    Attributes:
        from_outside: others may have ended or stopped it: the OOM killer, an operator. What a compiler or a
            runtime does to itself is an abort, a fault or an exit code.
        how: in words, with the last line that it printed.
    """

    def __init__(self, how: str, *, from_outside: bool) -> None:
        super().__init__(how)
        self.how, self.from_outside = how, from_outside


class Child:
    """A child process, started by the first request, and again by the first one after its end.

    Not for use by several threads at once, except `interrupt` and `stop`.

    Args:
        log: takes what it prints.
        environment: set before anything that reads it is imported.
        memory_limit_bytes: of its address space; None: none.
        ahead: it may be a process of `start_ahead`'s.
    """

    def __init__(
        self,
        log: Path,
        environment: Mapping[str, str] | None = None,
        memory_limit_bytes: int | None = None,
        *,
        ahead: bool = False,
    ) -> None:
        self._log, self._environment, self._limit = log, dict(environment or {}), memory_limit_bytes
        self._may_be_ahead = ahead
        self._process: SpawnProcess | None = None
        self._connection: Connection | None = None
        self.stopped = self.interrupted = False
        self._starting = threading.Lock()

    @property
    def started(self) -> bool:
        """Whether there is a process, as far as is known."""
        return self._process is not None

    @property
    def pid(self) -> int | None:
        """Of the process; None: it was not started."""
        return None if self._process is None else self._process.pid

    def is_alive(self) -> bool:
        """Whether the process was started and has not ended."""
        return self._process is not None and self._process.is_alive()

    def ask(self, function: Callable[..., Any], arguments: tuple[Any, ...], timeout_s: float) -> Any:
        """What `function` returns in the child; what it raises is raised here.

        Raises:
            ChildLate, ChildDied: see there; the process is gone.
        """
        connection = self._connection or self._start()
        printed = 0
        try:
            printed = self._log.stat().st_size if self._log.exists() else 0
            connection.send((function, arguments))
            if not connection.poll(timeout_s):
                halted = _is_halted(self.pid)
                self.kill()
                if halted:
                    raise ChildDied("was stopped (SIGSTOP)", from_outside=True)
                raise ChildLate
            returned, answer = connection.recv()
        except (EOFError, OSError) as error:  # its end of the pipe closed with it
            code = self.kill()
            said = b""
            with contextlib.suppress(FileNotFoundError):  # the log goes with whoever stopped it
                said = self._log.read_bytes()[printed:]
            raise ChildDied(_death(code, said), from_outside=code in _FROM_OUTSIDE) from error
        if not returned:
            raise answer
        return answer

    def kill(self) -> int:
        """Makes sure that the process is gone; its exit code, negative for a signal."""
        process, connection = self._process, self._connection
        self._process, self._connection = None, None
        if process is None or connection is None:
            return 0
        # What died by itself has a moment to say how.
        process.join(timeout=0.5)
        process.kill()
        process.join()
        connection.close()
        return process.exitcode or 0

    def interrupt(self) -> None:
        """Kills the process, from any thread; a request under way finds that it died.

        One that is being started is killed as well, until `interrupted` is set back.
        """
        self.interrupted = True
        if process := self._process:
            process.kill()

    def stop(self) -> None:
        """Kills the process for good, from any thread; a request under way finds that it died."""
        self.stopped = True
        with self._starting:  # its log may lie in a folder that goes next
            process = self._process
        if process:
            process.kill()
            process.join(_END_S)  # what it held, a GPU's memory say, is free when it is gone, not before

    def _start(self) -> Connection:
        with self._starting:
            if self.stopped:
                raise ChildDied("was never started", from_outside=True)
            self._process, mine = self._adopted() or _spawned(self._log, self._limit)
        self._connection = mine
        with contextlib.suppress(OSError):  # of one that is gone: its first request finds out
            mine.send((_begin, ({**os.environ, **self._environment}, str(self._log))))
        if self.interrupted:  # by another thread, which saw no process yet
            self._process.kill()
        return mine

    def _adopted(self) -> tuple[SpawnProcess, Connection] | None:
        while self._may_be_ahead and _ahead:
            process, connection = _ahead.pop()
            if process.is_alive():
                return process, connection
            process.join()
            connection.close()
        return None


def start_ahead(count: int, modules: Sequence[str]) -> None:
    """Starts processes for children to come, which import modules meanwhile. Call it from the main thread.

    Args:
        modules: that take long, and read no variable that a child's environment may set.
    """
    for _ in range(count):
        process, connection = _spawned(Path(os.devnull))
        connection.send((_begin, ({}, os.devnull)))
        connection.send((_import, (tuple(modules),)))
        _ahead.append((process, connection))


def end_ahead() -> None:
    """Ends the processes of `start_ahead` that no child has taken."""
    while _ahead:
        process, connection = _ahead.pop()
        process.kill()
        process.join()
        connection.close()


def die_with_parent(signum: int) -> None:
    """In a child: the signal comes when the thread that started it ends. Linux only."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signum)  # PR_SET_PDEATHSIG


def _spawned(log: Path, memory_limit: int | None = None) -> tuple[SpawnProcess, Connection]:
    # Spawned, not forked: a forked child would inherit threads' locks, and could not open the device.
    context = SpawnContext()
    mine, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, os.getpid(), memory_limit), daemon=True)
    with children_print_to(log):
        process.start()
    theirs.close()  # or its death would not close the pipe
    return process, mine


def _import(modules: Sequence[str]) -> None:
    for name in modules:
        with contextlib.suppress(Exception):  # whoever needs it will say so
            import_module(name)


def _begin(environment: Mapping[str, str], log: str) -> None:
    """Whose child the process is."""
    os.environ.update(environment)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)


_UNANSWERED = (_begin, _import)


def _serve(requests: Connection, driver: int, memory_limit: int | None) -> None:
    """The process: answers requests until the driver closes its end of the pipe."""
    interrupt.spare()
    die_with_parent(signal.SIGKILL)
    if os.getppid() != driver:
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory_limit is not None:
        resource.setrlimit(resource.RLIMIT_AS, (memory_limit, memory_limit))
    while True:
        try:
            function, arguments = requests.recv()
        except EOFError:
            return
        if function in _UNANSWERED:
            function(*arguments)
            continue
        try:
            answer = True, function(*arguments)
        except Exception as error:  # noqa: BLE001  the driver's to judge
            answer = False, _sendable(error)
        requests.send(answer)


def _sendable(error: Exception) -> Exception:
    """The error, or one in its place whose type the driver can make."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001  a class may do anything
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


@contextmanager
def children_print_to(log: Path) -> Iterator[None]:
    """Points what is started meanwhile at `log` instead of this process's standard error.

    The resource tracker too: one that was killed is started again by whatever is started next.
    """
    warnings.filterwarnings("ignore", message="resource_tracker", category=UserWarning)
    with _redirected:
        try:
            usual = os.dup(2)
        except OSError:  # there is none
            yield
            return
        try:
            file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        except OSError:  # its folder went with whoever asked
            file = os.open(os.devnull, os.O_WRONLY)
        try:
            with interrupt.user_reads(usual):
                os.dup2(file, 2)
                with interrupt.children_spared():
                    ensure_running()  # which unblocks Ctrl-C
                with interrupt.children_spared():
                    yield
        finally:
            os.dup2(usual, 2)
            for descriptor in (file, usual):
                os.close(descriptor)


def _is_halted(pid: int | None) -> bool:
    """Whether somebody stopped the process, which then neither works nor hangs (Linux)."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] in ("T", "t")


def _death(exitcode: int, printed: bytes) -> str:
    """How a process died, with its last words. A negative exit code is a signal's number."""
    how = (
        f"was killed by {signal.Signals(-exitcode).name}"
        if exitcode < 0
        else f"ended with exit code {exitcode}"
    )
    lines = [line.strip() for line in printed.decode(errors="replace").splitlines() if line.strip()]
    return f"{how}: {lines[-1][:300]}" if lines else how
