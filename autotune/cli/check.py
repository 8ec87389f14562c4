"""`autotune check`: candidates' machine code, executed on the CPU."""

from typing import TYPE_CHECKING, Annotated

import typer

from autotune.cli import complete
from autotune.cli.groups import FlydslOptions, LayerOptions, make_problems
from autotune.cli.options import (
    BackendName,
    Concurrency,
    Database,
    Json,
    LogFile,
    Quiet,
    Shape,
    TargetName,
    at_most_cores,
    between,
    refuse,
)
from autotune.cli.output import print_json
from autotune.protocol import DEFAULT_BACKEND
from autotune.quantities import YEAR_S

if TYPE_CHECKING:
    from autotune.check.execution import Beside
    from autotune.check.judged import Candidate
    from autotune.machine.devices import Device
    from autotune.problem.layer import Problem, Stage
    from autotune.protocol.backend import Backend
    from autotune.results import CheckVerdict
    from autotune.space.config import Config
    from autotune.store.store import Store


def check(
    context: typer.Context,
    config: Annotated[
        list[str] | None,
        typer.Option(
            help="Knobs that differ from the default: of one stage (stage1:tile_k=128), of both"
            " (stage1:…;stage2:…), or without a stage of each that is checked; `default` is the"
            " default itself. May be"
            " repeated. Without it: the default, published configs and the database's short list.",
            metavar="CONFIG",
        ),
    ] = None,
    stage: Annotated[
        str | None, typer.Option(help="stage1 or stage2; default: both.", autocompletion=complete.stages)
    ] = None,
    backend: BackendName = DEFAULT_BACKEND,
    shape: Shape = "m4",
    concurrency: Concurrency = "1",
    model: LayerOptions = LayerOptions(),
    target: TargetName = "offline:mi325x",
    flydsl: FlydslOptions = FlydslOptions(),
    illegal: Annotated[
        bool,
        typer.Option("--illegal", help="Check configs that the space refuses as well, to see what they do."),
    ] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes, at most one per core; default: at most 16.")
    ] = None,
    time_limit: Annotated[
        float,
        typer.Option(
            callback=between(0.1, YEAR_S),
            help="Time limit of one candidate in seconds, its compile included.",
        ),
    ] = 120.0,
    db: Database = None,
    log_file: LogFile = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Execute candidates' gfx942 machine code on the CPU and compare their numbers.

    No GPU is needed. The binary is the one that would be launched; a sample of its workgroups is executed.
    With stage 1 what a layer launches beside its two GEMMs is checked too, where the backend compiles it.
    Exit code 1: something is wrong. What the interpreter does not know is `not emulated`, which is no pass.

    Examples:

      autotune check --shape m4

      autotune check --config stage2:reduce=atomic --config stage2:tile_k=128,split_k=2
    """
    from autotune.check.check import checker_of
    from autotune.check.judged import Checks
    from autotune.errors import UserError
    from autotune.problem.layer import Stage
    from autotune.protocol.registry import load_backend
    from autotune.report.checks import beside_json, beside_line, judged_json, lines, summary
    from autotune.store.store import Store
    from autotune.tuning.subjects import by_stage
    from autotune.tuning.targets import resolve_target

    if stage is not None and stage not in list(Stage):
        raise UserError(f"unknown --stage {stage!r}: use stage1 or stage2")
    checker_of(backend)
    if config is None:
        refuse(context, "without --config only legal configs are checked", "illegal")
    processes, capped = at_most_cores(workers)
    for line in capped:
        typer.echo(line, err=True)
    stages = list(Stage) if stage is None else [Stage(stage)]
    configs = None if config is None else [by_stage(text) for text in config]
    for named in configs or ():
        if other := next((s for s in named if s is not None and s not in stages), None):
            raise UserError(f"--stage {stage} leaves out {other}, which --config names: leave out --stage")
    if configs and not any(None in named for named in configs):
        stages = [each for each in stages if any(each in named for named in configs)]
    layer = model.layer(backend)
    problems = make_problems(layer, shape, concurrency, "uniform")
    device, family = resolve_target(target).device, load_backend(backend)
    with Store.open(db) as store:
        candidates = [
            candidate
            for problem in problems
            for at in stages
            for candidate in _candidates(store, family, problem, at, device, configs, illegal)
        ]
        most = min(processes, len(candidates)) if workers else min(16, processes, len(candidates))
        with Checks(
            backend, device, workers=max(1, most), store=store, reuse=False, time_limit_s=time_limit
        ) as checks:
            judged = checks.judge(candidates)
    others = _beside(backend, candidates, device)
    if as_json:
        print_json([*(judged_json(each) for each in judged), *(beside_json(*each) for each in others)])
    else:
        defaults = {
            (problem.shape, str(at)): family.space(layer, problem.tokens, at, device).default
            for problem in problems
            for at in stages
        }
        if not quiet:
            typer.echo(f"{layer.key}, backend {backend}, {device.arch} machine code executed on the CPU")
        for line in lines([each for each in judged if each.wrong] if quiet else judged, defaults):
            typer.echo(line)
        for shape, config_, launch, verdict in others:
            if verdict.wrong or not quiet:
                typer.echo(beside_line(shape, config_, launch, verdict))
        if not quiet:
            typer.echo(summary(judged))
    if any(each.wrong for each in judged) or any(verdict.wrong for *_, verdict in others):
        raise typer.Exit(1)


def _beside(
    backend: str, candidates: "list[Candidate]", device: "Device"
) -> "list[tuple[str, Config, Beside, CheckVerdict]]":
    """Verdicts on what the layers launch beside the GEMMs, once for each block size that stage 1 has."""
    from autotune.check.check import execute_beside
    from autotune.problem.layer import Stage
    from autotune.space.config import Config

    first = {
        (each.problem, each.config.get("tile_m")): each
        for each in reversed(candidates)
        if each.stage is Stage.STAGE1
    }
    return [
        (problem.shape, Config({"tile_m": tile_m}), launch, verdict)
        for (problem, tile_m), each in first.items()
        for launch, verdict in execute_beside(backend, problem.layer, problem.tokens, each.config, device)
    ]


def _candidates(
    store: "Store",
    backend: "Backend",
    problem: "Problem",
    stage: "Stage",
    device: "Device",
    configs: "list[dict[Stage | None, str]] | None",
    illegal: bool,
) -> "list[Candidate]":
    """What to check at one stage of a problem.

    Raises:
        UserError: a config is illegal.
    """
    from autotune.check.judged import Candidate
    from autotune.errors import UserError
    from autotune.machine.targets import Kind

    space = backend.space(problem.layer, problem.tokens, stage, device)
    if configs is None:
        named = {space.default: "default"}
        for label, seed in backend.seeds(problem.layer, problem.tokens, stage, device).items():
            named.setdefault(seed, label)
        for best in store.winners(problem=problem, backend=backend.name, kind=Kind.ESTIMATE):
            for entry in store.short_list(best):
                config = entry.config.of(stage)
                # A list of an older space may hold knobs that are gone.
                if config.keys() == space.default.keys():
                    named.setdefault(config, "short list")
        return [Candidate(problem, stage, config, label) for config, label in named.items()]
    candidates = []
    for knobs in configs:
        text = knobs.get(stage, knobs.get(None))
        if text is None:
            continue
        config = space.named(text)
        rule = None if illegal else space.broken_rule(config)
        if rule is not None:
            raise UserError(
                f"{config} is illegal for {backend.name} {stage}: {rule.reason}; choose another value, or see"
                " what it does with --illegal"
            )
        candidates.append(Candidate(problem, stage, config, "asked for"))
    return candidates
