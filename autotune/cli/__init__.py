"""The commands, one file each. Nothing heavy is imported here: `autotune --help` must answer at once."""

from typing import Annotated

import typer

from autotune import __version__
from autotune.cli import (
    ab,
    check,
    compare,
    confirm,
    dashboard,
    db,
    doctor,
    export,
    history,
    isa,
    measure,
    report,
    run,
    show,
    spaces,
    status,
    top,
    verify,
)

app = typer.Typer(
    help="Search MoE kernel parameters at speculative-decoding verify shapes, and export the winners.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"autotune {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


app.command(name="run")(run.run)
app.command(name="export")(export.export)
app.command(name="spaces")(spaces.spaces)
app.command(name="isa")(isa.isa)
app.command(name="check")(check.check)
app.command(name="doctor")(doctor.doctor)
app.command(name="verify")(verify.verify)
app.command(name="ab")(ab.ab)
app.command(name="status")(status.status)
app.command(name="measure")(measure.measure)
app.command(name="compare")(compare.compare)
app.command(name="confirm")(confirm.confirm)
app.command(name="show")(show.show)
app.command(name="top")(top.top)
app.command(name="history")(history.history)
app.command(name="report")(report.report)
app.command(name="dashboard")(dashboard.dashboard)
app.add_typer(db.app, name="db")
