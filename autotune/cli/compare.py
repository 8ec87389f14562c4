"""`autotune compare`: two configs, runs or bundles against each other."""

from typing import Annotated, Any

import typer

from autotune.cli.groups import LayerOptions, MeasuringOptions, make_problems
from autotune.cli.options import (
    BackendName,
    Concurrency,
    Database,
    Json,
    LogFile,
    RoutingModel,
    Shape,
    between,
    refuse,
    say_waiting,
)
from autotune.cli.output import print_json
from autotune.protocol import DEFAULT_BACKEND

_NAMED = "default, stage1:KNOB=VALUE,…, stage1:…;stage2:…, run:ID, or a bundle's folder."


def compare(
    context: typer.Context,
    a: Annotated[str, typer.Argument(help=_NAMED)],
    b: Annotated[str, typer.Argument(help=_NAMED)],
    shape: Shape = "m4",
    concurrency: Concurrency = "1",
    model: LayerOptions = LayerOptions(),
    routing: RoutingModel = "uniform",
    backend: BackendName = DEFAULT_BACKEND,
    measuring: MeasuringOptions = MeasuringOptions(),
    min_effect: Annotated[
        float,
        typer.Option(
            callback=between(0.0, 0.9),
            help="Smallest difference that counts.",
            rich_help_panel="Measuring",
        ),
    ] = 0.01,
    db: Database = None,
    log_file: LogFile = None,
    as_json: Json = False,
) -> None:
    """Compare A and B in paired rounds: B is faster, slower, the same or ambiguous.

    Examples:

      autotune compare default stage1:split_k=2 --shape m4

      autotune compare deploy-old deploy-new --shape all
    """
    from dataclasses import asdict

    from autotune.measure.pool import Measurer
    from autotune.protocol.process_knobs import layer_environment
    from autotune.protocol.registry import load_backend
    from autotune.results import Failure
    from autotune.store.store import Store
    from autotune.tuning.subjects import Resolver
    from autotune.tuning.targets import resolve_target

    problems = make_problems(model.layer(backend), shape, concurrency, routing)
    kernels = load_backend(backend)
    card_here = resolve_target("live").device
    settings = measuring.settings(min_gain=min_effect)
    # A run's number is all that needs the database.
    if a.startswith("run:") or b.startswith("run:"):
        with Store.open(db, read_only=True) as store:
            resolver = Resolver(kernels, card_here, store)
            named = {p: resolver.alike(resolver.resolve(a, p), resolver.resolve(b, p)) for p in problems}
    else:
        refuse(context, "neither side is run:ID", "db")
        resolver = Resolver(kernels, card_here)
        named = {p: resolver.alike(resolver.resolve(a, p), resolver.resolve(b, p)) for p in problems}
    environments = layer_environment(kernels.environment)
    failed = False
    results: list[dict[str, Any]] = []
    shared = " (shared)" if measuring.shared_gpu else ""
    with Measurer(kernels.runtime, problems, settings, say_waiting) as measurer:
        gpu = measurer.fingerprint().device
        for problem, (first, second) in named.items():
            answer = measurer.compare(problem, first.subject, second.subject, first.stage, environments)
            what = str(first.stage or "layer")
            row: dict[str, Any] = {
                "shape": problem.shape,
                "what": what,
                "device": gpu,
                "workload": settings.key,
            }
            if isinstance(answer, Failure):
                failed = True
                results.append(
                    {**row, "verdict": "failed", "status": str(answer.status), "reason": answer.reason}
                )
                line = f"{answer.status}: {answer.reason}"
            else:
                intervals = {
                    "ratio": asdict(answer.ratio),
                    "a_us": asdict(answer.a),
                    "b_us": asdict(answer.b),
                }
                results.append({**row, "verdict": str(answer.verdict), **intervals})
                ratio = answer.ratio
                line = (
                    f"B is {answer.verdict}: {answer.a.value:.2f} -> {answer.b.value:.2f} µs,"
                    f" B/A {ratio.value:.4f} (95% CI {ratio.low:.4f} to {ratio.high:.4f})"
                )
            if not as_json:
                typer.echo(f"{problem.shape} {what} on {gpu}{shared}: {line}")
    if as_json:
        print_json(results)
    if failed:
        raise typer.Exit(1)
