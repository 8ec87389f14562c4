"""Writes for people: counts with nouns, percentages, intervals, durations and commands, in one style."""

import re
import shlex
from collections.abc import Sequence

_HISSING = ("s", "x", "sh", "ch")


def counted(number: int, noun: str, *, plural: str = "") -> str:
    """A number with its noun, which agrees with it: `1 trial`, `2,404 legal configs`.

    Args:
        plural: where it is none of `-s`, `-es` and `-ies`.
    """
    if number == 1:
        return f"1 {noun}"
    if not plural:
        if noun.endswith(_HISSING):
            plural = f"{noun}es"
        elif noun.endswith("y") and noun[-2] not in "aeiou":
            plural = f"{noun[:-1]}ies"
        else:
            plural = f"{noun}s"
    return f"{number:,} {plural}"


def percent(fraction: float, *, signed: bool = False) -> str:
    """A share or a gain: `18.8%`, signed `+18.8%`; what rounds to nothing has no sign."""
    text = f"{fraction:+.1%}" if signed else f"{fraction:.1%}"
    return text.lstrip("+-") if float(text[:-1]) == 0 else text


def percent_interval(value: float, low: float, high: float, *, signed: bool = False) -> str:
    """A gain with its interval: `18.8% (95% CI 18.6% to 19.5%)`."""
    texts = [percent(each, signed=signed) for each in (value, low, high)]
    return f"{texts[0]} (95% CI {texts[1]} to {texts[2]})"


def duration(seconds: float) -> str:
    """Wall time as people say it: `8 s`, `3 min`, `2 h 5 min`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def why(error: Exception) -> str:
    """What an error says, for a sentence that names the file itself: no number, and no path again."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def printable(text: str) -> str:
    """A text on one line, with what no terminal prints as an escape: `\\x00`."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def without_passwords(text: str) -> str:
    """An argument that may hold a database's URL, with the password in it replaced by `***`."""
    text = re.sub(r"(://[^:/?#@\s]*:)[^@]*@", r"\1***@", text)
    return re.sub(r"([?&](?:ssl)?password=)[^&]*", r"\1***", text)


def command_line(arguments: Sequence[str]) -> str:
    """A call of this program for the record and for messages, quoted for a shell, without passwords."""
    return shlex.join(["autotune", *map(without_passwords, arguments)])
