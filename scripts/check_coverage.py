#!/usr/bin/env python3
"""Executes the machine code of a covering array over a backend's spaces: every legal pair of knob values.

    python scripts/check_coverage.py --shape m4 --out coverage.json

Compiles for gfx942 and needs no GPU. Prints how many pass, are incorrect and are not emulated; the file has
every config with its verdict. Exit code 1: something is wrong or not emulated.
"""

import argparse
import json
import os
import sys
from collections import Counter
from pathlib import Path

from bench.covering import pairwise

from autotune.check.judged import Checked, CheckPool
from autotune.machine.devices import DEVICES
from autotune.problem.layer import Layer, Problem, Stage, parse_shapes
from autotune.problem.models import preset
from autotune.protocol.registry import load_backend
from autotune.results import VerdictStatus


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--backend", default="triton")
    parser.add_argument("--shape", default="m4")
    parser.add_argument("--concurrency", type=int, default=1)
    parser.add_argument("--stage", choices=list(Stage))
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--time-limit", type=float, default=90.0, help="seconds a candidate, compile included"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, help="only the first so many configs of each stage")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    layer, device = Layer.of(preset("kimi-k2.5-w4a8"), 8), DEVICES["mi325x"]
    problem = Problem(layer, parse_shapes(asked.shape)[0], asked.concurrency)
    backend = load_backend(asked.backend)
    rows = []
    with CheckPool(asked.backend, device, workers=asked.workers, time_limit_s=asked.time_limit) as pool:
        futures = [
            (stage, config, pool.submit(layer, problem.tokens, stage, config))
            for stage in Stage
            if asked.stage in (None, stage)
            for config in pairwise(backend.space(layer, problem.tokens, stage, device), asked.seed)[
                : asked.limit
            ]
        ]
        for stage, config, future in futures:
            outcome = future.result()
            row = {"stage": str(stage), "config": dict(config)}
            if isinstance(outcome, Checked):
                verdict = outcome.verdict
                row |= {"status": str(verdict.status), "error": verdict.error, "reason": verdict.reason}
                row |= {"seconds": verdict.seconds, "compile_s": outcome.compiled.seconds}
            else:
                row |= {"status": str(outcome.status), "reason": outcome.reason}
            rows.append(row)
            if row["status"] != VerdictStatus.PASS:
                print(f"{stage} {config}: {row['status']}: {row['reason']}", flush=True)
            if asked.out:
                asked.out.write_text(json.dumps(rows, indent=1))
    for stage in sorted({row["stage"] for row in rows}):
        counts = Counter(row["status"] for row in rows if row["stage"] == stage)
        print(f"{asked.backend} {stage}: {counts.total()} configs: {dict(counts)}")
    seconds = sorted(row["seconds"] for row in rows if "seconds" in row)
    if seconds:
        print(f"a check: median {seconds[len(seconds) // 2]:.2f} s, longest {seconds[-1]:.2f} s")
    bad = {VerdictStatus.INCORRECT, VerdictStatus.FAULT, VerdictStatus.NOT_EMULATED}
    return int(any(row["status"] in bad for row in rows))


if __name__ == "__main__":
    sys.exit(main())
