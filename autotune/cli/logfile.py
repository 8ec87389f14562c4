"""`--log-file`: what a command says, and what became of each trial, a line each with its time."""

import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from autotune.errors import UserError
from autotune.text import command_line

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class _Log:
    """A log that is being written."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def line(self, text: str) -> None:
        self._file.write(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {text}\n")
        self._file.flush()


class _Tee:
    """A standard stream whose whole lines go to the log as well; a display redrawn in place does not."""

    def __init__(self, stream: TextIO, log: _Log) -> None:
        self._stream, self._log, self._begun = stream, log, ""

    def write(self, text: str) -> int:
        plain = _COLOUR.sub("", text)
        if "\x1b" not in plain:
            *lines, self._begun = (self._begun + plain).split("\n")
            for line in lines:
                if line.strip():
                    self._log.line(line.rstrip())
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


_current: _Log | None = None


def start(path: Path) -> None:
    """Opens a log, or goes on with one, and sends what is printed there too.

    Raises:
        UserError: it cannot be written.
    """
    global _current
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a", encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}): name another --log-file") from error
    _current = _Log(file)
    note(f"$ {command_line(sys.argv[1:])}")
    sys.stdout = _Tee(sys.stdout, _current)
    sys.stderr = _Tee(sys.stderr, _current)


def note(text: str) -> None:
    """Adds a line to the log, where there is one."""
    if _current is not None:
        _current.line(text)
