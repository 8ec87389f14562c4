"""Has AITER build what it builds at first use, which takes minutes: no candidate's time limit may pay for it.

    python -m autotune.backends.aiter.warm_up [SHAPE [CONCURRENCY]]

Launches the default layer once at each problem, through the runtime that measures.
"""

import sys
import time

from autotune.backends.aiter.backend import Aiter
from autotune.errors import UserError
from autotune.machine.devices import DEVICES
from autotune.measure.workload import make_activations, make_steps, make_weights
from autotune.problem import DEFAULT_MODEL
from autotune.problem.layer import Layer, Problem, Stage, parse_concurrency, parse_shapes, problems
from autotune.problem.models import preset
from autotune.problem.routing import UNIFORM
from autotune.protocol.runtime import Runtime, load_runtime
from autotune.results import LayerConfig


def warm_up(runtime: Runtime, wanted: list[Problem]) -> None:
    """Launches each problem's default layer once."""
    import numpy as np

    layer, device = wanted[0].layer, runtime.machine.device
    runtime.prepare(layer, make_weights(layer, device, seed=0))
    runtime.grow(1)
    for problem in wanted:
        started = time.monotonic()
        spaces = (Aiter().space(layer, problem.tokens, stage, DEVICES["mi325x"]) for stage in Stage)
        config = LayerConfig(*(space.default for space in spaces))
        ids = UNIFORM.draw(
            steps=1,
            sequences=problem.tokens,
            draft_tokens=1,
            experts=layer.experts,
            top_k=layer.top_k,
            seed=0,
        )
        steps = make_steps(ids, np.zeros(1, np.int32), device, seed=0)
        inputs = make_activations(layer, problem.tokens, device, seed=0)
        runtime.layer(config, inputs, steps)[0].run()
        for stage in Stage:
            runtime.stage(stage, config.of(stage), inputs, steps)[0].run()
        runtime.machine.synchronize()
        print(f"{problem.shape}: {time.monotonic() - started:.1f} s", flush=True)


def main() -> None:
    """Warms up what the command line names; by default m4 at one and forty sequences."""
    asked = sys.argv[1:]
    shape = asked[0] if asked else "m4"
    concurrency = asked[1] if len(asked) > 1 else "1,40"
    layer = Layer.of(preset(DEFAULT_MODEL), tp=8)
    wanted = problems(layer, parse_shapes(shape), parse_concurrency(concurrency), UNIFORM)
    warm_up(load_runtime(Aiter.runtime), wanted)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
