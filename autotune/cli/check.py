"""`autotune check`: candidates' machine code, executed on the CPU."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from autotune.cli.options import (
    YEAR_S,
    BackendName,
    Concurrency,
    Database,
    FlydslPython,
    FlydslRoot,
    FusedShared,
    Json,
    ModelConfig,
    ModelName,
    Requantised,
    Shape,
    TargetName,
    Tp,
    at_most_cores,
    between,
    make_layer,
    make_problems,
)

if TYPE_CHECKING:
    from autotune.backends.base import Backend
    from autotune.check.judged import Candidate
    from autotune.devices import Device
    from autotune.problem import Problem, Stage
    from autotune.store.store import Store


def check(
    config: Annotated[
        list[str] | None,
        typer.Option(
            help="Knobs over the default, e.g. tile_k=128; `default` is the default itself. May be repeated."
            " Without it: the default, published configs and the database's short list."
        ),
    ] = None,
    stage: Annotated[str | None, typer.Option(help="stage1 or stage2; default: both.")] = None,
    backend: BackendName = "triton",
    shape: Shape = "m4",
    concurrency: Concurrency = "1",
    model: ModelName = "kimi-k2.5-w4a8",
    model_config: ModelConfig = None,
    tp: Tp = 8,
    fused_shared_experts: FusedShared = False,
    requantised: Requantised = False,
    target: TargetName = "offline:mi325x",
    flydsl_root: FlydslRoot = None,
    flydsl_python: FlydslPython = None,
    illegal: Annotated[
        bool,
        typer.Option("--illegal", help="Check configs that the space refuses as well, to see what they do."),
    ] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes, one a core at most; default: at most 16.")
    ] = None,
    time_limit: Annotated[
        float,
        typer.Option(
            callback=between(0.1, YEAR_S),
            help="Seconds that one candidate may take, its compile included.",
        ),
    ] = 120.0,
    db: Database = None,
    as_json: Json = False,
) -> None:
    """Execute candidates' gfx942 machine code on the CPU and compare their numbers.

    No GPU is needed. The binary is the one that would be launched; a sample of its workgroups is executed.
    Exit code 1: something is wrong. What the interpreter does not know is `not emulated`, which is no pass.

    Examples:

      autotune check --shape m4

      autotune check --stage stage2 --config reduce=atomic --config tile_k=128,split_k=2
    """
    from autotune.backends import load_backend
    from autotune.check.check import require_checks
    from autotune.check.judged import Checks
    from autotune.errors import UserError
    from autotune.problem import Stage
    from autotune.report.checks import judged_json, lines, summary
    from autotune.store.store import Store
    from autotune.targets import resolve_target

    if stage is not None and stage not in list(Stage):
        raise UserError(f"--stage {stage!r} is no stage: use stage1 or stage2")
    require_checks(backend)
    processes, capped = at_most_cores(workers)
    for line in capped:
        typer.echo(line, err=True)
    stages = list(Stage) if stage is None else [Stage(stage)]
    layer = make_layer(
        model, model_config, tp, fused_shared_experts, requantised=requantised, backend=backend
    )
    problems = make_problems(layer, shape, concurrency, "uniform")
    device, family = resolve_target(target).device, load_backend(backend)
    with Store.open(db) as store:
        candidates = [
            candidate
            for problem in problems
            for at in stages
            for candidate in _candidates(store, family, problem, at, device, config, illegal)
        ]
        most = min(processes, len(candidates)) if workers else min(16, processes, len(candidates))
        with Checks(
            backend, device, workers=max(1, most), store=store, reuse=False, time_limit_s=time_limit
        ) as checks:
            judged = checks.judge(candidates)
    if as_json:
        typer.echo(json.dumps([judged_json(each) for each in judged], indent=2))
    else:
        defaults = {
            (problem.shape, str(at)): family.space(layer, problem.tokens, at, device).default
            for problem in problems
            for at in stages
        }
        typer.echo(f"{layer.key}, backend {backend}, {device.arch} machine code executed on the CPU")
        for line in lines(judged, defaults):
            typer.echo(line)
        typer.echo(summary(judged))
    if any(each.wrong for each in judged):
        raise typer.Exit(1)


def _candidates(
    store: "Store",
    backend: "Backend",
    problem: "Problem",
    stage: "Stage",
    device: "Device",
    configs: list[str] | None,
    illegal: bool,
) -> "list[Candidate]":
    """What to check at one stage of a problem.

    Raises:
        UserError: a config is illegal.
    """
    from autotune.check.judged import Candidate
    from autotune.config import Config
    from autotune.errors import UserError
    from autotune.results import Kind

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
    made = []
    for text in configs:
        config = space.default if text == "default" else space.complete(Config.parse(text))
        rule = None if illegal else space.broken_rule(config)
        if rule is not None:
            raise UserError(
                f"{config} is illegal for {backend.name} {stage}: {rule.reason}; choose another value, or see"
                " what it does with --illegal"
            )
        made.append(Candidate(problem, stage, config, "asked for"))
    return made
