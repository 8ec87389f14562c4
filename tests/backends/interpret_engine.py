"""Run as a program with TRITON_INTERPRET=1: an engine's kernel through the numeric gate, small.

The backend is the first argument; with `ep` as the second, half of the experts are another GPU's. Prints
`ok` and the worst error of each of stage 1, stage 2 and the layer.
"""

import sys
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import triton.language as tl
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

from autotune.backends.sglang.calls import BY_GROUP
from autotune.engines import glue
from autotune.engines.backend import EngineBackend
from autotune.kernels.formats import quantise
from autotune.measure.gate import make_cases
from autotune.measure.workload import make_weights
from autotune.problem.layer import Layer, Stage
from autotune.problem.routing import UNIFORM
from autotune.protocol.registry import load_backend
from autotune.protocol.runtime import What, format_of, load_runtime
from autotune.results import LayerConfig
from autotune.space.config import Config
from tests.gate import check_launch

# Two groups of 32 in the shorter K, and two tiles or more of every kind.
TINY = Layer("tiny", model_dim=128, inter_dim=64, experts=8, top_k=2, tp=1)
CONFIG = Config(
    {"tile_m": 16, "tile_n": 32, "tile_k": 32, "group_m": 1, "num_warps": None, "num_stages": None}
)


def teach_bf16() -> None:
    """Triton's interpreter holds bfloat16 values as integers: it multiplies, and converts to, just those."""
    own, from_integer = InterpreterBuilder.create_dot, InterpreterBuilder.create_si_to_fp

    def widened(handle: TensorHandle) -> TensorHandle:
        return TensorHandle((handle.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    def dot(self: Any, a: TensorHandle, b: TensorHandle, *rest: Any) -> Any:
        if a.dtype == tl.bfloat16:
            a, b = widened(a), widened(b)
        return own(self, a, b, *rest)

    def si_to_fp(self: Any, value: TensorHandle, kind: Any) -> Any:
        if kind.scalar != tl.bfloat16:
            return from_integer(self, value, kind)
        return self.create_fp_trunc(from_integer(self, value, tl.float32), kind)

    InterpreterBuilder.create_dot = dot
    InterpreterBuilder.create_si_to_fp = si_to_fp


def stand_in(backend: EngineBackend, runtime: Any) -> None:
    """Puts torch in the place of what the interpreter cannot do, or cannot do well enough."""

    def quantised(x, *_, **__):  # type: ignore[no-untyped-def]
        # INT8: the engines' own rounds by a device library that the interpreter does not have. FP8: the
        # interpreter cuts off there too.
        q, scale = quantise(runtime.format, x)
        return q, scale if scale.dim() == 2 else scale[:, None]

    def activate(gate_up, out, *_, **__):  # type: ignore[no-untyped-def]
        # SGLang's own multiplies bfloat16 values, which the interpreter holds as integers; and cutting
        # everything off, as the interpreter does, adds up to more than rounding ever does.
        gate, up = gate_up.float().chunk(2, dim=1)
        out.copy_(torch.nn.functional.silu(gate) * up)

    calls = runtime.calls
    calls.activate = activate
    glue.quantise_fp8 = quantised
    for module in (calls.moe, getattr(calls, "quantise", None)):
        for name in ("per_token_quant_int8", "scaled_fp8_quant", *BY_GROUP):
            if module is not None and hasattr(module, name):
                setattr(module, name, quantised)


def main() -> None:
    teach_bf16()
    backend: Any = load_backend(sys.argv[1])
    runtime: Any = load_runtime(backend.runtime)
    stand_in(backend, runtime)
    layer = replace(TINY, ep=2) if sys.argv[2:] == ["ep"] else TINY
    if backend.row.dtype.blocks or backend.row.dtype.group == 128:  # two in each direction of either stage
        layer = replace(layer, model_dim=256, inter_dim=256, experts=4)
    weights = make_weights(layer, "cpu", 1)
    runtime.prepare(layer, weights)
    runtime.grow(2)
    for tokens in (1, 3):
        form, all_of_them = format_of(runtime), tokens > 1
        for case in make_cases(layer, weights, tokens, UNIFORM, 1, "cpu", 2, thorough=all_of_them, form=form):
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
