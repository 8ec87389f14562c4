#!/usr/bin/env python3
"""What FlyDSL's kernels do beyond their legality rules, found by executing their machine code.

    python scripts/check_flydsl_rules.py --flydsl-root TREE --flydsl-python PYTHON

For each rule of the tree's generation, illegal values and legal neighbours; then the published pair against
the defaults, bit by bit, and a sort whose blocks are larger than tile_m. Needs no GPU; a compile takes 3 to
40 s.
"""

import argparse
import os
import sys
from typing import Any

import numpy as np

from autotune.backends.flydsl.backend import Flydsl
from autotune.backends.flydsl.check import FlydslChecker, Tiling, tiled_executions
from autotune.backends.flydsl.request import Request
from autotune.backends.flydsl.tree import TreeGeneration, find_tree
from autotune.check.check import run_cases
from autotune.check.execution import Tally
from autotune.check.judged import Checked, CheckPool
from autotune.emulate import Kernel
from autotune.errors import UserError
from autotune.machine.devices import DEVICES
from autotune.problem.layer import Layer, Stage
from autotune.problem.models import preset
from autotune.space.config import Config

ONE, TWO = Stage
LAYER, DEVICE, TOKENS = Layer.of(preset("kimi-k2.5-w4a8"), 8), DEVICES["mi325x"], 4
BACKEND = Flydsl()

VALUES: dict[TreeGeneration, list[tuple[Stage, dict[str, Any]]]] = {
    TreeGeneration.PUBLISHED: [
        (ONE, {"tile_n": 32}),
        (ONE, {"tile_n": 96}),
        (ONE, {"tile_n": 192, "tile_k": 128}),
        (ONE, {"tile_k": 448}),
        (ONE, {"tile_k": 512}),
        (ONE, {"tile_k": 896}),
        (ONE, {"tile_k": 1024}),
        (ONE, {"tile_k": 1792}),
        (ONE, {"tile_m": 32, "tile_k": 1792}),
        (ONE, {"tile_m": 32, "tile_k": 128}),
        (TWO, {"tile_n": 96}),
        (TWO, {"tile_n": 320, "tile_k": 128}),
        (TWO, {"tile_k": 512}),
        (TWO, {"tile_n": 1792, "tile_k": 128}),
    ],
    TreeGeneration.MAIN: [
        (ONE, {"tile_n": 64, "tile_k": 128}),
        (ONE, {"tile_n": 256, "tile_k": 128}),
        (ONE, {"tile_n": 64, "tile_k": 256}),
        (ONE, {"tile_n": 256, "tile_k": 256}),
        (ONE, {"tile_m": 32, "tile_k": 128}),
        (TWO, {"tile_n": 256, "tile_k": 128}),
        (TWO, {"tile_n": 64, "tile_k": 128}),
        (TWO, {"tile_n": 256, "tile_k": 256}),
        (TWO, {"tile_m": 32, "tile_k": 128}),
    ],
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--flydsl-root", required=True)
    parser.add_argument("--flydsl-python", required=True)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    asked = parser.parse_args()
    os.environ["DSL2_ROOT"], os.environ["AUTOTUNE_FLYDSL_PYTHON"] = asked.flydsl_root, asked.flydsl_python
    generation = find_tree().generation
    with CheckPool("flydsl", DEVICE, workers=asked.workers) as pool:
        futures = [
            (stage, knobs, pool.submit(LAYER, TOKENS, stage, config(stage, knobs)))
            for stage, knobs in VALUES[generation]
        ]
        for stage, knobs, future in futures:
            outcome = future.result()
            text = outcome.verdict.text if isinstance(outcome, Checked) else outcome.reason
            print(f"{stage} {Config(knobs)} | {rule(stage, knobs)} | {text}", flush=True)
    print(f"stage1 tile_m=16, sort's block 32 | tile_m is the sort's block | {larger_sort()}")
    if generation is TreeGeneration.PUBLISHED:
        for stage, knobs in ((ONE, {"sched": False}), (TWO, {"tile_k": 256})):
            same = np.array_equal(outputs(stage, {}), outputs(stage, knobs))
            text = "the same bits as" if same else "OTHER bits than"
            print(f"{stage} {Config(knobs)} gives {text} the default")
    return 0


def config(stage: Stage, knobs: dict[str, Any]) -> Config:
    return BACKEND.space(LAYER, TOKENS, stage, DEVICE).complete(knobs)


def rule(stage: Stage, knobs: dict[str, Any]) -> str:
    """The rule that the space refuses a config by, at tokens for which the engine's block is tile_m."""
    space = BACKEND.space(LAYER, 160 if knobs.get("tile_m") == 32 else TOKENS, stage, DEVICE)
    try:
        broken = space.broken_rule(space.complete(knobs))
    except UserError:
        return "not in the space"
    return "legal" if broken is None else broken.name


def larger_sort() -> str:
    """What becomes of a kernel whose sort has blocks twice its own."""
    knobs = {"tile_k": 256}
    listing = BACKEND.listing(LAYER, TOKENS, ONE, config(ONE, knobs), DEVICE)
    request = Request.of(find_tree(), LAYER, ONE, config(ONE, knobs), DEVICE.arch)
    tiling = Tiling.of(request, sort_block=2 * request.tile_m)
    verdict, _ = run_cases(
        listing.text,
        0,
        lambda kernel: tiled_executions(LAYER, TOKENS, ONE, tiling, kernel, 0),
        FlydslChecker().path(ONE, config(ONE, knobs), LAYER),
    )
    return verdict.text


def outputs(stage: Stage, knobs: dict[str, Any]) -> np.ndarray:
    """The bits of all outputs of a check, of the same operands whatever the config."""
    made = config(stage, knobs)
    kernel = Kernel.from_asm(BACKEND.listing(LAYER, TOKENS, stage, made, DEVICE).text)
    turn, bits = iter(range(1 << 20)), []
    for case in FlydslChecker().executions(LAYER, TOKENS, stage, made, kernel, 0):
        case.run(kernel, 0, turn, Tally())
        bits.append(case.output.reshape(-1).copy())
    return np.concatenate(bits)


if __name__ == "__main__":
    sys.exit(main())
