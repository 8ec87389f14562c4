"""`autotune status`: winners and bundles against this machine's stack."""

import typer

from autotune.cli.options import Database, Json, Quiet
from autotune.cli.output import print_json


def status(db: Database = None, quiet: Quiet = False, as_json: Json = False) -> None:
    """List winners and bundles with the stack that they were made on, and tell which no longer fit this one.

    Example: autotune status
    """
    from autotune.report.status import bundles_status, stack_names, this_stack, winners_status
    from autotune.report.winners import verdict
    from autotune.store.store import Store

    with Store.open(db, read_only=True) as store:
        winners = winners_status(store, this_stack())
        bundles = bundles_status(store, winners)
    if as_json:
        content = {
            "winners": [
                {
                    "backend": one.winner.backend,
                    "tokens": one.winner.problem.tokens,
                    "layer": one.winner.problem.layer.key,
                    "device": one.winner.environment.device,
                    "kind": str(one.winner.kind),
                    "fits": not one.differs,
                    "differs": list(one.differs),
                    "unknown": one.unknown,
                }
                for one in winners
            ],
            "bundles": [
                {
                    "host": one.export.host,
                    "path": one.export.bundle_path,
                    "made_at": one.export.created_at.isoformat(),
                    "problems": list(one.problems),
                }
                for one in bundles
            ],
        }
        print_json(content)
        return
    if quiet:
        winners = [one for one in winners if one.differs]
        bundles = [bundle for bundle in bundles if bundle.problems]
    elif not winners:
        typer.echo("No winners yet: autotune run makes some.")
    for one in winners:
        stack = one.winner.environment
        typer.echo(
            f"{one.winner.backend} {one.winner.problem.shape} ({one.winner.problem.tokens_text}),"
            f" {one.winner.problem.layer.key}\n"
            f"  {verdict(one.winner)}\n"
            f"  made on {', '.join(stack_names(stack))}\n"
            f"  {one.verdict}"
        )
    for bundle in bundles:
        export = bundle.export
        typer.echo(f"bundle {export.bundle_path} on {export.host}, {export.created_at:%Y-%m-%d %H:%M} UTC")
        for problem in bundle.problems or ("unchanged since the export; its winners fit this machine",):
            typer.echo(f"  {problem}")
