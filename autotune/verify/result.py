"""What a verification found."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Check:
    """One lookup.

    Attributes:
        subject: what was looked up, e.g. `stage1 at M = 4`, or a variable's name.
        found: what the engine selects, in words.
        ok: it is the one intended.
        expected: what was intended, in words; "" where `ok`.
    """

    subject: str
    found: str
    ok: bool
    expected: str = ""


@dataclass(frozen=True)
class Verification:
    """A bundle against one engine.

    Attributes:
        engine: with the source that was run.
        reasons: why it fails, a sentence each; empty: it holds.
        notes: what a reader should know besides.
    """

    engine: str
    checks: tuple[Check, ...]
    reasons: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.reasons and all(check.ok for check in self.checks)


def short(entry: Mapping[str, Any] | None) -> str:
    """An entry of a file on one line."""
    return "nothing" if entry is None else " ".join(f"{name}={value}" for name, value in entry.items())
