"""Finds the winners and bundles that no longer fit the stack of this machine."""

import hashlib
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from autotune.errors import UserError
from autotune.machine.fingerprint import Fingerprint
from autotune.machine.probe import has_gpu, probe
from autotune.machine.targets import TRITON_DISTRIBUTIONS, Kind, package_version
from autotune.protocol.bundle import MANIFEST
from autotune.protocol.registry import load_backend
from autotune.store.records import ExportRecord, WinnerRecord
from autotune.store.store import Store

_STACK: Final = "autotune.measure.machine:this_stack"
_GPU: Final = frozenset({"device", "arch", "compute_units"})
_NOT_TOLD: Final = frozenset({"backend", "kernel_source"})  # the kernels', not the machine's


@dataclass(frozen=True)
class MachineStack:
    """What this machine tells of itself.

    Attributes:
        fields: of a `Fingerprint`; those that it does not tell are missing.
        gpu: one was asked.
    """

    fields: Mapping[str, Any]
    gpu: bool


@dataclass(frozen=True)
class WinnerStatus:
    """A winner against this machine.

    Attributes:
        differs: fields as `name: as measured -> here`; empty: it fits.
        unknown: why it cannot be told in full; "": it can.
    """

    winner: WinnerRecord
    differs: tuple[str, ...]
    unknown: str

    @property
    def other_gpu(self) -> str:
        """How the GPU here differs from the one that it was measured on; "": it does not, or none is here."""
        lines = [line for line in self.differs if line.partition(":")[0] in _GPU]
        return "; ".join(lines)

    @property
    def verdict(self) -> str:
        """In words."""
        if self.other_gpu:
            return f"DIFFERENT GPU: {'; '.join(self.differs)}"
        if self.differs:
            return f"STALE: {'; '.join(self.differs)}"
        return f"fits, as far as is known: {self.unknown}" if self.unknown else "fits"


@dataclass(frozen=True)
class BundleStatus:
    """A bundle against the disk and the winners.

    Attributes:
        problems: a sentence each; empty: it is as it was exported, of winners that fit.
    """

    export: ExportRecord
    problems: tuple[str, ...]


def stack_names(stack: Fingerprint) -> list[str]:
    """The stack's parts in words; what had no part in the times is left out."""
    parts = {"driver": stack.driver, "torch": stack.torch, "Triton": stack.triton}
    runtime = [] if stack.runtime == "none" else [stack.runtime]
    return [stack.device, *runtime, *(f"{name} {version}" for name, version in parts.items() if version)]


def this_stack() -> MachineStack:
    """Asks the GPU in a process of its own; without one the installed packages are all that is known."""
    if has_gpu():
        with suppress(UserError):  # no torch sees it
            told = probe(_STACK)
            return MachineStack({name: told[name] for name in told.keys() - _NOT_TOLD}, gpu=True)
    versions = {"triton": package_version(*TRITON_DISTRIBUTIONS)}
    return MachineStack({name: value for name, value in versions.items() if value is not None}, gpu=False)


def winners_status(store: Store, stack: MachineStack) -> list[WinnerStatus]:
    """Every latest winner, oldest first."""
    digests: dict[str, str | UserError] = {}
    return [_winner(winner, stack, digests) for winner in store.winners()]


def _winner(winner: WinnerRecord, stack: MachineStack, digests: dict[str, str | UserError]) -> WinnerStatus:
    unknown = [] if stack.gpu or winner.kind is Kind.ESTIMATE else ["no GPU here to compare with"]
    here = dict(stack.fields)
    source = digests.setdefault(winner.backend, _source(winner.backend))
    if isinstance(source, UserError):
        unknown.append(f"the kernels of {winner.backend} are not here")
    else:
        here["kernel_source"] = source
    if winner.kind is Kind.ESTIMATE:
        # No device had a part in it: the compiler and the kernels are all that can have changed.
        here = {name: here[name] for name in ("triton", "kernel_source") if name in here}
    return WinnerStatus(winner, tuple(winner.environment.differences(here)), ", ".join(unknown))


def _source(backend: str) -> str | UserError:
    try:
        return load_backend(backend).source_digest()
    except UserError as error:
        return error


def bundles_status(store: Store, winners: Sequence[WinnerStatus]) -> list[BundleStatus]:
    """The latest export to each folder, oldest first."""
    latest = {(export.host, export.bundle_path): export for export in store.exports()}
    by_id = {status.winner.id: status for status in winners}
    return [BundleStatus(export, tuple(_problems(export, by_id))) for export in latest.values()]


def _problems(export: ExportRecord, winners: Mapping[int, WinnerStatus]) -> list[str]:
    problems = []
    if export.host == socket.gethostname():
        manifest = Path(export.bundle_path) / MANIFEST
        if not manifest.is_file():
            return ["it was deleted"]
        if hashlib.sha256(manifest.read_bytes()).hexdigest() != export.manifest_hash:
            problems.append("the folder now holds another bundle, or a changed one")
    replaced = [winner for winner in export.winners if winner not in winners]
    if replaced:
        problems.append(f"{len(replaced)} of its {len(export.winners)} winners have newer ones: export again")
    known = [winners[winner] for winner in export.winners if winner in winners]
    foreign = [status for status in known if status.other_gpu]
    if foreign:
        problems.append(f"it is for another GPU ({foreign[0].other_gpu}): tune on this one")
    stale = [status for status in known if status.differs and not status.other_gpu]
    if stale:
        problems.append(f"{len(stale)} of its {len(export.winners)} winners are stale here: tune again")
    if export.unmeasured_allowed:
        problems.append("it was exported with --allow-estimates: not all of it was measured")
    return problems
