"""Options that several commands share."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from autotune.cli import complete
from autotune.errors import UserError
from autotune.quantities import MAX_SEED


def between(least: float, most: float) -> "Callable[[float | None], float | None]":
    """A callback that refuses a number outside a range, nan too, which is below and above nothing."""

    def check(value: float | None) -> float | None:
        if value is not None and not least <= value <= most:
            raise typer.BadParameter(f"{value} is outside its range: use {least:.16g} to {most:.16g}")
        return value

    return check


def at_most_cores(workers: int | None) -> tuple[int, list[str]]:
    """How many processes to use of those that were asked for; None: one a core.

    Returns:
        The count, and a sentence for the user where it is another.
    """
    cores = len(os.sched_getaffinity(0))
    if workers is None or workers <= cores:
        return workers or cores, []
    return cores, [f"--workers {workers}: this process may use {cores} cores, so {cores} are started."]


def given(context: typer.Context, *names: str) -> list[str]:
    """Those of a command's parameters that stand on the command line, as the user types them."""
    typed = {
        parameter.name: (parameter.secondary_opts or parameter.opts)[0]
        if context.params.get(parameter.name) is False
        else parameter.opts[0]
        for parameter in context.command.params
    }
    sources = {name: context.get_parameter_source(name) for name in names}
    return [typed[name] for name, source in sources.items() if source and source.name == "COMMANDLINE"]


def refuse(context: typer.Context, why: str, *names: str) -> None:
    """Refuses options that have no effect here: what a user asks for either happens or is denied.

    Raises:
        UserError: one of them stands on the command line.
    """
    for name in names:
        for option in given(context, name):
            value = context.params.get(name)
            typed = "" if isinstance(value, bool) or value is None else f" {value}"
            raise UserError(f"{option}{typed} has no effect here, {why}: leave it out")


def _one_model(context: typer.Context, value: Any) -> Any:
    if len(given(context, "model", "model_config")) == 2:
        raise UserError("--model and --model-config both name the model: give one of them")
    return value


ModelName = Annotated[
    str,
    typer.Option(
        "--model",
        help="Preset of layer dimensions.",
        rich_help_panel="Problem",
        callback=_one_model,
        autocompletion=complete.models,
    ),
]
ModelConfig = Annotated[
    Path | None,
    typer.Option(
        help="A Hugging Face config.json, or a checkpoint's folder, instead of a preset.",
        rich_help_panel="Problem",
        metavar="FILE",
        callback=_one_model,
    ),
]
Tp = Annotated[
    int, typer.Option(help="Tensor-parallel degree, as the engine is told it.", rich_help_panel="Problem")
]
Ep = Annotated[
    int,
    typer.Option(
        help="Expert-parallel degree: a GPU has 1/N of the experts, each whole or split over the GPUs left of"
        " --tp.",
        rich_help_panel="Problem",
    ),
]
FusedShared = Annotated[
    bool | None,
    typer.Option(
        "--fused-shared-experts/--no-fused-shared-experts",
        help="Whether the engine routes to the shared experts as well: E+1, top-k+1; default: as the"
        " backend's engine does by itself.",
        rich_help_panel="Problem",
    ),
]
Requantised = Annotated[
    bool,
    typer.Option(
        "--requantised",
        help="The served experts use the backend's number formats, not the checkpoint's.",
        rich_help_panel="Problem",
    ),
]
Shape = Annotated[
    str,
    typer.Option(
        help="Verify tokens per sequence: m1..m8, several (m1,m4) or all.",
        rich_help_panel="Problem",
        autocompletion=complete.shapes,
    ),
]
Concurrency = Annotated[
    str,
    typer.Option(
        help="Sequences in flight, e.g. 1,40; the layer sees M times as many tokens.",
        rich_help_panel="Problem",
    ),
]
RoutingModel = Annotated[
    str,
    typer.Option(
        "--routing",
        help="uniform, zipf:S, correlated:P (draft tokens keep an expert with probability P), file:PATH.",
        rich_help_panel="Problem",
        autocompletion=complete.routings,
    ),
]


_SETS = {"flydsl_root": "DSL2_ROOT", "flydsl_python": "AUTOTUNE_FLYDSL_PYTHON"}
"""Options that reach a backend, which may live in other processes too, as a variable."""


def _refuse_unread(context: typer.Context, backend: str | None) -> None:
    """Refuses variables that the backend does not read. Called for each of the options: any may be last.

    Raises:
        UserError: there is such an option, or no such backend.
    """
    if backend is None or ":" in backend or not given(context, *_SETS):
        return
    from autotune.protocol.registry import registration

    reads = registration(backend).variables
    for option, variable in _SETS.items():
        if variable not in reads:
            refuse(context, f"backend {backend} does not read ${variable}", option)


def _backend(context: typer.Context, value: str) -> str:
    _refuse_unread(context, value)
    return value


BackendName = Annotated[
    str,
    typer.Option(
        "--backend",
        help="Family of kernels.",
        callback=_backend,
        autocompletion=complete.backends,
    ),
]
TargetName = Annotated[
    str | None,
    typer.Option(
        "--target",
        help="live, offline:mi325x, …, or replay:TABLE; default: the GPU here, else offline:mi325x.",
        autocompletion=complete.targets,
    ),
]
GpuIndex = Annotated[
    int | None,
    typer.Option("--device", help="Index of the GPU to measure on.", min=0, rich_help_panel="Measuring"),
]
GpuIndices = Annotated[
    str | None,
    typer.Option(
        "--devices",
        help="GPUs to measure on at the same time: all, or indices among the visible ones such as 0,2,3."
        " Default: the first.",
        metavar="GPUS",
        rich_help_panel="Measuring",
    ),
]
Database = Annotated[
    str | None,
    typer.Option("--db", help="Database path or URL; default: $AUTOTUNE_DB, else the user's data folder."),
]
DevicePart = Annotated[
    str | None, typer.Option("--device", help="Only results from devices whose name contains this.")
]
Limit = Annotated[int, typer.Option(min=0, help="Number of rows at most; 0: all.")]
Cold = Annotated[
    float,
    typer.Option(
        callback=between(0.0, 1000.0),
        help="Bytes touched between two uses of one expert's weights, in multiples of the last-level cache;"
        " 0 measures hot.",
        rich_help_panel="Measuring",
    ),
]
SharedGpu = Annotated[
    bool,
    typer.Option(
        "--shared-gpu",
        help="Measure even if other processes use the GPU; times are marked as those of a shared GPU.",
        rich_help_panel="Measuring",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on standard output.")]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print only what needs attention: no progress, no success.")
]


def _log(context: typer.Context, value: Path | None) -> Path | None:
    if value is not None and not context.resilient_parsing:
        from autotune.cli import logfile

        logfile.start(value)
    return value


LogFile = Annotated[
    Path | None,
    typer.Option(
        help="Append all output and every trial to this file, with timestamps.", metavar="FILE", callback=_log
    ),
]


def _set(context: typer.Context, parameter: typer.CallbackParam, value: str | None) -> str | None:
    if value is not None:
        _refuse_unread(context, context.params.get("backend"))
        os.environ[_SETS[parameter.name or ""]] = value
    return value


FlydslRoot = Annotated[
    str | None,
    typer.Option(
        help="FlyDSL source tree; default: $DSL2_ROOT.",
        rich_help_panel="Backends",
        metavar="FOLDER",
        callback=_set,
    ),
]
FlydslPython = Annotated[
    str | None,
    typer.Option(
        help="Python that has the flydsl wheel; default: $AUTOTUNE_FLYDSL_PYTHON, else this one.",
        rich_help_panel="Backends",
        metavar="PYTHON",
        callback=_set,
    ),
]


MeasureSeed = Annotated[
    int,
    typer.Option(
        "--seed",
        callback=between(0, MAX_SEED),
        help="Seed of weights and routings.",
        rich_help_panel="Measuring",
    ),
]
Rounds = Annotated[
    int,
    typer.Option(
        min=2, max=10_000, help="Rounds; each pair has fresh routings.", rich_help_panel="Measuring"
    ),
]


def show_only(device: int | None) -> None:
    """Lets this process's workers see one GPU: the one of that index among those visible now. None: all.

    Raises:
        UserError: fewer are visible.
    """
    if device is None:
        return
    from autotune.machine import visible

    visible.show_only([device])


def say_waiting(sentence: str) -> None:
    """Tells whom a measurement waits for, beside what it prints for machines."""
    typer.echo(sentence, err=True)
