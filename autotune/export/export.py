"""From winners in the store to a bundle on disk."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autotune.errors import UserError
from autotune.export.bundle import MANIFEST, write_bundle
from autotune.export.content import Place, Preview
from autotune.export.env_file import env_files
from autotune.export.env_knobs import env_knobs
from autotune.export.formats import content_of
from autotune.export.global_env import Setting, choose, decision_json
from autotune.export.manifest import manifest_json
from autotune.export.mix import UNTOLD, Decision, Mix
from autotune.problem import Layer
from autotune.results import Kind
from autotune.store.records import WinnerRecord
from autotune.store.store import Store

Extras = Callable[[Sequence[WinnerRecord], Mapping[str, str]], Mapping[str, str]]
"""Makes further files of a bundle from its winners and its process environment."""


def no_extras(winners: Sequence[WinnerRecord], variables: Mapping[str, str]) -> Mapping[str, str]:
    """Nothing but the format's own files."""
    return {}


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


@dataclass(frozen=True)
class Plan:
    """A bundle before it is written.

    Attributes:
        files: path in the bundle to text, the manifest included.
    """

    winners: Sequence[WinnerRecord]
    files: Mapping[str, str]
    previews: Sequence[Preview]
    notes: Sequence[str]
    decision: Decision[Setting] | None = None


def plan(
    store: Store,
    selection: Selection,
    place: Place,
    *,
    mix: Mix = UNTOLD,
    extras: Extras = no_extras,
) -> Plan:
    """What an export of the chosen winners would write.

    Args:
        mix: traffic over which a process-global setting is chosen.
        extras: further files, made from the process environment, e.g. launch examples.

    Raises:
        UserError: there is nothing that may be exported, or it fits no file.
    """
    winners = select(store, selection)
    knobs = env_knobs(winners[0].backend)
    decision, setting = None, None
    if knobs and len(winners) == 1 and winners[0].confirmation is None:
        # One estimate, which the user let in: there is nothing to choose from.
        setting = knobs.variables(winners[0].config, winners[0].default)
    elif knobs:
        decision = choose(store, winners, knobs, mix)
        setting = dict(decision.setting)
    deployed = knobs.deployment(setting) if knobs and setting is not None else None
    content = content_of(winners, place, deployed)
    comment = f"autotune: {winners[0].problem.layer.model}, {winners[0].environment.device}"
    files = {
        **content.files,
        **env_files(content.variables, comment),
        **extras(winners, content.variables),
    }
    manifest = manifest_json(
        winners,
        files,
        serving_folder=place.folder,
        variables=content.variables,
        lookups=content.lookups,
        decision=decision_json(decision) if decision else None,
        checks={winner.id: store.verdicts_of(winner) for winner in winners},
    )
    return Plan(winners, {**files, MANIFEST: manifest}, content.previews, content.notes, decision)


def write(store: Store, folder: Path, made: Plan, *, allow_estimates: bool) -> Exported:
    """Writes a planned bundle and records it.

    Raises:
        UserError: the folder cannot be written.
    """
    write_bundle(folder, made.files)
    store.record_export(
        folder,
        hashlib.sha256(made.files[MANIFEST].encode()).hexdigest(),
        [winner.id for winner in made.winners],
        unmeasured_allowed=allow_estimates,
    )
    return Exported(folder, made.winners, list(made.files))


def export(store: Store, folder: Path, selection: Selection, *, bundle_path: str | None = None) -> Exported:
    """Writes the chosen winners to `folder`.

    Args:
        bundle_path: where the serving process will find the folder; None: where it is now.

    Raises:
        UserError: there is nothing that may be exported, or the folder cannot be written.
    """
    place = Place(serving_folder(folder, bundle_path))
    return write(store, folder, plan(store, selection, place), allow_estimates=selection.allow_estimates)


def serving_folder(folder: Path, bundle_path: str | None) -> str:
    """The path under which the serving process finds a bundle."""
    return (bundle_path or str(folder.resolve())).rstrip("/")


def select(store: Store, selection: Selection) -> list[WinnerRecord]:
    """The newest winner of each number of tokens, of one layer on one stack, ascending by tokens.

    Raises:
        UserError: none is there, all are estimates and those are not allowed, or one's machine code was found
            wrong.
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
    every = [winner for winner in every if winner.kind is not Kind.REPLAYED]
    if not every:
        raise UserError(
            f"only replayed figures match in {store.location}, and those are never exported: run on the card"
        )
    measured = [winner for winner in every if winner.kind is Kind.MEASURED]
    usable = measured or (every if selection.allow_estimates else [])
    if not usable:
        kinds = " and ".join(sorted({f"{winner.kind}s" for winner in every}))
        raise UserError(
            f"only {kinds} match in {store.location}, nothing measured: run on the card first,"
            " or pass --allow-estimates"
        )
    # By time, not by id: what a merge brought in may be older than what was here.
    newest = max(usable, key=lambda winner: winner.created_at)
    chosen: dict[int, WinnerRecord] = {}
    for winner in sorted(usable, key=lambda winner: winner.created_at):
        if winner.problem.layer == newest.problem.layer and winner.environment == newest.environment:
            chosen[winner.problem.tokens] = winner
    for winner in chosen.values():
        for stage, verdict in store.verdicts_of(winner).items():
            if verdict.wrong:
                raise UserError(
                    f"the {winner.kind} winner of {winner.problem.shape} is wrong, its {stage} machine code"
                    f" was executed ({verdict.text}): run again, it will not be chosen"
                )
    return [chosen[tokens] for tokens in sorted(chosen)]
