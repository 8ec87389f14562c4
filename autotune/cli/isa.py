"""`autotune isa`: two candidates' machine code side by side."""

from typing import TYPE_CHECKING, Annotated

import typer

from autotune.cli import complete
from autotune.cli.groups import FlydslOptions, LayerOptions, make_problems
from autotune.cli.options import BackendName, Concurrency, Json, TargetName
from autotune.cli.output import print_json
from autotune.protocol import DEFAULT_BACKEND

if TYPE_CHECKING:
    from autotune.check.judged import Judged
    from autotune.machine.devices import Device
    from autotune.problem.layer import Problem, Stage
    from autotune.space.config import Config


def isa(
    config: Annotated[
        list[str],
        typer.Option(
            help="Knobs that differ from the default, stage1:tile_k=128,sched=false or without the stage;"
            " `default` is"
            " the default itself. Give it twice; one alone is compared with the default.",
            metavar="CONFIG",
        ),
    ],
    backend: BackendName = DEFAULT_BACKEND,
    stage: Annotated[
        str | None,
        typer.Option(
            help="stage1 or stage2; default: the one that --config names, else stage1.",
            autocompletion=complete.stages,
        ),
    ] = None,
    shape: Annotated[str, typer.Option(help="m1 to m8.", rich_help_panel="Problem")] = "m4",
    concurrency: Concurrency = "1",
    model: LayerOptions = LayerOptions(),
    target: TargetName = None,
    flydsl: FlydslOptions = FlydslOptions(),
    executed: Annotated[
        bool,
        typer.Option(
            "--executed",
            help="Execute a sample of workgroups on the CPU as well: instructions by class, bytes requested,"
            " 64-byte segments, bytes in flight at each wait.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Compile two configs and show their registers, LDS and instructions with the differences.

    Instructions are counted in the text, a loop's once; with --executed as often as they were executed.

    Example:

      autotune isa --backend flydsl --config stage1:tile_k=128 --config stage1:tile_k=128,sched=false
    """
    from autotune.compile.listing import listings
    from autotune.errors import UserError
    from autotune.problem.layer import Stage
    from autotune.protocol.registry import load_backend
    from autotune.report.executed import executed_json, print_executed
    from autotune.report.isa import compare, print_comparison
    from autotune.tuning.subjects import by_stage
    from autotune.tuning.targets import resolve_target

    problems = make_problems(model.layer(backend), shape, concurrency, "uniform")
    if len(problems) != 1:
        raise UserError("isa looks at one problem: give one --shape and one --concurrency")
    if not 1 <= len(config) <= 2:
        raise UserError("isa compares two configs: give --config twice")
    if stage is not None and stage not in list(Stage):
        raise UserError(f"unknown --stage {stage!r}: use stage1 or stage2")
    named = [by_stage(text) for text in config]
    stages = {str(at) for parts in named for at in parts if at is not None} | ({stage} if stage else set())
    if len(stages) > 1:
        raise UserError(f"isa looks at one stage, and {' and '.join(sorted(stages))} are named: give one")
    (problem,), at = problems, Stage(stages.pop() if stages else Stage.STAGE1)
    stage = str(at)
    device = resolve_target(target).device
    space = load_backend(backend).space(problem.layer, problem.tokens, at, device)
    knobs = [next(iter(parts.values())) for parts in named]
    texts = knobs if len(knobs) == 2 else ["default", *knobs]
    configs = [space.named(text) for text in texts]
    compared = compare(configs, listings(backend, problem.layer, problem.tokens, at, configs, device))
    if executed:
        compared["executed"] = executed_json(_execute(backend, device, problem, at, configs))
    if as_json:
        print_json(compared)
        return
    print_comparison(compared, f"{backend} {stage} at {problem.shape} on {device.name} ({device.arch})")
    if executed:
        print_executed(compared["executed"])


def _execute(
    backend: str, device: "Device", problem: "Problem", stage: "Stage", configs: "list[Config]"
) -> "list[Judged]":
    """Checks the configs; nothing is stored."""
    from autotune.check.judged import Candidate, judge_once

    candidates = [Candidate(problem, stage, config) for config in configs]
    return judge_once(backend, device, candidates)
