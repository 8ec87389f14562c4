"""From winners in the store to a bundle on disk."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autotune.backends import load_backend
from autotune.errors import UserError
from autotune.export.bundle import MANIFEST, write_bundle
from autotune.export.env_file import env_text
from autotune.export.manifest import manifest_json
from autotune.export.operator_json import FILE_NAME, VARIABLE, operator_json
from autotune.problem import Layer, Stage
from autotune.results import Kind
from autotune.store.records import WinnerRecord
from autotune.store.store import Store

ENV_FILE = "autotune.env"


@dataclass(frozen=True)
class Selection:
    """Which winners to export. None: those of the most recent run that has any.

    Attributes:
        device: part of the device's name, e.g. `MI325X`.
    """

    backend: str = "triton"
    layer: Layer | None = None
    device: str | None = None
    allow_estimates: bool = False


@dataclass(frozen=True)
class Exported:
    """A bundle that was written.

    Attributes:
        files: names, the manifest included.
    """

    folder: Path
    winners: Sequence[WinnerRecord]
    files: Sequence[str]


def export(store: Store, folder: Path, selection: Selection, *, bundle_path: str | None = None) -> Exported:
    """Writes the chosen winners to `folder`.

    Args:
        bundle_path: where the serving process will find the folder; None: where it is now.

    Raises:
        UserError: there is nothing that may be exported, or the folder cannot be written.
    """
    winners = select(store, selection)
    where = bundle_path or str(folder.resolve())
    variables = {VARIABLE: f"{where.rstrip('/')}/{FILE_NAME}", **_environment(winners)}
    device = winners[0].environment.device
    files = {
        FILE_NAME: operator_json(winners[0].problem.layer, winners),
        ENV_FILE: env_text(variables, f"autotune: {winners[0].problem.layer.model}, {device}"),
    }
    manifest = manifest_json(winners, files)
    write_bundle(folder, {**files, MANIFEST: manifest})
    store.record_export(
        folder,
        hashlib.sha256(manifest.encode()).hexdigest(),
        [winner.id for winner in winners],
        unmeasured_allowed=selection.allow_estimates,
    )
    return Exported(folder, winners, [*files, MANIFEST])


def select(store: Store, selection: Selection) -> list[WinnerRecord]:
    """The newest winner of each number of tokens, of one layer on one stack, ascending by tokens.

    Raises:
        UserError: none is there, or all are estimates and those are not allowed.
    """
    every = [
        winner
        for winner in store.winners(backend=selection.backend)
        if (selection.layer is None or winner.problem.layer == selection.layer)
        and (selection.device is None or selection.device.lower() in winner.environment.device.lower())
    ]
    if not every:
        raise UserError(
            f"no winner of backend {selection.backend} matches in {store.location}:"
            " tune first with autotune run"
        )
    measured = [winner for winner in every if winner.kind is Kind.MEASURED]
    usable = measured or (every if selection.allow_estimates else [])
    if not usable:
        kinds = " and ".join(sorted({f"{winner.kind}s" for winner in every}))
        raise UserError(
            f"only {kinds} match in {store.location}, nothing measured: run on the card first,"
            " or pass --allow-estimates"
        )
    newest = max(usable, key=lambda winner: winner.id)
    chosen: dict[int, WinnerRecord] = {}
    for winner in sorted(usable, key=lambda winner: winner.id):
        if winner.problem.layer == newest.problem.layer and winner.environment == newest.environment:
            chosen[winner.problem.tokens] = winner
    return [chosen[tokens] for tokens in sorted(chosen)]


def _environment(winners: Sequence[WinnerRecord]) -> dict[str, str]:
    """The process environment that the winners' kernels need; one process serves them all.

    Raises:
        UserError: two winners need unlike values.
    """
    variables: dict[str, str] = {}
    backend = load_backend(winners[0].backend)
    for winner in winners:
        for stage in Stage:
            for name, value in backend.environment(winner.config.of(stage)).items():
                if variables.setdefault(name, value) != value:
                    raise UserError(
                        f"winners at unlike shapes need {name}={variables[name]} and {name}={value},"
                        " which one process cannot have: export one shape at a time"
                    )
    return variables
