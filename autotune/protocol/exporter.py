"""Types of an export: `autotune export` asks a backend's `Exporter`, and writes what it says.

A registration names its exporter, a class, and the knobs of the process where there are some:

    Registration("toy", kernels="toy_backend:Toy", exporter="toy_export:ToyExporter")

The winners are chosen, and the setting of the process where the knobs are global, before the exporter is
asked. The environment's four texts, launch examples and the manifest are made of its answer.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, runtime_checkable

from autotune.errors import UserError
from autotune.machine.devices import Device, known_device
from autotune.machine.targets import Kind
from autotune.problem.layer import Stage
from autotune.protocol.backend import Backend
from autotune.protocol.registry import instance, registration
from autotune.store.records import WinnerRecord

if TYPE_CHECKING:
    from autotune.store.store import Store

ESTIMATES_FILE: Final = "ESTIMATES.txt"
"""Stands beside a file whose reader allows nothing in it but entries."""


@dataclass(frozen=True)
class Place:
    """Where a bundle will serve. None: as on the machine that measured.

    Attributes:
        folder: path under which the serving process finds the bundle.
        device_name: the GPU's name as the engine makes it.
        triton_version: of the Triton that the engine runs.
        source: files of the engine that serves, a source tree or wheel on this machine; None: the installed
            one, where there is one.
        root: the folder that holds the engine where it serves; None: where the source is here.
    """

    folder: str
    device_name: str | None = None
    triton_version: str | None = None
    source: Path | None = None
    root: str | None = None


@dataclass(frozen=True)
class Request:
    """What an exporter is asked for.

    Attributes:
        winners: of one layer on one stack, ascending by tokens.
        kernels: their backend.
        store: where their finals are.
        setting: variables of the process that hold at every shape, where the backend's knobs are such; None:
            they are not.
    """

    winners: Sequence[WinnerRecord]
    kernels: Backend
    store: "Store"
    place: Place
    setting: Mapping[str, str] | None = None

    def environment(self) -> dict[str, str]:
        """The process environment that the winners' kernels need; one process serves them all.

        Raises:
            UserError: two winners need unlike values.
        """
        variables: dict[str, str] = {}
        configs = [winner.config.of(stage) for winner in self.winners for stage in Stage]
        for name, value in (pair for c in configs for pair in self.kernels.environment(c).items()):
            if variables.setdefault(name, value) != value:
                raise UserError(
                    f"winners at unlike shapes need {name}={variables[name]} and {name}={value},"
                    " which one process cannot have: export one shape at a time"
                )
        return variables


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

    def lines(self) -> Iterator[str]:
        """The file's name, then a line for each run of token counts that one key serves."""
        yield self.file
        width = max((len(str(row.key)) for row in self.rows), default=1)
        for _, run in groupby(self.rows, key=lambda row: row.key):
            rows = list(run)
            tokens = ", ".join(str(row.tokens) for row in rows)
            yield f"  key {rows[0].key:>{width}} for M = {tokens} ({rows[0].source}): {rows[0].text}"


@dataclass(frozen=True)
class Content:
    """An exporter's files and what else it has to say.

    Attributes:
        files: path in the bundle, `/` between its parts, to text.
        variables: process environment that makes the engine read them, and that the kernels need.
        lookups: for the manifest: what each engine must find, for `autotune verify`.
        previews: the key -> tokens tables.
        notes: sentences for the user.
        winners: what the files make of each winner's shape, where that is not always its own config; None:
            it is.
    """

    files: Mapping[str, str]
    variables: Mapping[str, str]
    lookups: Mapping[str, Any] = field(default_factory=dict)
    previews: tuple[Preview, ...] = ()
    notes: tuple[str, ...] = ()
    winners: Sequence[WinnerRecord] | None = None


@dataclass(frozen=True)
class Stack:
    """What must serve both arms of a launch example.

    Attributes:
        text: for people.
        environment: what leads the engine to the backend's kernels, with and without the bundle.
        required: a variable that the stack itself must have set; "": none.
        arguments: of the engine's command, for the same.
    """

    text: str
    environment: Mapping[str, str] = field(default_factory=dict)
    required: str = ""
    arguments: tuple[str, ...] = ()


@runtime_checkable
class Exporter(Protocol):
    """Makes of a backend's winners the files and variables that their engine reads; it has no state.

    Attributes:
        format: its name, for `--format`.
        options: fields of `Place` by which it goes besides the folder; a command line with others is refused.
        stacks: by the engine of a launch example, what of it runs the backend's kernels.
    """

    format: str
    options: frozenset[str]
    stacks: Mapping[str, Stack]

    def content(self, request: Request) -> Content:
        """The files of these winners.

        Raises:
            UserError: they fit no file, or something that the files need is not known.
        """


def load_exporter(backend: str) -> Exporter:
    """The exporter that a backend's registration names.

    Raises:
        UserError: the backend is unknown, brings none, or what it brings is none.
    """
    path = registration(backend).exporter
    if not path:
        raise UserError(
            f"backend {backend!r} brings no exporter, so nothing is known that would read its winners: name"
            " one in its registration (docs/add-a-backend.md)"
        )
    exporter: Exporter = instance(backend, path, Exporter)
    return exporter


def estimate_note(winners: Sequence[WinnerRecord]) -> str | None:
    """What every file of a bundle says where its winners are estimates; None: they were measured."""
    if all(winner.kind is Kind.MEASURED for winner in winners):
        return None
    device = winners[0].environment.device.removeprefix("offline:")
    return f"ESTIMATES for {device}: chosen by a formula on the compiled code, nothing here was measured"


def device_of(winner: WinnerRecord, rule: str) -> Device:
    """The GPU that a winner was made for, by which the engine's own choice is known.

    Args:
        rule: what is not known where the GPU is not, in words.

    Raises:
        UserError: it is in no table.
    """
    name = winner.environment.device
    device = known_device(name.removeprefix("offline:"))
    if device is None:
        raise UserError(
            f"{rule} on {name!r} is not known, which the file needs where nothing was tuned:"
            " add the GPU to autotune/machine/devices.py"
        )
    return device


def source_of(winner: WinnerRecord) -> str:
    """Where a winner's entry comes from, for a preview."""
    if winner.kind is Kind.MEASURED:
        return "default, confirmed" if winner.kept_default else "tuned"
    return "default, by estimate" if winner.kept_default else "estimate"
