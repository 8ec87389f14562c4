"""An engine's own lookup, run on a bundle: who runs it, what it is told, and what it finds."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from autotune.problem.layer import Layer
from autotune.protocol.bundle import Bundle
from autotune.protocol.form import ANY, Form


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
        """Whether every lookup selects what was meant, and nothing else is amiss."""
        return not self.reasons and all(check.ok for check in self.checks)

    @property
    def verdict(self) -> str:
        """What came of it, and what it is not about: the lookup says nothing of the times."""
        if not self.ok:
            return "NOT used as meant"
        parts = ["verified: found by the engine"]
        if self.estimated:
            parts.append("its times are estimates")
        if self.unchecked_gpu:
            parts.append(f"it is for {self.unchecked_gpu}, and there is no GPU here to compare")
        return "; ".join(parts)


def same(selected: Any, intended: Any) -> bool:
    """Whether two entries are the same to a kernel's compiler, to which 64.0 is no 64, nor true 1."""
    return json.dumps(selected, sort_keys=True) == json.dumps(intended, sort_keys=True)


def short(entry: Any) -> str:
    """An entry of a file on one line."""
    if entry is not None and not isinstance(entry, Mapping):
        return json.dumps(entry)
    return "nothing" if entry is None else " ".join(f"{name}={value}" for name, value in entry.items())


@dataclass(frozen=True)
class Serving:
    """What serves a bundle, as far as the user told it.

    Attributes:
        sources: wheels or source trees of the engine; empty: what is installed.
        device_name: of the GPU, as the engine makes it; None: the GPU here, else what the bundle is for.
        triton_version: None: this machine's where it could serve, else what the bundle is for.
        layer: of the model that is served, with its needs; None: the manifest has none, and none was told.
        family: `model_type` of that model; "": it is not known.
    """

    sources: Sequence[Path] = ()
    device_name: str | None = None
    triton_version: str | None = None
    layer: Layer | None = None
    family: str = ""

    @property
    def source(self) -> Path | None:
        """The one source of an engine that has one."""
        return self.sources[0] if self.sources else None


@runtime_checkable
class Verifier(Protocol):
    """What a backend registers for an engine under `verifiers`: `module:class`, made without arguments.

    Attributes:
        sources: sources of the engine that it looks at, at most; 0: the lookup needs none.
        asks_triton: whether the lookup asks for the serving stack's version of Triton.
        judges_gpu: whether it judges the serving GPU; else its name and compute units are compared for it.
        form: of what the manifest says that the engine must find, a `protocol.form.Form`, which is made sure
            of before; None: the bundle need not say anything.
    """

    sources: int = 0
    asks_triton: bool = False
    judges_gpu: bool = False
    form: Form = ANY

    def verify(self, bundle: Bundle, serving: Serving) -> Verification:
        """Looks up everything that `bundle.lookup` says the engine must find.

        Raises:
            UserError: the bundle is not for the engine, or the engine's code is not here.
        """
