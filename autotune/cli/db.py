"""`autotune db`: where the database is, its version, and another machine's results."""

from pathlib import Path
from typing import Annotated

import typer

from autotune.cli.commands import Group
from autotune.cli.options import Database, Json, Quiet
from autotune.cli.output import print_json

app = typer.Typer(
    cls=Group,
    help="The database: where it is, its version, and merging another machine's.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command()
def path(db: Database = None, as_json: Json = False) -> None:
    """Print where the database is; it need not exist."""
    from autotune.store.location import locate

    where = str(locate(db))
    if as_json:
        print_json({"database": where})
    else:
        typer.echo(where)


@app.command()
def upgrade(db: Database = None, quiet: Quiet = False, as_json: Json = False) -> None:
    """Bring the database to this tool's version, or make it.

    Every other command that writes does so as well.
    """
    from autotune.store.store import Store

    with Store.open(db) as store:
        _warn(store.warnings)
        was, now = store.upgraded_from or "new", store.version
        change = f"version {now}" if was == now else f"{was} -> version {now}"
        if as_json:
            print_json({"database": str(store.location), "was": was, "version": now})
        elif not quiet:
            typer.echo(f"{store.location}: {change}")


@app.command()
def merge(
    other: Annotated[Path, typer.Argument(help="The database file of another machine; it is only read.")],
    db: Database = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Add another machine's runs, trials and winners.

    Merging the same file again adds what is new in it since.

    Example:

      autotune db merge mi325x-node3.db
    """
    from autotune.store.merge import merge as merge_into
    from autotune.store.store import Store

    with Store.open(db) as store:
        _warn(store.warnings)
        added = merge_into(store, other)
        counts = ", ".join(f"{count} {name}" for name, count in vars(added).items())
        if as_json:
            print_json({"database": str(store.location), "added": vars(added)})
        elif not quiet:
            typer.echo(f"{store.location}: added {counts}")


def _warn(warnings: tuple[str, ...]) -> None:
    for warning in warnings:
        typer.echo(f"warning: {warning}", err=True)
