"""`autotune spaces`: the search spaces and their sizes."""

from autotune.cli.groups import FlydslOptions, LayerOptions, make_problems
from autotune.cli.options import BackendName, Concurrency, Json, Shape, TargetName
from autotune.cli.output import print_json
from autotune.protocol import DEFAULT_BACKEND


def spaces(
    backend: BackendName = DEFAULT_BACKEND,
    model: LayerOptions = LayerOptions(),
    shape: Shape = "all",
    concurrency: Concurrency = "1",
    target: TargetName = None,
    flydsl: FlydslOptions = FlydslOptions(),
    as_json: Json = False,
) -> None:
    """Show each search space: its knobs, its rules, and how many configs are legal at each shape.

    Example: autotune spaces --shape m1,m4 --concurrency 1,40
    """
    from autotune.problem.layer import Stage
    from autotune.protocol.registry import load_backend
    from autotune.report.spaces import describe, print_spaces
    from autotune.tuning.targets import resolve_target

    layer = model.layer(backend)
    problems = make_problems(layer, shape, concurrency, "uniform")
    device = resolve_target(target, described=True).device
    family = load_backend(backend)
    described = [
        describe(stage, [(p, family.space(layer, p.tokens, stage, device)) for p in problems])
        for stage in Stage
    ]
    if as_json:
        print_json(described)
    else:
        print_spaces(described, f"{backend} on {device.name} ({device.arch}), {layer.key}")
