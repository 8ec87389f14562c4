"""What a format contributes to a bundle."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from autotune.machine.targets import Kind
from autotune.store.records import WinnerRecord

ESTIMATES_FILE: Final = "ESTIMATES.txt"
"""Stands beside a file whose reader allows nothing in it but entries."""


def estimate_note(winners: Sequence[WinnerRecord]) -> str | None:
    """What every file of a bundle says where its winners are estimates; None: they were measured."""
    if all(winner.kind is Kind.MEASURED for winner in winners):
        return None
    device = winners[0].environment.device.removeprefix("offline:")
    return f"ESTIMATES for {device}: chosen by a formula on the compiled code, nothing here was measured"


def source_of(winner: WinnerRecord) -> str:
    """Where a winner's entry comes from, for a preview."""
    if winner.kind is Kind.MEASURED:
        return "default, confirmed" if winner.kept_default else "tuned"
    return "default, by estimate" if winner.kept_default else "estimate"


@dataclass(frozen=True)
class Place:
    """Where a bundle will serve. None: as on the machine that measured.

    Attributes:
        folder: path under which the serving process finds the bundle.
        device_name: the GPU's name as the engine makes it.
        triton_version: of the Triton that the engine runs.
    """

    folder: str
    device_name: str | None = None
    triton_version: str | None = None


@dataclass(frozen=True)
class Row:
    """A line of a preview: which key serves so many tokens, and what it holds.

    Attributes:
        source: see `source_of`, or `engine's default`.
    """

    tokens: int
    key: int
    source: str
    text: str


@dataclass(frozen=True)
class Preview:
    """What an engine will find, before anything is written.

    Attributes:
        file: path in the bundle.
    """

    file: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Content:
    """A format's files and what else it has to say.

    Attributes:
        files: path in the bundle, `/` between its parts, to text.
        variables: process environment that makes the engine read them.
        lookups: for the manifest: what each engine must find, for `autotune verify`.
        previews: the key -> tokens tables.
        notes: sentences for the user.
    """

    files: Mapping[str, str]
    variables: Mapping[str, str]
    lookups: Mapping[str, Any] = field(default_factory=dict)
    previews: tuple[Preview, ...] = ()
    notes: tuple[str, ...] = ()
