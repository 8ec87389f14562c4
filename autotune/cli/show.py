"""`autotune show`: the winners at a glance, or one trial in full."""

from typing import Annotated

import typer

from autotune.cli.options import Database, DevicePart, Json, Limit, refuse
from autotune.cli.output import print_json


def show(
    context: typer.Context,
    trial: Annotated[
        int | None, typer.Argument(help="Number of a trial, as autotune top prints it.", min=1)
    ] = None,
    why: Annotated[
        bool,
        typer.Option("--why", help="How each winner was decided: finalists, rounds, who lost and why."),
    ] = False,
    device: DevicePart = None,
    limit: Limit = 20,
    db: Database = None,
    as_json: Json = False,
) -> None:
    """Show the latest winner of each shape against the default; with a number, everything about that trial.

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
    from autotune.report.text_table import terminal_width, wrapped
    from autotune.store.store import Store

    with Store.open(db, read_only=True) as store, store.at_once():
        if trial is not None:
            refuse(context, f"trial {trial} is of one device", "device")
            refuse(context, f"trial {trial} is one", "limit")
            refuse(context, f"trial {trial} is not a decision", "why")
            stored = find_trial(store, trial)
            if as_json:
                print_json(trial_json(store, stored))
            else:
                typer.echo("\n".join(trial_lines(store, stored, terminal_width())))
            return
        summaries = winners_at_a_glance(store, device=device, newest=limit + 1 if limit else None)
        older = bool(limit) and len(summaries) > limit
        if older:
            oldest = min(summaries, key=lambda each: (each.winner.created_at, each.winner.id))
            summaries.remove(oldest)
        if why and summaries:
            from autotune.report.why import why as decision
            from autotune.report.why import why_json, why_lines

            decisions = [decision(store, summary.winner) for summary in summaries]
            if as_json:
                print_json([why_json(each) for each in decisions])
            else:
                width = terminal_width()
                pages = (
                    [part for line in why_lines(each) for part in wrapped(line, width, indent=4)]
                    for each in decisions
                )
                typer.echo("\n\n".join("\n".join(page) for page in pages))
        elif as_json:
            print_json([winner_json(summary) for summary in summaries])
        elif summaries:
            typer.echo("\n".join(winner_lines(summaries, terminal_width())))
            if older:
                typer.echo("There are older winners: --limit 0 shows all, --device those of a device.")
        else:
            on = f" on a device called {device}" if device else ""
            typer.echo(f"No winners{on} in {store.location}: autotune run --shape m4 makes one.")
