"""`autotune history`: the runs."""

from typing import Annotated

import typer

from autotune.cli.options import Database, DevicePart, Json, Limit
from autotune.cli.output import print_json


def history(
    device: DevicePart = None,
    sort: Annotated[str, typer.Option(help="started, took or trials; the largest first.")] = "started",
    limit: Limit = 20,
    db: Database = None,
    as_json: Json = False,
) -> None:
    """List the runs, the newest first: when, where, how many trials, how many winners.

    Examples:

      autotune history

      autotune history --device H100 --sort trials --limit 5 --json
    """
    from autotune.report.gpus import as_json as gpus_json
    from autotune.report.history import episode_json, episodes, history_lines
    from autotune.report.text_table import terminal_width
    from autotune.store.store import Store

    with Store.open(db, read_only=True) as store:
        listed = episodes(store, device=device, sort=sort, limit=limit)
        if as_json:
            print_json([{**episode_json(each), "gpus": gpus_json(store, each.run.id)} for each in listed])
        elif listed:
            typer.echo("\n".join(history_lines(listed, terminal_width())))
        else:
            on = f" on a device called {device}" if device else ""
            typer.echo(f"No runs{on} in {store.location}: autotune run --shape m4 makes one.")
