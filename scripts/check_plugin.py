"""Our W4A8 kernels through vLLM's own routed-experts layer, on the GPU of this machine, against the operator.

    python scripts/unpack_engine.py vllm-0.33.0-….whl .engines --plugin
    python scripts/check_plugin.py --root .engines

A layer at a model's dimensions is made by vLLM's classes with the plugin's method, filled with random weights
of a Quark checkpoint, converted as at load, and captured in a graph at each number of tokens: its result must
be the operator's, bit by bit, and its replay at most `--most` µs longer. Then two ranks' shares of the
experts (expert parallelism) must sum up to it. No model is served here.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from bench import plugin_vllm

from autotune.kernels import fused_moe_w4a8
from autotune.problem.layer import Layer
from autotune.problem.models import preset

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


def main() -> int:
    options = _parser().parse_args()
    plugin_vllm.install(options.root)
    from autotune.serving import vllm

    vllm.register()
    layer = Layer.of(preset(options.model), options.tp)
    made, seconds, peak = _loaded(layer, layer.experts, ep=False)
    gigabytes = sum(p.nbytes for p in made.parameters()) / 1e9
    print(
        f"{layer.key} on {torch.cuda.get_device_name()}: {gigabytes:.2f} GB a layer,"
        f" converted in {seconds:.1f} s with {peak / 1e6:.0f} MB more at most"
    )
    run, experts = plugin_vllm.runner(made), made.autotune_experts
    weights = (experts.w1, experts.w2, experts.w1_scale, experts.w2_scale)
    wrong = 0
    print("tokens  operator, µs  vLLM's layer, µs  difference, µs  equal bits")
    for tokens in map(int, options.tokens.split(",")):
        x, topk_weight, ids = _step(layer, tokens)

        def operator(x: Any = x, topk_weight: Any = topk_weight, ids: Any = ids) -> torch.Tensor:
            return fused_moe_w4a8(x, *weights, topk_weight, ids)

        def through(x: Any = x, topk_weight: Any = topk_weight, ids: Any = ids) -> torch.Tensor:
            return run(x, topk_weight, ids)

        direct, engine = _graph(operator), _graph(through)
        equal = torch.equal(direct[1], engine[1])
        rounds = [(_time(direct[0]), _time(engine[0])) for _ in range(options.rounds)]
        ours, theirs = (median(times) for times in zip(*rounds, strict=True))
        over = median(b - a for a, b in rounds)
        wrong += not equal or over > options.most
        print(f"{tokens:6} {ours:12.2f} {theirs:16.2f} {over:15.2f}  {equal}", flush=True)
    wrong += _ranks(layer)
    print(f"{len(plugin_vllm.stand_ins())} modules of vLLM and others were stood in for")
    return 1 if wrong else 0


def _loaded(layer: Layer, experts: int, *, ep: bool, rank: int = 0) -> tuple[Any, float, int]:
    """A layer with random weights, the seconds of its conversion, and the bytes that this took besides."""
    _, config = plugin_vllm.config(_QUARK, plugin_vllm.USER)
    with torch.device("cuda"):
        made = plugin_vllm.layer(
            config,
            experts=experts,
            model_dim=layer.model_dim,
            inter_dim=layer.inter_dim,
            top_k=layer.top_k,
            tp=2 if ep else 1,
            rank=rank,
            ep=ep,
        )
    generator = torch.Generator("cuda").manual_seed(rank)
    for name, parameter in made.named_parameters():
        if name.endswith("_weight"):
            parameter.data.random_(-(1 << 31), (1 << 31) - 1, generator=generator)
        else:
            parameter.data.uniform_(0.05, 0.15, generator=generator)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before, start = torch.cuda.memory_allocated(), time.perf_counter()
    plugin_vllm.process(made)
    torch.cuda.synchronize()
    return made, time.perf_counter() - start, torch.cuda.max_memory_allocated() - before


def _step(layer: Layer, tokens: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator("cuda").manual_seed(tokens)
    x = torch.randn(tokens, layer.model_dim, generator=generator, device="cuda").bfloat16()
    logits = torch.randn(tokens, layer.experts, generator=generator, device="cuda")
    weight, ids = logits.softmax(-1).topk(layer.top_k)
    return x, weight, ids.int()


def _graph(call: Callable[[], torch.Tensor]) -> tuple[torch.cuda.CUDAGraph, torch.Tensor]:
    call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = call()
    for _ in range(20):
        graph.replay()
    torch.cuda.synchronize()
    return graph, out


def _time(graph: torch.cuda.CUDAGraph, count: int = 50) -> float:
    """Microseconds of a replay."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(count):
        graph.replay()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) * 1e3 / count


def _ranks(layer: Layer) -> int:
    """Two ranks' shares of the experts, in graphs, against the operator with all of them; failures."""
    ranks = [_loaded(layer, layer.experts, ep=True, rank=rank)[0] for rank in range(2)]
    whole = [
        torch.cat([getattr(made.autotune_experts, part) for made in ranks])
        for part in ("w1", "w2", "w1_scale", "w2_scale")
    ]
    failures = 0
    for tokens in (4, 64, 1024):
        x, weight, ids = _step(layer, tokens)
        ids[0] = torch.arange(layer.top_k, device="cuda")  # nothing of it on the second rank
        reference = fused_moe_w4a8(x, *whole, weight, ids).float()
        parts = []
        for made in ranks:
            run = plugin_vllm.runner(made)
            parts.append(_graph(lambda run=run, x=x, weight=weight, ids=ids: run(x, weight, ids))[1].float())
        error = float((sum(parts) - reference).norm() / reference.norm())
        failures += not error < 5e-3
        print(f"two ranks of experts, {tokens} tokens: {error:.1e} from the operator with all")
    return failures


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", type=Path, required=True, help="folder that holds vllm/")
    parser.add_argument("--model", default="kimi-k2.5-w4a8")
    parser.add_argument("--tp", type=int, default=8)
    parser.add_argument("--tokens", default="1,2,4,8,64,160,4096")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--most", type=float, default=2.0, help="µs that the layer may take more")
    return parser


if __name__ == "__main__":
    sys.exit(main())
