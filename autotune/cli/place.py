"""Runs a plan's entries one after the other in one process, which keeps what starts slowly.

The process is `python -m autotune.cli.place`. A request is a line on standard input and the answer one on
standard output, as JSON: see `Request` and `Answer`. It may be started before it is known what it will do, to
import meanwhile.
"""

import io
import json
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, field
from typing import Any

from autotune.cli.gpus import start_workers_ahead
from autotune.cli.invoke import run
from autotune.processes import interrupt


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


if __name__ == "__main__":
    sys.exit(main())
