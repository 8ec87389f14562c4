"""`autotune report`: what was tried, what won, by how much, how sure."""

from pathlib import Path
from typing import Annotated

import typer

from autotune.cli.options import Database, DevicePart, Json, Quiet
from autotune.cli.output import print_json
from autotune.text import counted


def report(
    out: Annotated[Path, typer.Option(help="File to write; its suffix gives the format.")] = Path(
        "report.html"
    ),
    format_: Annotated[
        str | None, typer.Option("--format", help="html, md, csv or parquet; default: by the file's suffix.")
    ] = None,
    run: Annotated[int | None, typer.Option(help="Report on this run; default: the newest.", min=1)] = None,
    device: DevicePart = None,
    bundle: Annotated[
        Path | None, typer.Option(help="Report on the winners in this bundle.", metavar="FOLDER")
    ] = None,
    db: Database = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Write a report on a run, a device or a bundle: one file that opens without a network.

    HTML is for people, md for a pull request, csv and parquet have one row per trial.

    Examples:

      autotune report --out report.html

      autotune report --device MI325X --out mi325x.html

      autotune report --bundle deploy --format md --out pull-request.md

      autotune report --run 3 --out trials.csv
    """
    from autotune.report.content import Scope
    from autotune.report.write import format_of, write_report
    from autotune.store.store import Store

    chosen = format_of(out, format_)
    with Store.open(db, read_only=True) as store:
        written = write_report(store, Scope(run, device, bundle), out, chosen)
    if as_json:
        print_json(
            {
                "file": str(out),
                "format": str(chosen),
                "bytes": out.stat().st_size,
                "problems": [chapter.problem.key for chapter in written.problems],
                "candidates": written.candidates,
            }
        )
    if as_json or quiet:
        return
    shapes = ", ".join(dict.fromkeys(chapter.problem.shape for chapter in written.problems))
    typer.echo(
        f"wrote {out} ({out.stat().st_size / 1e3:,.0f} kB): {shapes},"
        f" {counted(written.candidates, 'candidate')}"
    )
