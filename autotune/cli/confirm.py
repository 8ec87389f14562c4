"""`autotune confirm`: stored winners on today's stack."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from autotune.cli.groups import LayerOptions, MeasuringOptions, make_problems
from autotune.cli.options import (
    BackendName,
    Concurrency,
    Database,
    Json,
    LogFile,
    Quiet,
    RoutingModel,
    Shape,
    between,
    say_waiting,
)
from autotune.cli.output import print_json
from autotune.protocol import DEFAULT_BACKEND
from autotune.text import command_line, percent, percent_interval

if TYPE_CHECKING:
    from autotune.tuning.reconfirm import Recheck


def confirm(
    shape: Shape = "m4",
    concurrency: Concurrency = "1",
    model: LayerOptions = LayerOptions(),
    routing: RoutingModel = "uniform",
    backend: BackendName = DEFAULT_BACKEND,
    measuring: MeasuringOptions = MeasuringOptions(seed=1),
    min_gain: Annotated[
        float,
        typer.Option(
            callback=between(0.0, 0.9),
            help="Gain that a winner must exceed at 95% confidence.",
            rich_help_panel="Measuring",
        ),
    ] = 0.01,
    db: Database = None,
    log_file: LogFile = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Confirm stored winners again on today's stack: paired rounds against today's default.

    The result is stored as the winner for today's stack. The exit code is 1 when a winner no longer holds.

    Examples:

      autotune confirm --shape m4

      autotune confirm --shape all --json
    """
    import sys
    from functools import partial

    from autotune.protocol.registry import load_backend
    from autotune.store.store import Store
    from autotune.tuning.reconfirm import reconfirm
    from autotune.tuning.targets import resolve_target

    problems = make_problems(model.layer(backend), shape, concurrency, routing)
    settings = measuring.settings(min_gain=min_gain)
    with Store.open(db, create=False) as store:
        done = reconfirm(
            store,
            load_backend(backend),
            resolve_target("live"),
            problems,
            settings,
            command_line(sys.argv[1:]),
            partial(_print, as_json=as_json, quiet=quiet),
            say_waiting,
        )
    if as_json:
        print_json([_as_json(recheck) for recheck in done])
    if not all(recheck.holds or recheck.before.kept_default for recheck in done):
        raise typer.Exit(1)


def _print(recheck: "Recheck", *, as_json: bool, quiet: bool) -> None:
    if as_json or (quiet and (recheck.holds or recheck.before.kept_default)):
        return
    before, after = recheck.before, recheck.after
    now = percent_interval(after.gain, after.gain_low, after.gain_high, signed=True)
    says = f"holds, {now} now" if recheck.holds else "kept default now"
    typer.echo(f"{before.problem.shape}: gain {percent(before.gain, signed=True)} then; {says}")
    for difference in recheck.differences:
        typer.echo(f"  stack: {difference}")
    for note in after.notes:
        typer.echo(f"  {note}")


def _as_json(recheck: "Recheck") -> dict[str, Any]:
    after = recheck.after
    return {
        "shape": recheck.before.problem.shape,
        "holds": recheck.holds,
        "stored": recheck.stored,
        "gain_before": recheck.before.gain,
        "gain": after.gain,
        "gain_95": [after.gain_low, after.gain_high],
        "winner": after.winner,
        "differences": list(recheck.differences),
        "notes": list(after.notes),
    }
