"""`autotune export`: the confirmed winners as files that serving loads."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from autotune.cli import complete
from autotune.cli.groups import LayerOptions
from autotune.cli.options import (
    BackendName,
    Database,
    FusedShared,
    Json,
    ModelConfig,
    Quiet,
    Requantised,
    refuse,
)
from autotune.cli.output import print_json
from autotune.protocol import DEFAULT_BACKEND

if TYPE_CHECKING:
    from autotune.export.export import Exported, Plan
    from autotune.protocol.exporter import Exporter


def export(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder of the bundle; an older one in it is replaced.")] = Path(
        "deploy"
    ),
    backend: BackendName = DEFAULT_BACKEND,
    made_as: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="The backend's own format; any other is refused.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Preset whose winners to export; default: of the most recent run.",
            rich_help_panel="Problem",
            autocompletion=complete.models,
        ),
    ] = None,
    model_config: ModelConfig = None,
    tp: Annotated[
        int | None,
        typer.Option(
            help="Tensor-parallel degree; default: of the most recent run, or 8 where a model is named.",
            rich_help_panel="Problem",
        ),
    ] = None,
    ep: Annotated[
        int | None,
        typer.Option(
            help="Expert-parallel degree; default: of the most recent run, or 1 where a model is named.",
            rich_help_panel="Problem",
        ),
    ] = None,
    fused_shared_experts: FusedShared = None,
    requantised: Requantised = False,
    device: Annotated[
        str | None, typer.Option(help="Part of the name of the device that they were measured on.")
    ] = None,
    allow_estimates: Annotated[
        bool, typer.Option("--allow-estimates", help="Also export estimates, which were never measured.")
    ] = False,
    bundle_path: Annotated[
        str | None,
        typer.Option(help="Where serving will find the folder: an absolute path, e.g. in its container."),
    ] = None,
    device_name: Annotated[
        str | None,
        typer.Option(
            help="GPU name as the engine writes it, for file names; default: as measured.",
            rich_help_panel="Serving stack",
        ),
    ] = None,
    triton_version: Annotated[
        str | None,
        typer.Option(
            help="Version of the serving stack's Triton, for SGLang's folder; default: as measured.",
            rich_help_panel="Serving stack",
        ),
    ] = None,
    deploy: Annotated[
        str | None,
        typer.Option(
            help="Add launch examples for sglang or vllm: baseline and tuned arm, with EAGLE3.",
            rich_help_panel="Serving stack",
        ),
    ] = None,
    aiter_source: Annotated[
        Path | None,
        typer.Option(
            help="The serving AITER, a source tree or wheel, with whose tables rows are merged; default: the"
            " installed one.",
            rich_help_panel="Serving stack",
        ),
    ] = None,
    aiter_root: Annotated[
        str | None,
        typer.Option(
            help="Folder that holds aiter/ on the serving machine, e.g. in its container; default: as here.",
            rich_help_panel="Serving stack",
        ),
    ] = None,
    mix: Annotated[
        str | None,
        typer.Option(
            help="Traffic for which process-wide knobs are chosen: tokens=share, e.g. 4=1,160=3; default:"
            " every tuned shape counts the same.",
            rich_help_panel="Global knobs",
        ),
    ] = None,
    shape_log: Annotated[
        Path | None,
        typer.Option(
            help="The traffic, as JSON lines with tokens (AITER's MOE_SHAPE_LOG_PATH).",
            rich_help_panel="Global knobs",
        ),
    ] = None,
    guards: Annotated[
        str,
        typer.Option(
            help="Token counts at which nothing may get slower; or none.", rich_help_panel="Global knobs"
        ),
    ] = "64,512,4096",
    margin: Annotated[
        float,
        typer.Option(
            min=0.0, max=1.0, help="Slowdown that is allowed at a guard.", rich_help_panel="Global knobs"
        ),
    ] = 0.01,
    preview: Annotated[
        bool, typer.Option("--preview", help="Print names and key tables; write nothing.")
    ] = False,
    db: Database = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Write the winners as a bundle: environment files, JSON and manifest.json.

    Exporting again gives equal bytes. Deleting the folder is the rollback.

    Examples:

      autotune export --out deploy

      autotune export --backend sglang --triton-version 3.6.0 --preview

      autotune export --out deploy --bundle-path /opt/autotune --deploy sglang

      autotune export --backend aiter_main --aiter-source ~/aiter --preview
    """
    from dataclasses import asdict

    from autotune.errors import UserError
    from autotune.export.export import Selection, plan, serving_folder, write
    from autotune.export.process_setting import decision_json
    from autotune.export.shape_log import read_shape_log
    from autotune.protocol.exporter import Place, load_exporter
    from autotune.protocol.mix import make_mix
    from autotune.report.winners import as_json as winner_json
    from autotune.report.winners import summarise
    from autotune.store.store import Store

    exporter = load_exporter(backend)
    if made_as not in (None, exporter.format):
        raise UserError(
            f"winners of backend {backend} are served by --format {exporter.format}, not by {made_as}"
        )
    _refuse_what_has_no_effect(context, backend, exporter, guards)
    layer = None
    if model or model_config:
        told = LayerOptions(model or "", model_config, tp or 8, ep or 1, fused_shared_experts, requantised)
        layer = told.layer(backend)
    selection = Selection(
        *(backend, layer, device, allow_estimates, requantised),
        tp=tp,
        ep=ep,
        fused_shared=bool(fused_shared_experts) and layer is None,
    )
    place = Place(serving_folder(out, bundle_path), device_name, triton_version, aiter_source, aiter_root)
    with Store.open(db, create=False) as store:
        with store.at_once():
            planned = plan(
                store,
                selection,
                place,
                mix=make_mix(mix, shape_log, guards, margin),
                log=read_shape_log(shape_log) if shape_log else None,
                deploy=deploy,
            )
        exported = None if preview else write(store, out, planned, allow_estimates=allow_estimates)
        if as_json:
            print_json(
                {
                    "written": exported is not None,
                    "folder": str(exported.folder if exported else out),
                    "files": list(planned.files),
                    "winners": [winner_json(each) for each in summarise(store, planned.winners)],
                    "previews": [asdict(each) for each in planned.previews],
                    "decision": decision_json(planned.decision) if planned.decision else None,
                    "notes": list(planned.notes),
                }
            )
            return
    if quiet and not preview:
        for note in planned.notes:
            typer.echo(f"note: {note}", err=True)
        return
    _print(planned, out, exported, preview)


def _print(planned: "Plan", out: Path, exported: "Exported | None", preview: bool) -> None:
    from autotune.export.process_setting import decision_lines
    from autotune.report.winners import verdict

    for layer in dict.fromkeys(winner.problem.layer for winner in planned.winners):
        typer.echo(layer.title)
    for winner in planned.winners:
        typer.echo(f"{winner.problem.shape} ({winner.problem.tokens_text}): {verdict(winner)}")
    for line in (line for each in planned.previews for line in each.lines()) if preview else ():
        typer.echo(line)
    for line in decision_lines(planned.decision) if planned.decision else ():
        typer.echo(line)
    for note in planned.notes:
        typer.echo(f"note: {note}")
    if exported is None:
        typer.echo(f"nothing written; it would be {', '.join(planned.files)} in {out}")
        return
    typer.echo(f"wrote {', '.join(exported.files)} to {exported.folder}")
    typer.echo("Rollback: delete the folder and restart the server; nothing else was changed.")


_OF_THE_ENGINE: Final = {
    "device_name": ("device_name", "whose files have no GPU's name"),
    "triton_version": ("triton_version", "whose files are for any version of Triton"),
    "source": ("aiter_source", "which is merged with nothing of the engine's"),
    "root": ("aiter_root", "which names no file of the engine's"),
}
"""By field of a bundle's place, the option that fills it, and why some formats have no use for it."""


def _refuse_what_has_no_effect(
    context: typer.Context, backend: str, exporter: "Exporter", guards: str
) -> None:
    """Options that the backend's exporter does not go by.

    Raises:
        UserError: such an option stands on the command line, or --margin without a guard.
    """
    from autotune.protocol.mix import parse_guards
    from autotune.protocol.process_knobs import has_process_knobs

    why = f"winners of backend {backend} are served by --format {exporter.format}"
    for name, (option, reason) in _OF_THE_ENGINE.items():
        if name not in exporter.options:
            refuse(context, f"{why}, {reason}", option)
    if not has_process_knobs(backend):
        refuse(context, f"{why}, a config per shape", "mix", "shape_log", "guards", "margin")
    elif not parse_guards(guards):
        refuse(context, "there is no guard", "margin")
