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
        estimated: nothing in the bundle was measured.
        unchecked_gpu: the GPU that the bundle is for, where there is none here to compare it with; else "".
    """

    engine: str
    checks: tuple[Check, ...]
    reasons: tuple[str, ...]
    notes: tuple[str, ...] = ()
    estimated: bool = False
    unchecked_gpu: str = ""

    @property
    def ok(self) -> bool:
        return not self.reasons and all(check.ok for check in self.checks)

    @property
    def verdict(self) -> str:
        """What came of it, and what it is not about: the lookup says nothing of the times."""
        if not self.ok:
            return "NOT used as meant"
        said = ["verified: found by the engine"]
        if self.estimated:
            said.append("its times are estimates")
        if self.unchecked_gpu:
            said.append(f"it is for {self.unchecked_gpu}, and there is no GPU here to compare")
        return "; ".join(said)


def short(entry: Mapping[str, Any] | None) -> str:
    """An entry of a file on one line."""
    return "nothing" if entry is None else " ".join(f"{name}={value}" for name, value in entry.items())
