"""`autotune doctor`: what this machine can do."""

from pathlib import Path
from typing import Annotated

import typer

from autotune.cli.options import FlydslPython, FlydslRoot, Json
from autotune.cli.output import print_json


def doctor(
    flydsl_root: FlydslRoot = None,
    flydsl_python: FlydslPython = None,
    root: Annotated[
        Path | None,
        typer.Option(help="Examine the machine whose files lie below this folder.", hidden=True),
    ] = None,
    as_json: Json = False,
) -> None:
    """Tell what this machine can do for each backend, and for each "no" the one thing to do.

    Looks at files and asks small programs; no GPU context is made and nothing heavy is imported.

    Example: autotune doctor --flydsl-root ~/FlyDSL
    """
    from autotune.doctor.examine import examine, print_examination
    from autotune.protocol.host import Host

    host = Host() if root is None else Host.below(root)
    examination = examine(host)
    if as_json:
        print_json(examination.json())
    else:
        print_examination(examination)
