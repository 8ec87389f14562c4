"""Our W4A8 kernels through an engine's own routed-experts layer, on the GPU of this machine, against the
operator.

    python scripts/unpack_engine.py vllm-0.33.0-….whl .engines --plugin
    python scripts/check_plugin.py --engine vllm --root .engines

A layer at a model's dimensions is made by vLLM's or SGLang's classes with the plugin's method, filled with
random weights of a Quark checkpoint, converted as at load, and captured in a graph at each number of tokens:
its result must be the operator's, bit by bit, and its replay at most `--most` µs longer, or 0.5 %. Then the
most tokens of one call must be what four calls give, and two ranks' shares of the experts (expert
parallelism) must sum up to the layer. No model is served here.

With TRITON_INTERPRET=1 and `--small` it does the same on the CPU, without graphs and times.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from autotune.kernels import fused_moe_w4a8
from autotune.problem.layer import Layer
from autotune.problem.models import preset
from autotune.serving.experts import INT8_VARIABLE, MOST_TOKENS

_QUARK = {
    "quant_method": "quark",
    "export": {"pack_method": "reorder", "kv_cache_group": []},
    "exclude": [],
    "global_quant_config": {
        "weight": [
            {"dtype": "fp8_e4m3", "qscheme": "per_tensor"},
            {"dtype": "int4", "qscheme": "per_channel", "symmetric": True, "ch_axis": 0},
        ],
        "input_tensors": {"dtype": "fp8_e4m3", "is_dynamic": True},
    },
    "layer_quant_config": {},
    "layer_type_quant_config": {},
}


_DEVICE: Final = "cuda" if torch.cuda.is_available() else "cpu"
_SHARE: Final = 0.005
"""Of the operator's time: SGLang's layer looks for tokens of which no expert is here, which it does not."""
_SMALL: Final = Layer("small", 128, 64, experts=8, top_k=2, tp=1)


def main() -> int:
    options = _parser().parse_args()
    os.environ[INT8_VARIABLE] = "1"
    engine = import_module(f"bench.plugin_{options.engine}")
    engine.install(options.root)
    import_module(f"autotune.serving.{options.engine}").register()
    layer = _SMALL if options.small else Layer.of(preset(options.model), options.tp)
    made, seconds, peak = _loaded(engine, layer)
    where = torch.cuda.get_device_name() if _DEVICE == "cuda" else "the CPU"
    megabytes = sum(parameter.nbytes for parameter in made.parameters()) / 1e6
    print(
        f"{layer.key} through {options.engine} on {where}: {megabytes:.1f} MB a layer, converted in"
        f" {seconds:.2f} s with {peak / 1e6:.1f} MB more at most"
    )
    run, experts = engine.runner(made), made.autotune_experts
    weights = (experts.w1, experts.w2, experts.w1_scale, experts.w2_scale)
    wrong = 0
    print("tokens  operator, µs  the layer, µs  difference, µs  equal bits")
    for tokens in map(int, options.tokens.split(",")):
        x, topk_weight, ids = _step(layer, tokens)

        def operator(x: Any = x, topk_weight: Any = topk_weight, ids: Any = ids) -> torch.Tensor:
            return fused_moe_w4a8(x, *weights, topk_weight, ids)

        def through(x: Any = x, topk_weight: Any = topk_weight, ids: Any = ids) -> torch.Tensor:
            return run(x, topk_weight, ids)

        direct, through_it = _captured(operator), _captured(through)
        equal = torch.equal(direct[1], through_it[1])
        rounds = [(_time(direct[0]), _time(through_it[0])) for _ in range(options.rounds)]
        ours, theirs = (median(times) for times in zip(*rounds, strict=True))
        over = median(b - a for a, b in rounds)
        wrong += not equal or over > max(options.most, _SHARE * ours)
        print(f"{tokens:6} {ours:13.2f} {theirs:14.2f} {over:15.2f}  {equal}", flush=True)
    wrong += _whole(run, layer)
    wrong += _ranks(engine, layer)
    print(f"{len(engine.stand_ins())} modules of {options.engine} and others were stood in for")
    return 1 if wrong else 0


def _loaded(engine: Any, layer: Layer, ranks: int = 1, rank: int = 0) -> tuple[Any, float, int]:
    """A rank's share of the experts with random weights, the seconds of its conversion, and the bytes that
    this took besides.

    Args:
        engine: `bench.plugin_vllm` or `bench.plugin_sglang`.
    """
    _, config = engine.config(_QUARK, engine.USER)
    with torch.device(_DEVICE):
        made = engine.layer(
            config,
            experts=layer.experts,
            model_dim=layer.model_dim,
            inter_dim=layer.inter_dim,
            top_k=layer.top_k,
            tp=ranks,
            rank=rank,
            ep=ranks > 1,
        )
    generator = torch.Generator(_DEVICE).manual_seed(rank)
    for name, parameter in made.named_parameters():
        if name.endswith("_weight"):
            parameter.data.random_(-(1 << 31), (1 << 31) - 1, generator=generator)
        else:
            parameter.data.uniform_(0.05, 0.15, generator=generator)
    before, start = _memory(), time.perf_counter()
    engine.process(made)
    peak = _memory(peak=True) - before
    return made, time.perf_counter() - start, peak


def _memory(*, peak: bool = False) -> int:
    """Bytes that tensors take on the GPU, or took at most since the last call without `peak`."""
    if _DEVICE == "cpu":
        return 0
    torch.cuda.synchronize()
    if peak:
        return torch.cuda.max_memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def _step(layer: Layer, tokens: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator(_DEVICE).manual_seed(tokens)
    x = torch.randn(tokens, layer.model_dim, generator=generator, device=_DEVICE).bfloat16()
    logits = torch.randn(tokens, layer.experts, generator=generator, device=_DEVICE)
    weight, ids = logits.softmax(-1).topk(layer.top_k)
    return x, weight, ids.int()


def _captured(call: Callable[[], torch.Tensor]) -> tuple[Any, torch.Tensor]:
    """A graph of a call, and where its result lies; on the CPU there is none."""
    out = call()
    if _DEVICE == "cpu":
        return None, out
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = call()
    for _ in range(20):
        graph.replay()
    torch.cuda.synchronize()
    return graph, out


def _time(graph: Any, count: int = 50) -> float:
    """Microseconds of a replay."""
    if graph is None:
        return 0.0
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(count):
        graph.replay()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) * 1e3 / count


def _whole(run: Callable[..., torch.Tensor], layer: Layer) -> int:
    """As many tokens as a call may have, against four calls of a quarter each; failures."""
    tokens = MOST_TOKENS if _DEVICE == "cuda" else 40
    step = _step(layer, tokens)
    parts = [run(*part) for part in zip(*(tensor.chunk(4) for tensor in step), strict=True)]
    reference = torch.cat(parts).float()
    error = float((run(*step).float() - reference).norm() / reference.norm())
    print(f"{tokens} tokens in one call: {error:.1e} from four calls")
    return int(not error < 5e-3)


def _ranks(engine: Any, layer: Layer) -> int:
    """Two ranks' shares of the experts, in graphs, against the operator with all of them; failures."""
    ranks = [_loaded(engine, layer, 2, rank)[0] for rank in range(2)]
    whole = [
        torch.cat([getattr(made.autotune_experts, part) for made in ranks])
        for part in ("w1", "w2", "w1_scale", "w2_scale")
    ]
    failures = 0
    for tokens in (4, 64, 1024) if _DEVICE == "cuda" else (4,):
        x, weight, ids = _step(layer, tokens)
        ids[0] = torch.arange(layer.top_k, device=_DEVICE)  # nothing of it on the second rank
        reference = fused_moe_w4a8(x, *whole, weight, ids).float()
        parts = []
        for made in ranks:
            run = engine.runner(made)
            call = _captured(lambda run=run, x=x, weight=weight, ids=ids: run(x, weight, ids))
            parts.append(call[1].float())
        error = float((sum(parts) - reference).norm() / reference.norm())
        failures += not error < 5e-3
        print(f"two ranks of experts, {tokens} tokens: {error:.1e} from the operator with all")
    return failures


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--engine", choices=("vllm", "sglang"), default="vllm")
    parser.add_argument("--root", type=Path, required=True, help="folder that holds vllm/ or sglang/")
    parser.add_argument("--small", action="store_true", help="a small layer, for a trial on the CPU")
    parser.add_argument("--model", default="kimi-k2.5-w4a8")
    parser.add_argument("--tp", type=int, default=8)
    parser.add_argument("--tokens", default="1,2,4,8,64,160,4096")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--most", type=float, default=2.0, help="µs that the layer may take more")
    return parser


if __name__ == "__main__":
    sys.exit(main())
