"""`autotune export`: the confirmed winners as files that serving loads."""

from pathlib import Path
from typing import Annotated

import typer

from autotune.cli.options import BackendName, Database, FusedShared, ModelConfig, Tp, make_layer


def export(
    out: Annotated[Path, typer.Option(help="Folder of the bundle; an older one in it is replaced.")] = Path(
        "deploy"
    ),
    backend: BackendName = "triton",
    model: Annotated[
        str | None,
        typer.Option(help="Preset whose winners to export; default: of the most recent run."),
    ] = None,
    model_config: ModelConfig = None,
    tp: Tp = 8,
    fused_shared_experts: FusedShared = False,
    device: Annotated[
        str | None, typer.Option(help="Part of the name of the device that they were measured on.")
    ] = None,
    allow_estimates: Annotated[
        bool, typer.Option("--allow-estimates", help="Export what was never measured.")
    ] = False,
    bundle_path: Annotated[
        str | None,
        typer.Option(help="Where serving will find the folder, e.g. a path in its container."),
    ] = None,
    db: Database = None,
) -> None:
    """Write the winners as a bundle: autotune.env, JSON and manifest.json.

    Exporting again gives equal bytes. Deleting the folder is the rollback.

    Examples:

      autotune export --out deploy

      autotune export --out deploy --bundle-path /opt/autotune
    """
    from autotune.export.export import Selection
    from autotune.export.export import export as write
    from autotune.report.winners import verdict
    from autotune.store.store import Store

    layer = make_layer(model or "", model_config, tp, fused_shared_experts) if model or model_config else None
    with Store.open(db) as store:
        selection = Selection(backend, layer, device, allow_estimates)
        exported = write(store, out, selection, bundle_path=bundle_path)
    for winner in exported.winners:
        typer.echo(f"{winner.problem.shape} ({winner.problem.tokens} tokens): {verdict(winner)}")
    typer.echo(f"wrote {', '.join(exported.files)} to {exported.folder}")
