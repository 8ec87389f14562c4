"""From winners in the store to a bundle on disk."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Final

from autotune.errors import UserError
from autotune.export.bundle import write_bundle
from autotune.export.deploy import deploy_files
from autotune.export.env_file import env_files
from autotune.export.manifest import manifest_json
from autotune.export.process_setting import decide_setting, decision_json, deployed
from autotune.export.shape_log import ShapeLog
from autotune.machine.targets import Kind
from autotune.problem.layer import Layer
from autotune.problem.models import FUSED_SHARED, known_needs, requantised
from autotune.protocol import DEFAULT_BACKEND
from autotune.protocol.bundle import ENV_FILE, MANIFEST
from autotune.protocol.exporter import Place, Preview, Request, estimate_note, load_exporter
from autotune.protocol.legality import require_computed
from autotune.protocol.mix import UNTOLD, Mix, MixDecision
from autotune.protocol.process_knobs import Setting, process_knobs
from autotune.protocol.registry import load_backend
from autotune.store.records import WinnerRecord
from autotune.store.store import Store


@dataclass(frozen=True)
class Selection:
    """Which winners to export. None: those of the most recent run that has any.

    Attributes:
        device: part of the device's name, e.g. `MI325X`.
        requantised: the experts that are served are in the backend's numbers, not in the checkpoint's.
        tp, ep: of this tensor-parallel, expert-parallel degree only.
        fused_shared: of a layer that routes to the shared experts only.
    """

    backend: str = DEFAULT_BACKEND
    layer: Layer | None = None
    device: str | None = None
    allow_estimates: bool = False
    requantised: bool = False
    tp: int | None = None
    ep: int | None = None
    fused_shared: bool = False

    def takes(self, winner: WinnerRecord) -> bool:
        """Whether a winner is one of these."""
        layer = winner.problem.layer
        return (
            self.layer in (None, layer)
            and self.tp in (None, layer.tp)
            and self.ep in (None, layer.ep)
            and (not self.fused_shared or layer.model.endswith(FUSED_SHARED))
            and (self.device is None or self.device.lower() in winner.environment.device.lower())
        )

    def __str__(self) -> str:
        """The selection as the user made it."""
        asked = [f"of backend {self.backend}"]
        asked += [f"for {self.layer.key}"] if self.layer else []
        asked += [f"at TP {self.tp}"] if self.tp else []
        asked += [f"at EP {self.ep}"] if self.ep else []
        asked += ["with fused shared experts"] if self.fused_shared else []
        return " ".join([*asked, *([f"on a device called {self.device}"] if self.device else [])])

    def served(self, layer: Layer) -> Layer:
        """A winner's layer with what the model that is served needs: as told, else as known by its name."""
        needs = self.layer.needs if self.layer is not None else known_needs(layer.model)
        # With a layer it was asked of the model already.
        if self.requantised and self.layer is None:
            needs = requantised(layer.model, needs)
        return replace(layer, needs=needs)


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
    decision: MixDecision[Setting] | None = None


def plan(
    store: Store,
    selection: Selection,
    place: Place,
    *,
    mix: Mix = UNTOLD,
    log: ShapeLog | None = None,
    deploy: str | None = None,
) -> Plan:
    """What an export of the chosen winners would write.

    Args:
        mix: traffic over which a process-global setting is chosen.
        log: the same, recorded, in place of the mix's weights.
        deploy: the engine that launch examples are for.

    Raises:
        UserError: there is nothing that may be exported, or it fits no file.
    """
    exporter = load_exporter(selection.backend)
    own, newest = _select(store, selection)
    backend = load_backend(selection.backend)
    require_computed(backend, selection.backend, selection.served(own[0].problem.layer))
    knobs = process_knobs(selection.backend, own[0].environment.kernel_source)
    winners: Sequence[WinnerRecord] = own
    decision, variables = None, None
    if knobs:
        decision = decide_setting(store, own, knobs, backend, mix, log)
        # One estimate, which the user let in: there is nothing to choose from.
        setting = dict(decision.setting) if decision else knobs.variables(own[0].config, own[0].default)
        variables = knobs.deployment(setting)
        winners = deployed(own, knobs, decision) if decision else own
    content = exporter.content(Request(winners, backend, store, place, variables))
    winners = winners if content.winners is None else content.winners
    _refuse_other_places(selection.backend, content.files)
    lines = [
        f"autotune: {winners[0].problem.layer.model}, {winners[0].environment.device}",
        estimate_note(winners),
    ]
    comment = "\n".join(line for line in lines if line)
    files = {
        **content.files,
        **env_files(content.variables, comment),
        **(deploy_files(deploy, place.folder, winners, content.variables) if deploy else {}),
    }
    manifest = manifest_json(
        winners,
        files,
        serving_folder=place.folder,
        variables=content.variables,
        lookups=content.lookups,
        decision=decision_json(decision) if decision else None,
        requantised=selection.requantised,
        # What was executed is the winner's own code, which a setting for all shapes may not be.
        checks={
            winner.id: verdicts
            for winner, before, verdicts in zip(winners, own, store.verdicts_of(winners), strict=True)
            if winner.config == before.config
        },
    )
    notes = (*content.notes, *_left_out(newest, selection, own))
    return Plan(winners, {**files, MANIFEST: manifest}, content.previews, notes, decision)


def _refuse_other_places(backend: str, names: Iterable[str]) -> None:
    """Keeps an exporter to files of its own in the bundle.

    Raises:
        UserError: one is not in the folder, or is the bundle's.
    """
    for name in names:
        parts = PurePosixPath(name).parts
        if not parts or parts[0] in ("/", "env", "deploy", ENV_FILE, MANIFEST) or ".." in parts:
            raise UserError(
                f"the exporter of backend {backend} names a file {name!r}, which is not its own: name one"
                " in a folder of the exporter's"
            )


def write(store: Store, folder: Path, planned: Plan, *, allow_estimates: bool) -> Exported:
    """Writes a planned bundle and records it.

    Raises:
        UserError: the folder cannot be written.
    """
    write_bundle(folder, planned.files)
    store.record_export(
        folder,
        hashlib.sha256(planned.files[MANIFEST].encode()).hexdigest(),
        [winner.id for winner in planned.winners],
        unmeasured_allowed=allow_estimates,
    )
    return Exported(folder, planned.winners, list(planned.files))


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
    """The path under which the serving process finds a bundle.

    Raises:
        UserError: `bundle_path` is relative, and would mean another folder wherever a server is started.
    """
    if bundle_path is not None and not PurePosixPath(bundle_path).is_absolute():
        raise UserError(
            f"--bundle-path {bundle_path!r} is not absolute: give the folder's whole path where it serves,"
            " e.g. /opt/autotune"
        )
    return (bundle_path or str(folder.resolve())).rstrip("/")


def select(store: Store, selection: Selection) -> list[WinnerRecord]:
    """The newest winner of each number of tokens, of one layer on one stack, ascending by tokens.

    Raises:
        UserError: none is there, all are estimates and those are not allowed, or one's machine code was found
            wrong.
    """
    return _select(store, selection)[0]


def _select(store: Store, selection: Selection) -> tuple[list[WinnerRecord], Sequence[WinnerRecord]]:
    """See `select`; and the newest winners of that kind, taken or not."""
    for kind in (Kind.MEASURED, Kind.ESTIMATE) if selection.allow_estimates else (Kind.MEASURED,):
        latest = store.winners(backend=selection.backend, kind=kind, newest=_LOOK_AT)
        newest = next(filter(selection.takes, reversed(latest)), None)
        if newest is None and len(latest) == _LOOK_AT:
            every = store.winners(backend=selection.backend, kind=kind)
            newest = next(filter(selection.takes, reversed(every)), None)
        if newest is not None:
            break
    else:
        raise _nothing(store, selection)
    alike = store.winners(backend=selection.backend, kind=newest.kind, environment_key=newest.environment.key)
    chosen = {
        winner.problem.tokens: winner for winner in alike if winner.problem.layer == newest.problem.layer
    }
    winners = [chosen[tokens] for tokens in sorted(chosen)]
    for winner, verdicts in zip(winners, store.verdicts_of(winners), strict=True):
        for stage, verdict in verdicts.items():
            if verdict.wrong:
                raise UserError(
                    f"the {winner.kind} winner of {winner.problem.shape} is wrong, its {stage} machine code"
                    f" was executed ({verdict.text}): run again, it will not be chosen"
                )
    return winners, latest


_LOOK_AT: Final = 100
"""So many of the newest winners are looked at before all are read: mostly the first will do."""


def _left_out(
    newest: Sequence[WinnerRecord], selection: Selection, chosen: Sequence[WinnerRecord]
) -> list[str]:
    """What the selection takes besides, where that is of another layer, GPU or stack; a sentence, or none."""
    layer, stack = chosen[0].problem.layer, chosen[0].environment
    covered = {winner.problem.tokens for winner in chosen}
    shapes: dict[str, dict[str, None]] = {}
    for winner in newest:
        other, on = winner.problem, winner.environment
        alike = other.layer == layer and on.device == stack.device
        if selection.takes(winner) and not (alike and (on.key == stack.key or other.tokens in covered)):
            place = f"{other.layer.title} on {on.device}" + (", another stack" if alike else "")
            shapes.setdefault(place, {})[other.shape] = None
    if not shapes:
        return []
    listed = "; ".join(f"{', '.join(names)} of {place}" for place, names in shapes.items())
    return [
        f"a bundle is of one layer on one stack, the newest; left out: {listed} (--model, --tp, --ep and"
        " --device choose)"
    ]


def _nothing(store: Store, selection: Selection) -> UserError:
    """Why no winner is exported."""
    kinds = {w.kind for w in store.winners(backend=selection.backend) if selection.takes(w)}
    if not kinds:
        return UserError(f"no winner {selection} is in {store.location}: tune first with autotune run")
    if kinds == {Kind.REPLAYED}:
        return UserError(
            f"only replayed times match in {store.location}, and those are never exported: run on the GPU"
        )
    return UserError(
        f"only estimates match in {store.location}, nothing measured: run on the GPU first,"
        " or pass --allow-estimates"
    )
