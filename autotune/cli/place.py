"""Runs a plan's entries one after the other in one process, which keeps what starts slowly.

The process is `python -m autotune.cli.place`. A request is a line on standard input and the answer one on
standard output, as JSON: see `Request` and `Answer`. It may be started before it is known what it will do, to
import meanwhile.
"""

import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, ClassVar

from autotune.cli.gpus import start_workers_ahead
from autotune.cli.invoke import run
from autotune.processes import interrupt
from autotune.processes.spawning import die_with_parent

_END_S = 30.0


@dataclass(frozen=True)
class Request:
    """An entry to run.

    Attributes:
        arguments: of `autotune`.
        environment: variables that show the process its GPUs; the same with each request.
        known: what need not be asked of them, see `autotune.machine.probe.know`.
    """

    arguments: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    known: Mapping[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """What became of an entry.

    Attributes:
        code: that `autotune` would have ended with; None: by an exception, and the process ends as well.
        output, errors: what it printed.
    """

    code: int | None
    output: str
    errors: str


def main() -> int:
    """Serves until there is no further request, or an entry was interrupted."""
    interrupt.install()
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is no answer
    try:
        start_workers_ahead(None)
        from autotune.machine import probe
        from autotune.tuning import kept
        from autotune.tuning import run as _  # noqa: F401  what an entry will import

        with kept.keeping(), probe.answers_kept():
            for line in sys.stdin:
                request = Request(**json.loads(line))
                os.environ.update(request.environment)
                probe.know(request.known)
                answer = _run(request.arguments)
                answers.write(f"{json.dumps(asdict(answer))}\n")
                answers.flush()
                if answer.code is None or interrupt.ended():
                    break
    except KeyboardInterrupt:
        return interrupt.exit_code()
    return 0


def _run(arguments: Sequence[str]) -> Answer:
    sys.argv = ["autotune", *arguments]
    output, errors = io.StringIO(), io.StringIO()
    code: int | None = None
    with redirect_stdout(output), redirect_stderr(errors):
        try:
            code = run()
        except KeyboardInterrupt:
            code = interrupt.exit_code()
        except Exception:  # noqa: BLE001  whoever asked is told
            traceback.print_exc()
    return Answer(code, output.getvalue(), errors.getvalue())


class PlaceProcess:
    """Such a process, as the plan sees it."""

    command: ClassVar = [sys.executable, "-m", "autotune.cli.place"]

    def __init__(self) -> None:
        self._said = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 its own
        self._process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            encoding="utf-8",
            start_new_session=True,  # Ctrl-C comes here, and is passed on
            preexec_fn=partial(die_with_parent, signal.SIGTERM),
        )

    @property
    def lives(self) -> bool:
        return self._process.poll() is None

    def run(self, request: Request) -> Answer | str:
        """What became of an entry; why there is no answer, where the process ended."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(BrokenPipeError):
            process.stdin.write(f"{json.dumps(asdict(request))}\n")
            process.stdin.flush()
        line = process.stdout.readline()
        if line:
            answer = Answer(**json.loads(line))
            if answer.code is None:  # by a mistake of ours: the next entry has another process
                process.wait()
                return last_line(answer.errors)
            return answer
        code = process.wait()
        if code < 0:
            return f"{signal.Signals(-code).name} ended it: the same command goes on"
        self._said.seek(0)
        return last_line(self._said.read())

    def interrupt(self) -> None:
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        self._process.kill()

    def end(self) -> None:
        """Ends the process, which is given time to store what it has."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError, ValueError):
            self._process.stdin.close()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()


@contextmanager
def ended(ahead: list[PlaceProcess]) -> Iterator[None]:
    """Ends those that nobody has taken when the block ends."""
    try:
        yield
    finally:
        for process in ahead:
            process.kill()


def last_line(text: str) -> str:
    """The last line that a process said, which tells why it ended."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].removeprefix("autotune: ").removeprefix("error: ") if lines else "it said nothing"


if __name__ == "__main__":
    sys.exit(main())
