#!/usr/bin/env python
"""Shows what our kernels compile to for an AMD GPU, launch by launch, in this tree and in others.

    git worktree add /tmp/before 47827f5
    python scripts/kernel_code.py --tree before=/tmp/before

Needs no GPU. Each launch of a layer at each token count, with its default config; the GEMMs with and without
buffer loads (a knob), stage 2 with its other reductions too. Counts are of instructions in the code, not of
those executed: a loop counts once. A binary that serves several token counts has one line. Occupancy is what
registers and LDS allow.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(HERE))

_HEAD = (
    "kernel",
    "instr",
    "waits",
    "buffer",
    "global",
    "lds ops",
    "mfma",
    "VGPR",
    "AGPR",
    "LDS",
    "waves/SIMD",
)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if options.child:
        for row in _child(json.loads(options.child)):
            print(json.dumps(row), flush=True)
        return 0
    trees = {"here": HERE} | {name: Path(path) for name, path in (t.split("=", 1) for t in options.tree)}
    width = max(map(len, trees))
    print(f"{options.device}, {options.model} tp{options.tp}")
    print(f"tokens  {'tree':{width}}  {_line(_HEAD)}")
    rows = {name: _run(tree, options) for name, tree in reversed(trees.items())}
    order = list(dict.fromkeys((row["tokens"], row["kernel"]) for table in rows.values() for row in table))
    for tokens, kernel in sorted(order, key=lambda key: (key[0], *_place(key[1]))):
        for name, table in rows.items():
            for row in table:
                if (row["tokens"], row["kernel"]) == (tokens, kernel):
                    print(f"{tokens:6d}  {name:{width}}  {_line(_facts(row, options.device))}")
    return 0


def _place(kernel: str) -> tuple[int, str]:
    """Where a kernel stands in the layer."""
    order = ("prepare", "place", "stage1", "quantise", "stage2")
    return order.index(kernel.split()[0]), kernel


def _line(cells: Sequence[object]) -> str:
    return f"{cells[0]:28}" + "".join(f"{cell!s:>11}" for cell in cells[1:])


def _facts(row: dict[str, Any], device_name: str) -> tuple[object, ...]:
    from autotune.compile.isa import instruction_counts, static_facts
    from autotune.compile.occupancy import with_occupancy
    from autotune.machine.devices import DEVICES

    text = row["text"]
    counts = instruction_counts(text)
    facts = static_facts(text, dynamic_lds_bytes=row["lds"])
    facts = with_occupancy(facts, row["warps"], DEVICES[device_name])
    kinds = [
        sum(count for name, count in counts.items() if name.startswith(f"{kind}_load"))
        for kind in ("buffer", "global")
    ]
    spilled = f" spills {facts.spills}" if facts.spills else ""
    return (
        row["kernel"] + spilled,
        facts.instructions,
        facts.waits,
        *kinds,
        facts.lds_ops,
        facts.mfma,
        facts.vgprs,
        facts.agprs,
        facts.lds_bytes,
        facts.waves_per_simd,
    )


def _run(tree: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    from autotune.machine.devices import DEVICES
    from autotune.problem.layer import Layer
    from autotune.problem.models import preset

    layer, device = Layer.of(preset(options.model), options.tp), DEVICES[options.device]
    asked = {
        "dims": [layer.model_dim, layer.inter_dim, layer.experts, layer.top_k],
        "arch": device.arch,
        "wave_size": device.wave_size,
        "tokens": [int(count) for count in options.tokens.split(",")],
    }
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tree), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, __file__, "--child", json.dumps(asked)]
    done = subprocess.run(command, cwd=tree, env=environment, stdout=subprocess.PIPE, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def _child(asked: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Of the tree that PYTHONPATH names first; only its kernels, whatever else stood where at that time."""
    sys.path.remove(str(HERE))
    from triton.backends.compiler import GPUTarget

    from autotune.kernels.config import LayerDims
    from autotune.kernels.spec import compile_kernel

    dims = LayerDims(*asked["dims"])
    target = GPUTarget("hip", asked["arch"], asked["wave_size"])
    seen = set()
    for tokens in asked["tokens"]:
        for kernel, spec in _specs(dims, tokens, asked["arch"]):
            if (kernel, spec.name) not in seen:
                seen.add((kernel, spec.name))
                compiled = compile_kernel(spec, target)
                yield {
                    "tokens": tokens,
                    "kernel": kernel,
                    "text": compiled.asm["amdgcn"],
                    "lds": compiled.metadata.shared,
                    "warps": compiled.metadata.num_warps,
                }


def _specs(dims: Any, tokens: int, arch: str) -> Iterator[tuple[str, Any]]:
    """(name, spec) of what a layer launches."""
    from autotune.kernels import spec as specs
    from autotune.kernels.tuned import default_config

    try:
        from autotune.kernels.chain import layer_chain
    except ImportError:  # before there was a chain: torch sorted more slots
        from autotune.kernels import sort

        old: Any = specs
        config = default_config(tokens, dims.inter_dim, "hip")
        if tokens * dims.top_k <= sort.KERNEL_SLOTS:
            yield "prepare", old.prepare_spec(config.stage1.tile_m, dims, "hip")
        yield "quantise", old.quantise_spec(dims.inter_dim, dims, "hip")
    else:
        config = default_config(tokens, dims, arch)
        for link in layer_chain(dims, config.stage1, config.stage2, tokens, "hip").links:
            if not link.spec.stage.startswith("stage"):
                yield link.spec.stage, link.spec
    reductions: list[dict[str, Any]] = [{}, {"reduce": "atomic"}]
    if hasattr(config.stage2, "partials"):
        reductions.append({"partials": "bfloat16"})
    if tokens <= 16:
        reductions.append({"reduce": "loop"})
    last = [{"requantise": "last"}] if hasattr(config.stage1, "requantise") else []
    for stage, knobs, variants in (
        ("stage1", config.stage1.knobs(), [{}, *last]),
        ("stage2", config.stage2.knobs(), reductions),
    ):
        for variant in variants:
            for loads in (None, True) if "buffer_loads" in knobs else (None,):
                given = {**knobs, **variant, **({"buffer_loads": loads} if "buffer_loads" in knobs else {})}
                name = " ".join([stage, *map(str, variant.values()), *(["buffer loads"] if loads else [])])
                yield name, specs.stage_spec(stage, given, dims, "hip")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tree", action="append", default=[], metavar="NAME=PATH", help="repeatable")
    parser.add_argument("--tokens", default="4,160,4096")
    parser.add_argument("--model", default="kimi-k2.5-w4a8")
    parser.add_argument("--tp", type=int, default=8)
    parser.add_argument("--device", default="mi325x")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
