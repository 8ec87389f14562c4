"""Processes that need not import anything: they are forked off a server that imported it once.

A worker that is spawned takes three seconds of a core to import torch, a command one or two for the rest, and
the suite starts hundreds. What a process is like that is really started is tested where a test uses
`tests.cli.helper.command`, and by drivers that are processes of their own, whose workers are spawned.
"""

import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.context import ForkServerContext, ForkServerProcess, SpawnContext
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

from autotune.compile.workers import DEFAULT_MEMORY_LIMIT_BYTES
from autotune.processes import spawning

_IMPORTED = ["torch", "autotune.measure.requests", "autotune.tuning.run", "autotune.cli.outcome"]


def install() -> None:
    """From now on this process starts its workers so."""
    spawning.SpawnContext = _Context  # type: ignore[misc]


def autotune(arguments: Sequence[str], environment: Mapping[str, str]) -> "CompletedProcess[str]":
    """A command of autotune in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        said = [Path(folder, name) for name in ("stdout", "stderr")]
        for path in said:
            path.touch()
        process = _process(_command, arguments, os.getcwd(), said, environment=environment)
        process.start()
        process.join()
        return CompletedProcess(arguments, process.exitcode, *(path.read_text("utf-8") for path in said))


def _command(arguments: Sequence[str], folder: str, said: Sequence[Path]) -> None:
    """In the process: what the interpreter does before it runs the module, and then the module."""
    os.chdir(folder)
    for path, stream in zip(said, (sys.stdout, sys.stderr), strict=True):
        file = os.open(path, os.O_WRONLY)
        os.dup2(file, stream.fileno())
        os.close(file)
        stream.reconfigure(encoding="utf-8")
    warnings.simplefilter("ignore")
    sys.argv = ["autotune", *arguments]
    from autotune.__main__ import main

    main()


class _Context(SpawnContext):
    """Stands where `spawning` has its context."""

    def Process(  # type: ignore[override]
        self, *, target: Callable[..., None], args: tuple[Any, ...], daemon: bool
    ) -> Any:
        requests, _, memory_limit = args
        if memory_limit not in (None, DEFAULT_MEMORY_LIMIT_BYTES):  # what the server imported counts
            return SpawnContext().Process(target=target, args=args, daemon=daemon)
        return _process(_serve, target, requests, memory_limit, daemon=daemon)


def _serve(target: Callable[..., None], *rest: Any) -> None:
    requests, memory_limit = rest
    target(requests, os.getppid(), memory_limit)  # the server stands in for the driver


def _process(
    target: Callable[..., None],
    *arguments: Any,
    environment: Mapping[str, str] = os.environ,
    daemon: bool = False,
) -> ForkServerProcess:
    context = ForkServerContext()
    context.set_forkserver_preload(_IMPORTED)
    return context.Process(target=_begin, args=(dict(environment), target, arguments), daemon=daemon)


def _begin(environment: Mapping[str, str], target: Callable[..., None], arguments: Sequence[Any]) -> None:
    """In the process: the environment of whoever wanted it, in place of the server's."""
    os.environ.clear()
    os.environ.update(environment)
    target(*arguments)
