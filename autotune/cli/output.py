"""Writes for the commands: to standard streams that take any text, and JSON that is JSON."""

import codecs
import io
import json
import math
import os
import sys
import unicodedata
from typing import Any, Final, TextIO

import typer

CLOSED_PIPE: Final = 141
"""Exit code of a command whose reader has gone: what the shell gives for SIGPIPE."""

_SPELLED: Final = {
    "µ": "u", "…": "...", "→": "->", "×": "x", "–": "-", "—": "-", "≥": ">=", "≤": "<=", "±": "+-",
    "·": "*", "━": "=", "╸": "=", "╺": "=", "’": "'", "‘": "'", "“": '"', "”": '"', "∞": "inf",
}  # fmt: skip
_ASCII: Final = "autotune-ascii"


def prepare_streams() -> None:
    """Makes standard output and error take every character, in whatever encoding, and be there at all.

    What an encoding lacks is spelled in ASCII: `us` for µs. A closed stream becomes the null device.
    """
    codecs.register_error("autotune", _spell)
    codecs.register(_ascii_codec)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 for the process's life
        elif isinstance(stream, io.TextIOWrapper):
            ascii_only = codecs.lookup(stream.encoding).name == "ascii"
            stream.reconfigure(errors="autotune", encoding=_ASCII if ascii_only else stream.encoding)


def _spell(error: UnicodeError) -> tuple[str, int]:
    """A codec's error handler: the nearest ASCII text for what cannot be encoded."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    spelled = (_SPELLED.get(c) or _plain(c) for c in error.object[error.start : error.end])
    return "".join(spelled), error.end


def _plain(character: str) -> str:
    plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return plain or character.encode("ascii", "backslashreplace").decode()


def _ascii_codec(name: str) -> codecs.CodecInfo | None:
    """ASCII under another name: to a stream that calls itself ASCII Typer would send UTF-8 all the same."""
    if name.replace("_", "-") != _ASCII:
        return None
    known = codecs.lookup("ascii")
    return codecs.CodecInfo(
        known.encode,
        known.decode,
        known.streamreader,
        known.streamwriter,
        known.incrementalencoder,
        known.incrementaldecoder,
        name=_ASCII,
    )


def is_broken(stream: TextIO) -> bool:
    """Whether nothing that is written to a stream reaches where it goes; writes a line to see."""
    try:
        print(file=stream, flush=True)
    except OSError:
        return True
    return False


def silence(*names: str) -> None:
    """Sends streams to the null device: their reader has gone, and Python's last flush must not say so."""
    null = os.open(os.devnull, os.O_WRONLY)
    for name in names:
        try:
            os.dup2(null, getattr(sys, name).fileno())
        except (OSError, ValueError, AttributeError):
            continue  # not a file of its own, as in a test


def print_json(content: Any) -> None:
    """Prints JSON to standard output. What is not finite is null: JSON has no word for it."""
    typer.echo(json.dumps(_finite(content), indent=2, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value
