"""Run as a program with TRITON_INTERPRET=1: an engine's kernel through the numeric gate, small.

The engine is the first argument. Prints `ok` and the worst error of each of stage 1, stage 2 and the layer.
"""

import sys
from typing import Any

import torch

from autotune.config import Config
from autotune.kernels.reference import quantise_reference
from autotune.measure import bounds
from autotune.measure.gate import check_launch, make_cases
from autotune.measure.runtime import What, load_runtime
from autotune.measure.workload import make_weights
from autotune.problem import Layer, Stage
from autotune.results import LayerConfig
from autotune.routing import UNIFORM

TINY = Layer("tiny", model_dim=64, inter_dim=32, experts=8, top_k=2, tp=1)
CONFIG = Config(
    {"tile_m": 16, "tile_n": 32, "tile_k": 32, "group_m": 1, "num_warps": None, "num_stages": None}
)


def main() -> None:
    # Cutting bfloat16 off, as the interpreter does, errs to one side: what is rounded four times in a row
    # errs by the sum, where real roundings err by the root of the sum of squares.
    bounds.ROOM = 4.0
    runtime: Any = load_runtime(sys.argv[1])

    def quantise(x, *_, **__):  # type: ignore[no-untyped-def]
        # The engines' own rounds by a device library that Triton's interpreter does not have.
        q, scale, _ = quantise_reference(x)
        return q, scale[:, None]

    def activate(gate_up, out, *_, **__):  # type: ignore[no-untyped-def]
        # SGLang's own multiplies bfloat16 values, which the interpreter holds as integers; and cutting
        # everything off, as the interpreter does, adds up to more than rounding ever does.
        gate, up = gate_up.float().chunk(2, dim=1)
        out.copy_(torch.nn.functional.silu(gate) * up)

    calls = runtime.calls
    (calls.moe if sys.argv[1] == "sglang" else calls.quantise).per_token_quant_int8 = quantise
    calls.activate = activate
    weights = make_weights(TINY, "cpu", 1)
    runtime.prepare(TINY, weights)
    runtime.grow(2)
    for tokens in (1, 3):
        for case in make_cases(TINY, weights, tokens, UNIFORM, 1, "cpu", 2, thorough=True):
            for stage in Stage:
                what = What(stage.value)
                launch = runtime.stage(stage, CONFIG, case.inputs, [case.step])[0]
                print(what, check_launch(launch, case, what, runtime.path(what, CONFIG)))
            both = LayerConfig(CONFIG, CONFIG)
            launch = runtime.layer(both, case.inputs, [case.step])[0]
            print("layer", check_launch(launch, case, What.LAYER, runtime.path(What.LAYER, both)))
    print("ok")


if __name__ == "__main__":
    main()
