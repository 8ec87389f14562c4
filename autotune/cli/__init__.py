"""The command line. Nothing heavy is imported here: `autotune --help` must answer at once."""

from typing import Annotated

import typer

from autotune import __version__
from autotune.cli.commands import CONTEXT, Root

app = typer.Typer(
    cls=Root,
    help="Search MoE kernel parameters at speculative-decoding verify shapes, and export the winners.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Plain text: no box to read past, nothing that a pipe or a narrow terminal mangles, no rich to import.
    rich_markup_mode=None,
    context_settings=CONTEXT,
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
