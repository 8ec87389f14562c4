"""`autotune top`: the best candidates."""

from typing import Annotated

import typer

from autotune.cli.options import Database, DevicePart, Json, Limit
from autotune.cli.output import print_json


def top(
    shape: Annotated[
        str | None, typer.Option(help="Only these verify tokens: m4, m1,m4, all; default: any.")
    ] = None,
    stage: Annotated[str | None, typer.Option(help="Only stage1 or stage2.")] = None,
    backend: Annotated[str | None, typer.Option(help="Only this family of kernels.")] = None,
    device: DevicePart = None,
    run: Annotated[int | None, typer.Option(help="Only trials of this run.", min=1)] = None,
    status: Annotated[
        str | None,
        typer.Option(help="Only trials with this status, e.g. incorrect; default: those with a time."),
    ] = None,
    sort: Annotated[str, typer.Option(help="us, trial, gate-error or compile.")] = "us",
    limit: Limit = 10,
    db: Database = None,
    as_json: Json = False,
) -> None:
    """List the best candidates of each stage and shape, and how they differ from the default.

    These are times of the search, and the fastest of many noisy times is biased low: autotune show has what
    the finals decided.

    Examples:

      autotune top --shape m4 --limit 5

      autotune top --stage stage2 --status incorrect --sort gate-error

      autotune top --run 3 --json
    """
    from autotune.errors import UserError
    from autotune.problem.layer import Stage, parse_shapes
    from autotune.report.text_table import terminal_width
    from autotune.report.top import Filter, ranking_json, ranking_lines, rankings
    from autotune.results import Status
    from autotune.store.store import Store

    if stage is not None and stage not in list(Stage):
        raise UserError(f"unknown --stage {stage!r}: use {' or '.join(Stage)}")
    if status is not None and status not in list(Status):
        raise UserError(f"unknown status {status!r}: use one of {', '.join(Status)}")
    chosen = Filter(
        verify_tokens=tuple(parse_shapes(shape)) if shape else None,
        stage=Stage(stage) if stage else None,
        backend=backend,
        device=device,
        run=run,
        status=Status(status) if status else None,
    )
    with Store.open(db, read_only=True) as store:
        ranked = rankings(store, chosen, sort=sort, limit=limit)
        if as_json:
            print_json([row for ranking in ranked for row in ranking_json(ranking)])
            return
        if not ranked:
            typer.echo(
                f"No such candidates in {store.location}: autotune history lists the runs,"
                " autotune run --shape m4 makes one."
            )
        width = terminal_width()
        for index, ranking in enumerate(ranked):
            typer.echo("\n".join([*([""] if index else []), *ranking_lines(ranking, width)]))
