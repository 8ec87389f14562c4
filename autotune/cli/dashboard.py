"""`autotune dashboard`: optuna-dashboard on a copy of the studies."""

from pathlib import Path
from typing import Annotated

import typer

from autotune.cli.options import Database, DevicePart, Json, Quiet, refuse
from autotune.cli.output import print_json


def dashboard(
    context: typer.Context,
    run: Annotated[
        int | None, typer.Option(help="Studies of this run; default: of the newest.", min=1)
    ] = None,
    device: DevicePart = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")] = 8080,
    storage: Annotated[
        Path | None,
        typer.Option(help="Keep the copy in this new file (Optuna's journal).", metavar="FILE"),
    ] = None,
    serve: Annotated[
        bool, typer.Option("--serve/--no-serve", help="Serve it, or only write the copy.")
    ] = True,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")
    ] = True,
    db: Database = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Open optuna-dashboard on a copy of the studies; on this machine only, until Ctrl-C.

    What is changed in the dashboard changes the copy, never the database.

    Examples:

      autotune dashboard

      autotune dashboard --device MI325X --port 8081 --no-browser

      autotune dashboard --run 3 --storage studies.log --no-serve
    """
    import tempfile
    import webbrowser

    from autotune.errors import UserError
    from autotune.report.content import Scope, gather
    from autotune.report.dashboard import (
        HOST,
        IMPORTANCES,
        check_port,
        copy_studies,
        has_screen,
        require_dashboard,
    )
    from autotune.report.dashboard import serve as serve_copy
    from autotune.store.store import Store

    if serve:
        require_dashboard()
        check_port(port)
    else:
        refuse(context, "nothing is served", "port", "browser")
    if not serve and storage is None:
        raise UserError("--no-serve writes the copy alone: name its file with --storage")
    with tempfile.TemporaryDirectory(prefix="autotune-dashboard-") as folder:
        with Store.open(db, read_only=True) as store:
            copied = copy_studies(
                gather(store, Scope(run=run, device=device)), storage or Path(folder, "studies.log")
            )
        url = f"http://{HOST}:{port}/" if serve else None
        if as_json:
            print_json({"url": url, "storage": storage and str(storage), "studies": dict(copied.studies)})
        elif not quiet:
            for name, trials in copied.studies.items():
                typer.echo(f"{name}: {trials:,} trials")
            typer.echo(f"note: {IMPORTANCES}")
            wrote = f"wrote {storage}: optuna-dashboard {storage} opens it"
            typer.echo(wrote if url is None else f"{url} until Ctrl-C")
        if url is None:
            return
        if browser and has_screen():
            webbrowser.open(url)
        serve_copy(copied, port)
