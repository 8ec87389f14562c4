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
                    "backend": status.winner.backend,
                    "tokens": status.winner.problem.tokens,
                    "layer": status.winner.problem.layer.key,
                    "device": status.winner.environment.device,
                    "kind": str(status.winner.kind),
                    "fits": not status.differs,
                    "differs": list(status.differs),
                    "unknown": status.unknown,
                }
                for status in winners
            ],
            "bundles": [
                {
                    "host": status.export.host,
                    "path": status.export.bundle_path,
                    "made_at": status.export.created_at.isoformat(),
                    "problems": list(status.problems),
                }
                for status in bundles
            ],
        }
        print_json(content)
        return
    if quiet:
        winners = [status for status in winners if status.differs]
        bundles = [bundle for bundle in bundles if bundle.problems]
    elif not winners:
        typer.echo("No winners yet: autotune run makes some.")
    for status in winners:
        stack = status.winner.environment
        typer.echo(
            f"{status.winner.backend} {status.winner.problem.shape} ({status.winner.problem.tokens_text}),"
            f" {status.winner.problem.layer.key}\n"
            f"  {verdict(status.winner)}\n"
            f"  made on {', '.join(stack_names(stack))}\n"
            f"  {status.verdict}"
        )
    for bundle in bundles:
        export = bundle.export
        typer.echo(f"bundle {export.bundle_path} on {export.host}, {export.created_at:%Y-%m-%d %H:%M} UTC")
        for problem in bundle.problems or ("unchanged since the export; its winners fit this machine",):
            typer.echo(f"  {problem}")
