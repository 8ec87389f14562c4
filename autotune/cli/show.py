"""`autotune show`: the winners at a glance, or one trial in full."""

import json
from typing import Annotated

import typer

from autotune.cli.options import Database, DevicePart, Json


def show(
    trial: Annotated[
        int | None, typer.Argument(help="Number of a trial, as autotune top prints it.", min=1)
    ] = None,
    why: Annotated[
        bool,
        typer.Option("--why", help="How each winner was decided: finalists, rounds, who lost and why."),
    ] = False,
    device: DevicePart = None,
    db: Database = None,
    as_json: Json = False,
) -> None:
    """Show the latest winner of each shape against what ships; with a number, everything about that trial.

    Examples:

      autotune show

      autotune show --device MI325X --json

      autotune show --why --json

      autotune show 17
    """
    from autotune.report.show import (
        find_trial,
        trial_json,
        trial_lines,
        winner_json,
        winner_lines,
        winners_at_a_glance,
    )
    from autotune.store.store import Store

    with Store.open(db, read_only=True) as store:
        if trial is not None:
            found = find_trial(store, trial)
            if as_json:
                typer.echo(json.dumps(trial_json(store, found), indent=2))
            else:
                typer.echo("\n".join(trial_lines(store, found)))
            return
        summaries = winners_at_a_glance(store, device=device)
        if why and summaries:
            from autotune.report.why import why as decision
            from autotune.report.why import why_json, why_lines

            told = [decision(store, summary.winner) for summary in summaries]
            if as_json:
                typer.echo(json.dumps([why_json(one) for one in told], indent=2))
            else:
                typer.echo("\n\n".join("\n".join(why_lines(one)) for one in told))
        elif as_json:
            typer.echo(json.dumps([winner_json(summary) for summary in summaries], indent=2))
        elif summaries:
            typer.echo("\n".join(winner_lines(summaries)))
        else:
            on = f" on a device called {device}" if device else ""
            typer.echo(f"No winners{on} in {store.location}: autotune run --shape m4 makes one.")
