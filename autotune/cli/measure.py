"""`autotune measure`: the time of one config, with its interval."""

from typing import Annotated, Any

import typer

from autotune.cli.groups import LayerOptions, MeasuringOptions, make_problems
from autotune.cli.options import BackendName, Concurrency, Json, LogFile, RoutingModel, Shape, say_waiting
from autotune.cli.output import print_json
from autotune.protocol import DEFAULT_BACKEND


def measure(
    config: Annotated[
        str,
        typer.Option(
            help="default, stage1:KNOB=VALUE,…, or stage1:…;stage2:… for the layer."
            " Knobs that are not named keep their default."
        ),
    ] = "default",
    shape: Shape = "m4",
    concurrency: Concurrency = "1",
    model: LayerOptions = LayerOptions(),
    routing: RoutingModel = "uniform",
    backend: BackendName = DEFAULT_BACKEND,
    measuring: MeasuringOptions = MeasuringOptions(),
    log_file: LogFile = None,
    as_json: Json = False,
) -> None:
    """Time one config on this machine's GPU, with its 95% interval over fresh routings.

    Examples:

      autotune measure --config stage1:tile_k=256,split_k=2 --shape m4

      autotune measure --config default --shape all
    """
    from dataclasses import asdict

    from autotune.measure.pool import Measurer
    from autotune.protocol.process_knobs import layer_environment
    from autotune.protocol.registry import load_backend
    from autotune.results import Failure
    from autotune.tuning.subjects import Resolver
    from autotune.tuning.targets import resolve_target

    problems = make_problems(model.layer(backend), shape, concurrency, routing)
    kernels = load_backend(backend)
    resolver = Resolver(kernels, resolve_target("live").device)
    named = {problem: resolver.resolve(config, problem) for problem in problems}
    settings = measuring.settings()
    environments = layer_environment(kernels.environment)
    failed = False
    results: list[dict[str, Any]] = []
    shared = " (shared)" if measuring.shared_gpu else ""
    with Measurer(kernels.runtime, problems, settings, say_waiting) as measurer:
        gpu = measurer.fingerprint().device
        for problem, subject in named.items():
            answer = measurer.interval(problem, subject.subject, subject.stage, environments)
            what = str(subject.stage or "layer")
            row: dict[str, Any] = {
                "shape": problem.shape,
                "what": what,
                "device": gpu,
                "workload": settings.key,
            }
            if isinstance(answer, Failure):
                failed = True
                results.append({**row, "status": str(answer.status), "reason": answer.reason})
                line = f"{answer.status}: {answer.reason}"
            else:
                interval, error = answer
                results.append({**row, "status": "ok", "us": asdict(interval), "gate_error": error})
                line = (
                    f"{interval.value:.2f} µs (95% CI {interval.low:.2f} to {interval.high:.2f}),"
                    f" numeric error {error:.1e}"
                )
            if not as_json:
                typer.echo(f"{problem.shape} {what} on {gpu}{shared}: {line}")
    if as_json:
        print_json(results)
    if failed:
        raise typer.Exit(1)
