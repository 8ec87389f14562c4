#!/usr/bin/env python
"""Whether runs with other seeds find layers that are as fast, on the GPU of this machine.

    python scripts/seeds_agree.py --seeds 3 --out agree --sweep m1,m4

Runs `autotune run --shape all` once a seed, each with a database of its own, then puts the winners of all
seeds and the default side by side, in paired rounds on routings that no run has seen. `--sweep` adds, at some
shapes, what a plain sweep finds: every pair of the winners' stages and their neighbours is timed as a layer,
the best eight race, and the first of them runs in the same rounds as the winners, since the least of many is
too good to be true. Prints a line a shape; OUT/agree.json has every figure. A run that is there already is
not run again.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from statistics import median

from autotune.compile.pool import CompilePool
from autotune.errors import UserError
from autotune.machine.devices import Device
from autotune.measure.confirm import ratio_of
from autotune.measure.pool import Measurer
from autotune.measure.settings import MeasureSettings
from autotune.problem.layer import Layer, Problem, Stage, parse_shapes, problems
from autotune.problem.models import preset
from autotune.problem.routing import UNIFORM
from autotune.protocol.backend import Backend, default_of
from autotune.protocol.registry import load_backend
from autotune.results import LayerConfig, LayerMeasurement, Round
from autotune.statistics import Interval
from autotune.store.store import Store
from autotune.text import percent
from autotune.tuning.targets import resolve_target

SWEPT_BEST = 8
ROUTINGS = 777_000  # of the comparison, beyond those of the races
ROUTINGS_OF_THE_SWEEP = 888_000
SETTINGS = MeasureSettings()


def main() -> int:
    options = _parser().parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    device = resolve_target("live").device
    backend = load_backend(options.backend)
    layer = Layer.of(preset(options.model), options.tp)
    tuned = problems(layer, parse_shapes(options.shape), [1], UNIFORM)
    stores = [_run(options, seed) for seed in range(options.seeds)]
    stores = [path for path in stores if path is not None]
    swept = set(parse_shapes(options.sweep)) if options.sweep else set()
    found: dict[str, object] = {"device": device.name, "seconds": dict(_seconds), "shapes": {}}
    with Measurer(backend.runtime, tuned, SETTINGS) as measurer:
        for problem in tuned:
            winners = [
                _winner(path, problem) or default_of(backend, layer, problem.tokens, device)
                for path in stores
            ]
            best = _sweep(measurer, backend, device, problem, winners) if problem.tokens in swept else []
            told = _side_by_side(measurer, backend, device, problem, winners, best, options.rounds)
            found["shapes"][problem.shape] = told  # type: ignore[index]
            (options.out / "agree.json").write_text(json.dumps(found, indent=1) + "\n")
            print(_line(problem, told), flush=True)
    return 0


_seconds: dict[int, float] = {}


def _run(options: argparse.Namespace, seed: int) -> Path | None:
    """A run's database; None: it failed."""
    path = options.out / f"seed-{seed}.db"
    if path.exists():
        return path
    command = [sys.executable, "-m", "autotune", "run", "--shape", options.shape, "--seed", str(seed)]
    command += ["--model", options.model, "--tp", str(options.tp), "--backend", options.backend]
    command += ["--db", str(path), *options.run.split()]
    started = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    _seconds[seed] = round(time.monotonic() - started, 1)
    (options.out / f"seed-{seed}.txt").write_text(done.stdout + done.stderr)
    print(f"seed {seed}: exit {done.returncode} after {_seconds[seed]} s", flush=True)
    return path if done.returncode == 0 else None


def _winner(path: Path, problem: Problem) -> LayerConfig | None:
    with Store.open(path, read_only=True) as store:
        winners = store.winners(problem=problem)
        return winners[0].config if winners else None


def _sweep(
    measurer: Measurer, backend: Backend, device: Device, problem: Problem, winners: Sequence[LayerConfig]
) -> list[LayerConfig]:
    """The fastest of all pairs of the winners' stages and their neighbours, by one look each."""
    layer, tokens = problem.layer, problem.tokens
    default = default_of(backend, layer, tokens, device)
    spaces = {stage: backend.space(layer, tokens, stage, device) for stage in Stage}
    own = {stage: list(dict.fromkeys(w.of(stage) for w in winners)) for stage in Stage}
    pairs = dict.fromkeys(LayerConfig(one, two) for one in own[Stage.STAGE1] for two in own[Stage.STAGE2])
    for winner in dict.fromkeys(winners):
        one, two = (spaces[stage].neighbours(winner.of(stage)) for stage in Stage)
        pairs |= dict.fromkeys(LayerConfig(near, winner.stage2) for near in one)
        pairs |= dict.fromkeys(LayerConfig(winner.stage1, near) for near in two)
    able = [pair for pair in pairs if pair.stage1.get("tile_m") == pair.stage2.get("tile_m")]
    workers = max(1, len(os.sched_getaffinity(0)) - 1)
    with CompilePool(backend.name, device, workers=workers) as pool:
        compiles = [pool.submit(layer, tokens, s, p.of(s)) for p in able for s in Stage]
        for compiled in compiles:
            compiled.result()
    times = {pair: measurer.submit_layer(problem, pair, default).result() for pair in able}
    ratios = {pair: t.ratio for pair, t in times.items() if isinstance(t, LayerMeasurement)}
    print(f"{problem.shape}: swept {len(ratios)} layers", flush=True)
    return sorted(ratios, key=lambda pair: ratios[pair])[:SWEPT_BEST]


def _side_by_side(
    measurer: Measurer,
    backend: Backend,
    device: Device,
    problem: Problem,
    winners: Sequence[LayerConfig],
    swept: Sequence[LayerConfig],
    rounds: int,
) -> dict[str, object]:
    default = default_of(backend, problem.layer, problem.tokens, device)
    best = _first(measurer, problem, list(dict.fromkeys([default, *swept])), rounds) if swept else None
    configs = list(dict.fromkeys([default, *winners, *([best] if best else [])]))
    taken = measurer.race(problem, configs, rounds, ROUTINGS)
    place = {config: n for n, config in enumerate(configs)}

    def ratio(a: LayerConfig, b: LayerConfig, what: str = "layer") -> Interval:
        return ratio_of(taken, place[a], place[b], what, SETTINGS)

    apart = [abs(1 - ratio(a, b).value) for a, b in combinations(winners, 2)]
    ours = [ratio(winner, default) for winner in winners]
    behind = [ratio(winner, best) for winner in winners] if best else []
    worst = max(behind, key=lambda r: r.value, default=None)
    return {
        "gain": [[1 - r.value, 1 - r.high, 1 - r.low] for r in ours],
        "gain_us": [_us(taken, 0) - _us(taken, place[winner]) for winner in winners],
        "gain_spaced": [1 - ratio(winner, default, "spaced").value for winner in winners],
        "apart": max(apart, default=0.0),
        "swept": best and best.key,
        "gain_swept": best and 1 - ratio(best, default).value,
        "behind_sweep": worst and [worst.value - 1, worst.low - 1, worst.high - 1],
        "winners": [winner.key for winner in winners],
    }


def _first(measurer: Measurer, problem: Problem, configs: Sequence[LayerConfig], rounds: int) -> LayerConfig:
    """The fastest of a race on routings of its own; of the configs the default comes first."""
    taken = measurer.race(problem, configs, rounds, ROUTINGS_OF_THE_SWEEP)
    ratios = [1.0, *(ratio_of(taken, n, 0, "layer", SETTINGS).value for n in range(1, len(configs)))]
    return configs[ratios.index(min(ratios))]


def _us(taken: Sequence[Round], index: int) -> float:
    return median(r.us[index]["layer"] for r in taken if "layer" in r.us[index])


def _line(problem: Problem, told: dict[str, object]) -> str:
    gains = ", ".join(
        f"{percent(value)} ({percent(low)} to {percent(high)})"
        for value, low, high in told["gain"]  # type: ignore[attr-defined]
    )
    us = ", ".join(f"{value:.2f}" for value in told["gain_us"])  # type: ignore[attr-defined]
    spaced = ", ".join(percent(value) for value in told["gain_spaced"])  # type: ignore[attr-defined]
    line = f"{problem.shape}: {gains}; µs {us}; spaced {spaced}; seeds apart {percent(told['apart'])}"  # type: ignore[arg-type]
    if told["swept"] is not None:
        value, low, high = told["behind_sweep"]  # type: ignore[misc]
        line += f"; sweep {percent(told['gain_swept'])}, worst seed behind it"  # type: ignore[arg-type]
        line += f" {percent(value)} ({percent(low)} to {percent(high)})"
    return line


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sweep", default="", help="shapes at which winners are held against a sweep")
    parser.add_argument("--model", default="kimi-k2.5-w4a8")
    parser.add_argument("--tp", type=int, default=8)
    parser.add_argument("--backend", default="triton")
    parser.add_argument("--shape", default="all")
    parser.add_argument("--run", default="", help="further options of `autotune run`")
    parser.add_argument("--rounds", type=int, default=16)
    return parser


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(str(error))
