#!/usr/bin/env python
"""Times our W4A8 layer kernel by kernel, of this tree and of others, on the GPU of this machine.

    git worktree add /tmp/before HEAD~20
    python scripts/layer_breakdown.py --tree before=/tmp/before --out breakdown.json

Each tree runs in a process of its own, in turns (before, here, here, before), with its operator's defaults
or with a file of `autotune export` (`--config`). A layer's time is that of a replayed graph of calls, each
with a routing of its own and on one of several copies of the weights, so that weights are cold; activations
are hot.
A kernel's share comes from the profiler, without the gaps between kernels; with programmatic dependent launch
kernels overlap, and their sum may exceed the layer's time.

The byte floor is what must move at least (the visited experts' weights and scales, the activations in and
out) at `--bandwidth`. Errors are of the bfloat16 output against the float32 reference of the whole layer.
A minute and a half on an H100 for two trees at the default token counts.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TOKENS = (1, 2, 4, 8, 16, 32, 64, 160, 320, 4096)
PARTS = ("prepare", "stage1", "requantise", "stage2")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if options.child:
        print(json.dumps(_child(options)))
        return 0
    here = Path(__file__).resolve().parent.parent
    trees = {name: Path(path) for name, path in (text.split("=", 1) for text in options.tree)}
    trees["here"] = here
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in trees}
    order = list(trees)
    for turn in range(options.turns):
        for name in order if turn % 2 == 0 else order[::-1]:
            print(f"{name}, turn {turn + 1}", file=sys.stderr, flush=True)
            runs[name].append(_run(trees[name], options, turn))
    result = {
        "device": runs["here"][0]["device"],
        "dims": runs["here"][0]["dims"],
        "bandwidth": options.bandwidth,
        "runs": runs,
    }
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(_table(result))
    return 0


def _run(tree: Path, options: argparse.Namespace, turn: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", "--tokens", options.tokens, "--model", options.model]
    command += ["--tp", str(options.tp), "--bandwidth", str(options.bandwidth), "--seed", str(turn)]
    if options.config and tree == Path(__file__).resolve().parent.parent:
        command += ["--config", str(options.config)]
    others = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path != "."]
    path = os.pathsep.join([str(tree), *others])
    done = subprocess.run(
        command, cwd=tree, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, check=True
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _child(options: argparse.Namespace) -> dict[str, Any]:
    """Everything of the tree that PYTHONPATH names first."""
    import torch

    from autotune.kernels import fused_moe_w4a8
    from autotune.kernels.reference import layer_reference
    from autotune.problem.layer import Layer
    from autotune.problem.models import preset

    layer = Layer.of(preset(options.model), options.tp)
    bench = Bench(layer.model_dim, layer.inter_dim, layer.experts, layer.top_k, options.seed)
    rows = []
    for tokens in map(int, options.tokens.split(",")):
        calls = bench.calls(tokens)
        run = [lambda call=call: fused_moe_w4a8(**call, config=options.config) for call in calls]
        us = bench.time(run)
        out = fused_moe_w4a8(**calls[0], config=options.config)
        reference = layer_reference(**calls[0])
        rows.append(
            {
                "tokens": tokens,
                "us": us,
                "parts": bench.parts(run),
                "floor": {part: size / options.bandwidth * 1e-6 for part, size in bench.bytes(calls).items()},
                "error": float((out.float() - reference).norm() / reference.norm()),
            }
        )
        print(tokens, rows[-1], file=sys.stderr, flush=True)
    dims = [layer.model_dim, layer.inter_dim, layer.experts, layer.top_k]
    return {"device": torch.cuda.get_device_name(0), "dims": dims, "rows": rows}


class Bench:
    """A layer's random weights and routings on the GPU, and how its calls are timed."""

    def __init__(
        self, model_dim: int, inter_dim: int, experts: int, top_k: int, seed: int = 0, copies: int = 4
    ) -> None:
        import torch

        self.dims = (model_dim, inter_dim, experts, top_k)
        self._random = torch.Generator("cuda").manual_seed(seed)
        self._weights = [self._make() for _ in range(copies)]

    def calls(self, tokens: int) -> list[dict[str, Any]]:
        """Arguments of the operator, a step each: as many as a graph of some milliseconds takes."""
        import torch

        model_dim, _, experts, top_k = self.dims
        g = self._random
        steps = max(4, min(32, 2048 // tokens))
        x = torch.randn(tokens, model_dim, device="cuda", generator=g).bfloat16()
        calls = []
        for step in range(steps):
            score = torch.rand(tokens, experts, device="cuda", generator=g)
            router = torch.softmax(torch.randn(tokens, top_k, device="cuda", generator=g), -1)
            ids = score.topk(top_k, dim=-1).indices.int()
            weights = self._weights[step % len(self._weights)]
            calls.append({"x": x, **weights, "topk_weight": router, "topk_ids": ids})
        return calls

    def time(self, run: Sequence[Any], samples: int = 9) -> dict[str, float]:
        """Microseconds a call, of replays of one graph of all of them."""
        import torch

        graph = self._graph(run)
        for _ in range(3):
            graph.replay()
        found = []
        for _ in range(samples):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            graph.replay()
            end.record()
            end.synchronize()
            found.append(start.elapsed_time(end) * 1000 / len(run))
        return {"median": statistics.median(found), "least": min(found), "most": max(found)}

    def parts(self, run: Sequence[Any]) -> dict[str, float]:
        """Microseconds of kernel time a call, by where a kernel stands to the two GEMMs."""
        import torch

        graph = self._graph(run)
        graph.replay()
        torch.cuda.synchronize()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            graph.replay()
            torch.cuda.synchronize()
        kernels = sorted(
            (event for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA),
            key=lambda event: event.time_range.start,
        )
        found, part = dict.fromkeys(PARTS, 0.0), "prepare"
        for event in kernels:
            if event.name.startswith("stage"):
                part = event.name[: len("stage1")]
            elif part == "stage1":
                part = "requantise"
            elif part == "stage2":
                part = "prepare"
            found[part] += event.time_range.elapsed_us()
        return {part: us / len(run) for part, us in found.items()}

    def bytes(self, calls: Sequence[dict[str, Any]]) -> dict[str, float]:
        """Bytes that a call must move at least, by part; `layer`: without what its kernels hand on."""
        model_dim, inter_dim, _, _ = self.dims
        tokens, top_k = calls[0]["topk_ids"].shape
        visited = statistics.fmean(len(call["topk_ids"].unique()) for call in calls)
        slots = tokens * top_k
        one = visited * (2 * inter_dim * (model_dim / 2 + 4))
        two = visited * (model_dim * (inter_dim / 2 + 4))
        return {
            "prepare": 3 * tokens * model_dim,
            "stage1": one + tokens * model_dim + 2 * slots * inter_dim,
            "requantise": 3 * slots * inter_dim,
            "stage2": two + slots * inter_dim + 2 * tokens * model_dim,
            "layer": one + two + 4 * tokens * model_dim,
        }

    def _make(self) -> dict[str, Any]:
        import torch

        model_dim, inter_dim, experts, _ = self.dims

        def byte(*shape: int) -> Any:
            return torch.randint(-128, 128, shape, dtype=torch.int8, device="cuda", generator=self._random)

        def scale(*shape: int) -> Any:
            return torch.rand(shape, device="cuda", generator=self._random) * 0.01 + 0.002

        return {
            "w1": byte(experts, 2 * inter_dim, model_dim // 2),
            "w2": byte(experts, model_dim, inter_dim // 2),
            "w1_scale": scale(experts, 2 * inter_dim),
            "w2_scale": scale(experts, model_dim),
        }

    @staticmethod
    def _graph(run: Sequence[Any]) -> Any:
        import torch

        run[0]()  # compiles
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for call in run:
                call()
        return graph


def _table(result: dict[str, Any]) -> str:
    """A line a tree and token count: times of the parts, of the layer, its share of the floor, the error."""
    head = f"{result['device']}, dims {result['dims']}, floor at {result['bandwidth']:.2f} TB/s, µs"
    lines = [
        head,
        f"{'tokens':>6} {'tree':10}" + "".join(f"{part:>17}" for part in (*PARTS, "layer")) + "  error",
    ]
    counts = [row["tokens"] for row in result["runs"]["here"][0]["rows"]]
    for index, tokens in enumerate(counts):
        for name, turns in result["runs"].items():
            rows = [turn["rows"][index] for turn in turns]
            cells = ""
            for part in (*PARTS, "layer"):
                us = statistics.median(
                    row["us"]["median"] if part == "layer" else row["parts"][part] for row in rows
                )
                floor = statistics.median(row["floor"][part] for row in rows)
                cells += f"{us:10.2f} ({floor / us:4.0%})" if us else f"{'-':>17}"
            error = max(row["error"] for row in rows)
            lines.append(f"{tokens:6d} {name:10}{cells}  {error:.2e}")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tree", action="append", default=[], metavar="NAME=PATH", help="repeatable")
    parser.add_argument("--tokens", default=",".join(map(str, TOKENS)))
    parser.add_argument("--model", default="kimi-k2.5-w4a8")
    parser.add_argument("--tp", type=int, default=8)
    parser.add_argument("--config", type=Path, help="for this tree: a file of autotune export")
    parser.add_argument("--bandwidth", type=float, default=2.96, help="TB/s of the floor")
    parser.add_argument("--turns", type=int, default=2, help="runs of each tree")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
