"""`autotune db`: where the database is, its version, and another machine's results."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autotune.cli.commands import Command, Group
from autotune.cli.options import Database, Json, Quiet, refuse
from autotune.cli.output import print_json
from autotune.text import counted

if TYPE_CHECKING:
    from autotune.store.location import Location

app = typer.Typer(
    cls=Group,
    help="The database: where it is, its version, copies, merging another machine's, and forgetting.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command(cls=Command)
def path(db: Database = None, as_json: Json = False) -> None:
    """Print where the database is; it need not exist."""
    from autotune.store.location import locate

    where = str(locate(db))
    if as_json:
        print_json({"database": where})
    else:
        typer.echo(where)


@app.command(cls=Command)
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


@app.command(cls=Command)
def merge(
    other: Annotated[
        str,
        typer.Argument(metavar="OTHER", help="The database file of another machine; it is only read."),
    ],
    db: Database = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Add another machine's runs, trials and winners.

    Merging the same file again adds what is new in it since.

    Example:

      autotune db merge mi325x-node3.db
    """
    from autotune.errors import UserError
    from autotune.store.location import locate
    from autotune.store.merge import add, opened
    from autotune.store.store import Store

    there = locate(other, "OTHER")
    if there.path is None:
        raise UserError(
            f"{there} is not a plain file, and only files are merged: `autotune db copy` makes one of it"
        )
    # Read first: where it cannot be, no new database is made for nothing.
    with opened(there.path, locate(db)) as source, Store.open(db) as store:
        _warn(store.warnings)
        added = add(store, source)
        counts = ", ".join(counted(count, name.removesuffix("s")) for name, count in vars(added).items())
        if as_json:
            print_json({"database": str(store.location), "added": vars(added)})
        elif not quiet:
            typer.echo(f"{store.location}: added {counts}")


@app.command(cls=Command)
def backup(db: Database = None, quiet: Quiet = False, as_json: Json = False) -> None:
    """Copy the database to a file beside it, named after the time; also while a run writes it.

    One is made by itself before an older database is upgraded.

    Example: autotune db backup
    """
    from autotune.store.snapshot import backup_name, copy_database

    source = _file(db)
    target = backup_name(source)
    copy_database(source, target)
    _copied(source, target, quiet, as_json)


@app.command(cls=Command)
def copy(
    context: typer.Context,
    first: Annotated[
        str,
        typer.Argument(
            metavar="[FROM] TO",
            help="Where to: a new file, a folder for it, or the URL of an empty database. Before it, where"
            " from: a file or URL; without it, what --db says.",
        ),
    ],
    second: Annotated[str | None, typer.Argument(hidden=True)] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    db: Database = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Copy the database, whole even while a run writes it: more than its file belongs to it then.

    A file's copy is written beside its place, checked and renamed: where the disk is full, nothing is lost.
    To or from a PostgreSQL server rows are copied in one transaction, and all of them compared.

    Examples:

      autotune db copy /mnt/usb/node3.db

      autotune db copy autotune.db postgresql://tuner@head/autotune

      autotune db copy postgresql://tuner@head/autotune node3.db
    """
    from autotune.errors import UserError
    from autotune.store.copying import copy_rows, copy_to_file
    from autotune.store.location import locate
    from autotune.store.snapshot import copy_database

    if second is not None and db is not None:
        raise UserError(f"--db {db} and {first} both say where from: give one of them")
    origin, goal = (db, first) if second is None else (first, second)
    here, there = locate(origin, "--db" if origin == db else "FROM"), locate(goal, "TO")
    if here.path is None or there.path is None:
        file = there.path
        if file is None:
            refuse(context, f"{there} is not replaced but filled", "force")
        elif file.exists() and not force:
            raise UserError(f"{file} is there already: name another file, or overwrite it with --force")
        rows = copy_rows(here, there) if file is None else copy_to_file(here, file)
        if as_json:
            print_json({"database": str(here), "copy": str(there), "rows": rows})
        elif not quiet:
            compared = counted(sum(rows.values()), "row")
            typer.echo(f"{here}: copied to {there}, {compared} compared and equal")
        return
    source, target = _file(here), there.path
    place = target / source.name if target.is_dir() else target
    copy_database(source, place, overwrite=force)
    _copied(source, place, quiet, as_json)


def _copied(source: Path, target: Path, quiet: bool, as_json: bool) -> None:
    if as_json:
        print_json({"database": str(source), "copy": str(target)})
    elif not quiet:
        typer.echo(f"{source}: copied to {target}")


@app.command(cls=Command)
def forget(
    run: Annotated[int | None, typer.Option(help="Trials of the run with this number.", min=1)] = None,
    status: Annotated[
        str | None, typer.Option(help="Trials that ended so: compile_error, runtime_error, …")
    ] = None,
    config: Annotated[
        str | None, typer.Option(help="Trials of every config with these values: tile_k=256,split_k=2.")
    ] = None,
    db: Database = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Forget trials, so that the next run tries their configs again.

    What is given must all apply. Trials on which a winner rests are kept.

    Examples:

      autotune db forget --status compile_error

      autotune db forget --run 3 --config tile_k=256
    """
    from autotune.errors import UserError
    from autotune.results import Status
    from autotune.space.config import Config
    from autotune.store.store import Store

    if run is None and status is None and config is None:
        raise UserError("nothing to forget is named: give --run, --status or --config, or several")
    if status is not None and status not in list(Status):
        raise UserError(f"unknown status {status!r}: use one of {', '.join(Status)}")
    with Store.open(db, create=False) as store:
        _warn(store.warnings)
        if run is not None and run not in {record.id for record in store.runs()}:
            raise UserError(f"there is no run {run} in {store.location}: autotune history lists them")
        gone = store.forget(
            run=run,
            status=None if status is None else Status(status),
            config=None if config is None else Config.parse(config),
        )
        if config is not None and not gone.trials and not gone.kept:
            raise UserError(f"no trial in {store.location} has {config}: autotune top --json lists configs")
    if as_json:
        print_json({"database": str(store.location), "forgotten": gone.trials, "kept": gone.kept})
    if as_json or quiet:
        return
    kept = f"; {gone.kept} kept, because winners depend on them" if gone.kept else ""
    typer.echo(f"{store.location}: forgot {counted(gone.trials, 'trial')}{kept}")


def _file(db: "Location | str | None") -> Path:
    """The database's file.

    Raises:
        UserError: there is none, or it is no database of this tool.
    """
    from autotune.errors import UserError
    from autotune.store.store import Store

    with Store.open(db, read_only=True) as store:
        if store.location.path is None:
            raise UserError(f"{store.location} is not a plain file: use its server's own tools")
        return store.location.path


def _warn(warnings: tuple[str, ...]) -> None:
    for warning in warnings:
        typer.echo(f"warning: {warning}", err=True)
