"""`autotune run`: search, and decide."""

import math
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autotune.cli.gpus import asked_gpus, may_be_used, seen_gpus, start_workers_ahead
from autotune.cli.groups import FlydslOptions, LayerOptions, make_problems
from autotune.cli.options import (
    BackendName,
    Cold,
    Concurrency,
    Database,
    GpuIndex,
    GpuIndices,
    Json,
    LogFile,
    Quiet,
    RoutingModel,
    Shape,
    SharedGpu,
    TargetName,
    at_most_cores,
    between,
    given,
    refuse,
    show_only,
)
from autotune.processes import interrupt
from autotune.protocol import DEFAULT_BACKEND
from autotune.quantities import MAX_SEED, YEAR_S
from autotune.text import command_line, counted

if TYPE_CHECKING:
    from autotune.machine.targets import Target

_OFFLINE_TRIALS = 48
_LIVE_TRIALS = 200
_LEAST_TRIALS = 40


def run(
    context: typer.Context,
    shape: Shape = "m4",
    concurrency: Concurrency = "1",
    model: LayerOptions = LayerOptions(),
    routing: RoutingModel = "uniform",
    backend: BackendName = DEFAULT_BACKEND,
    target: TargetName = None,
    flydsl: FlydslOptions = FlydslOptions(),
    device: GpuIndex = None,
    devices: GpuIndices = None,
    ray: Annotated[
        str | None,
        typer.Option(
            help="Measure on all GPUs of this Ray cluster, and compile on its CPUs: its address, or auto.",
            rich_help_panel="Measuring",
            metavar="ADDRESS",
        ),
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option(
            min=1,
            help=(
                "Configs per stage and shape, and twice as many layers; default on a GPU"
                f" {_LIVE_TRIALS}, with several shapes down to {_LEAST_TRIALS}, {_OFFLINE_TRIALS} offline."
            ),
            rich_help_panel="Search",
        ),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            callback=between(0.1, YEAR_S),
            help="Time limit of the search in seconds, offline with the checks of machine code; finals come"
            " on top.",
            rich_help_panel="Search",
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(callback=between(0, MAX_SEED), help="Seed of the search.", rich_help_panel="Search")
    ] = 0,
    sampler: Annotated[
        str,
        typer.Option(
            help="joint (one model of all shapes), or Optuna's tpe, gp or random.", rich_help_panel="Search"
        ),
    ] = "joint",
    knob: Annotated[
        list[str] | None,
        typer.Option(
            help="Search only these values: tile_k=256,512, or at one stage stage1:tile_k=256. The default is"
            " tried all the same. May be repeated.",
            rich_help_panel="Search",
            metavar="KNOB=VALUES",
        ),
    ] = None,
    try_: Annotated[
        list[str] | None,
        typer.Option(
            "--try",
            help="Try this config first, as measure --config takes it: stage1:tile_k=256,split_k=2. May be"
            " repeated.",
            rich_help_panel="Search",
            metavar="CONFIG",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Compile processes; at most one per core.", rich_help_panel="Search"),
    ] = None,
    compile_timeout: Annotated[
        float,
        typer.Option(
            callback=between(0.1, YEAR_S),
            help="Time limit of one compile, in seconds.",
            rich_help_panel="Search",
        ),
    ] = 60.0,
    allow_spills: Annotated[
        bool,
        typer.Option("--allow-spills", help="Do not refuse candidates that spill.", rich_help_panel="Search"),
    ] = False,
    min_gain: Annotated[
        float,
        typer.Option(
            callback=between(0.0, 0.9),
            help="Gain that a winner must exceed at 95% confidence.",
            rich_help_panel="Search",
        ),
    ] = 0.01,
    cold: Cold = 2.0,
    shared_gpu: SharedGpu = False,
    stop_when: Annotated[
        float | None,
        typer.Option(
            callback=between(0.0, 0.5),
            help="End a search when the expected improvement falls below this fraction, e.g. 0.001; how"
            " much was left untried is printed. Default: never.",
            rich_help_panel="Search",
        ),
    ] = None,
    guards: Annotated[
        str,
        typer.Option(
            help="Token counts at which prefill must not get slower, where knobs are environment variables"
            " (aiter, flydsl): settings are timed there as well. none: no guards.",
            rich_help_panel="Search",
        ),
    ] = "64,512,4096",
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show what would be searched and how long it may take; run nothing."),
    ] = False,
    plan: Annotated[
        Path | None,
        typer.Option(
            help="Work through the problems of this TOML file instead, the most valuable first, on all GPUs"
            " of --devices; what has finished is not run again.",
            metavar="FILE",
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="With --plan: folder for a bundle per backend and one report.")
    ] = Path("deploy"),
    db: Database = None,
    log_file: LogFile = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Search both stages at each shape and decide each shape's layer config.

    On a machine with a GPU candidates are measured; without one the MI325X is prepared offline and every
    time is an estimate. The same command resumes an interrupted run.

    Examples:

      autotune run --shape m4

      autotune run --shape all --concurrency 1,40 --trials 400

      autotune run --shape m4 --knob tile_k=256,512 --try stage1:split_k=2 --dry-run

      autotune run --target offline:mi325x --shape m4 --json

      autotune run --plan plan.toml --devices all --dry-run
    """
    if plan is not None:
        where = (out, target, devices, workers, db)
        _run_plan(context, plan, *where, dry_run=dry_run, quiet=quiet, as_json=as_json)
        return
    refuse(context, "it is a plan's: give --plan", "out")
    from autotune.cli.asked import of_options
    from autotune.tuning.plan import LAYER_KEYS
    from autotune.tuning.targets import resolve_target

    processes, capped = at_most_cores(workers)
    for line in capped:
        typer.echo(line, err=True)
    named = backend if given(context, "backend") else None
    told = of_options(
        *(model, lambda: resolve_target(target, described=True).device, named),
        *(shape, concurrency, routing),
        replayed=(target or "").startswith("replay:"),
    )
    backend, layer, problems = told.backend, told.layer, told.problems
    for line in told.remarks:
        typer.echo(line, err=True)
    show_only(device)
    if ray is not None:
        refuse(context, "--ray says which GPUs and CPUs are used", "device", "devices", "workers", "target")
    indices = asked_gpus(context, devices)
    if ray is None and not dry_run and target in (None, "live"):
        start_workers_ahead(indices)
    with ThreadPoolExecutor(2) as asking:
        # Asking the GPU takes seconds, in a process of its own; importing what searches does as well.
        answer = asking.submit(resolve_target, target, described=dry_run) if ray is None else None
        gpus = asking.submit(seen_gpus, indices, devices or "") if indices is not None else None
        from autotune.cli.outcome import print_outcome
        from autotune.cli.plan import print_plan
        from autotune.cli.progress import shown_progress
        from autotune.machine.targets import Kind
        from autotune.measure.settings import MeasureSettings
        from autotune.protocol.mix import parse_guards
        from autotune.search.samplers import make_sampler
        from autotune.store.location import locate
        from autotune.store.store import Store
        from autotune.tuning.run import RunRequest
        from autotune.tuning.run import run as run_search

        make_sampler(sampler, seed)  # an unknown name is told before anything is searched
        if answer is not None:
            chosen = answer.result()
        else:
            from autotune.tuning.cluster import cluster_target

            chosen, processes = cluster_target(ray or "")
        used = gpus.result() if gpus is not None and chosen.live else ()
    _refuse_what_has_no_effect(context, chosen, backend)
    if chosen.layer is not None and not given(context, *LAYER_KEYS):
        layer = chosen.layer
    if chosen.routing is not None:
        problems = make_problems(layer, shape, concurrency, chosen.routing)
    request = RunRequest(
        backend=backend,
        problems=problems,
        target=chosen,
        trials=trials or _trials(estimated=chosen.kind is Kind.ESTIMATE, problems=len(problems)),
        seed=seed,
        sampler=sampler,
        workers=processes,
        timeout_s=timeout,
        compile_timeout_s=compile_timeout,
        allow_spills=allow_spills,
        measuring=MeasureSettings(min_gain=min_gain, cold=cold, shared_gpu=shared_gpu),
        stop_when=stop_when,
        guards=parse_guards(guards),
        knobs=tuple(knob or ()),
        tries=tuple(try_ or ()),
        devices=used,
        ray=ray,
        command=command_line(sys.argv[1:]),
    )
    if dry_run:
        print_plan(request, str(locate(db)), as_json=as_json, quiet=quiet)
        return
    with Store.open(db) as store:
        progress = shown_progress(as_json or quiet, str(chosen.kind), timeout)
        for line in store.warnings:
            typer.echo(line, err=as_json or quiet)
        if not (as_json or quiet):
            typer.echo(chosen.why)
            if timeout is not None and chosen.live:
                select, judge = request.measuring.select_rounds, request.measuring.judge_rounds
                typer.echo(
                    f"The search ends after {timeout:g} s; then come {counted(len(problems), 'final')}, each"
                    f" with up to {select} rounds of preselection and {judge} that decide."
                )
            typer.echo(f"{layer.key}, backend {backend}, database {store.location}")
        try:
            with progress:
                result = run_search(request, store, progress)
        except KeyboardInterrupt:
            typer.echo(f"\n{progress.stopped(request.command)}", err=True)
            raise typer.Exit(interrupt.exit_code()) from None
        print_outcome(store, result, progress, chosen, as_json, quiet, db)


_OF_A_PLAN = (
    *("plan", "out", "target", "devices", "workers"),
    *("db", "log_file", "dry_run", "quiet", "as_json"),
)


def _run_plan(
    context: typer.Context,
    path: Path,
    out: Path,
    target: str | None,
    devices: str | None,
    workers: int | None,
    db: str | None,
    *,
    dry_run: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    from autotune.cli.asked import asked_by_entry
    from autotune.cli.many import PlanRun, print_plan, run_plan
    from autotune.cli.place import PlaceProcess, ended
    from autotune.machine.probe import answers_kept
    from autotune.replay.files import read_table
    from autotune.tuning.plan import read_plan
    from autotune.tuning.targets import resolve_target

    others = [name for name in context.params if name not in _OF_A_PLAN]
    refuse(context, "--plan says what is tuned, and how", *others)
    if dry_run:
        refuse(context, "--dry-run writes nothing", "out")
    indices = asked_gpus(context, devices)
    # While the GPUs are asked, a process for each of them imports what it will need.
    begins = not dry_run and target in (None, "live")
    ahead = [PlaceProcess() for _ in range(may_be_used(indices) if begins else 0)]
    with answers_kept(), ended(ahead), ThreadPoolExecutor(1) as asking:
        seen = asking.submit(seen_gpus, indices, devices or "") if indices is not None else None
        chosen = resolve_target(target, described=dry_run)
        if not chosen.live:
            refuse(context, f"{chosen.name} measures on no GPU", "devices")
        gpus = (seen.result() if seen is not None else (0,)) if chosen.live else ()
        table = None if chosen.table is None else read_table(chosen.table)
        entries = read_plan(path, lambda options: asked_by_entry(options, chosen, table), target)
        processes, capped = at_most_cores(workers)
        for line in capped:
            typer.echo(line, err=True)

        def say(line: str) -> None:
            if not quiet:
                typer.echo(line, err=as_json)

        plan = PlanRun(entries, chosen, gpus, processes, db, out, say, ahead)
        if dry_run:
            print_plan(plan, as_json=as_json)
            return
        try:
            run_plan(plan, as_json=as_json, quiet=quiet)
        except KeyboardInterrupt:
            typer.echo("\nStopped. Every finished trial is stored; the same command goes on.", err=True)
            raise typer.Exit(interrupt.exit_code()) from None


def _trials(*, estimated: bool, problems: int) -> int:
    """The default budget: several shapes share their candidates, so that each needs fewer of its own."""
    if estimated:
        return _OFFLINE_TRIALS
    return max(_LEAST_TRIALS, round(_LIVE_TRIALS / math.pow(problems, 0.75)))


def _refuse_what_has_no_effect(context: typer.Context, target: "Target", backend: str) -> None:
    """Options of the measurement where nothing is measured, and the like.

    Raises:
        UserError: such an option stands on the command line.
    """
    from autotune.errors import UserError
    from autotune.protocol.process_knobs import has_process_knobs

    if not target.live:
        refuse(context, f"{target.name} measures on no GPU", "device", "devices", "cold", "shared_gpu")
    if target.table is not None:
        refuse(context, f"{target.name} compiles nothing", "compile_timeout")
        if given(context, "routing") and context.params["routing"] != target.routing:
            raise UserError(
                f"--routing {context.params['routing']} has no effect here, {target.name} was recorded with"
                f" {target.routing}: leave it out"
            )
    elif not target.live:
        refuse(context, "an estimate knows nothing of the routing", "routing")
        refuse(context, "an estimate decides nothing", "min_gain")
    if not target.live:
        refuse(context, "process-wide settings are timed on a GPU only", "guards")
    if not has_process_knobs(backend):
        refuse(context, f"backend {backend} has no process-wide setting, but a config per shape", "guards")
