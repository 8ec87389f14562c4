"""Runs the command line as a user does."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Protocol

from tests import warm

ROOT = Path(__file__).parents[2]


class Refused(Protocol):
    """The fixture `refused`."""

    def __call__(self, *arguments: str) -> str: ...


def autotune(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """`autotune ARGUMENTS` in a process of its own, as if no GPU were here."""
    return warm.autotune([str(argument) for argument in arguments], env(**environment))


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-W", "ignore", "-m", "autotune", *(str(a) for a in arguments)]


def env(**environment: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), **environment}


def heed_signals() -> None:
    """In a child, before it runs: in the background, or under nohup, it inherits signals that are ignored."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_DFL)
