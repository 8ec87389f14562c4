#!/usr/bin/env python
"""Proves on the GPU of this machine that measurements and winners can be trusted; prints a table, writes
JSON.

    python scripts/prove_measuring.py --out proof.json

1. Two configs with equal binaries are `same`, and one that is slower by a known 3 % is `slower`: 20 of 20
each. 2. The same tuning run twice with different seeds: the winners, against each other, differ by less
than 1 %. 4. How far the winner under hot, uniform measurement is from the winner under cold, correlated
routing.

`--parts 1,4` runs some of them; each part writes the JSON when it ends, so a killed run leaves what it had.
On an H100 with 16 cores about one minute, three minutes and one minute.
"""

import argparse
import json
import math
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from autotune.cli.progress import PlainProgress
from autotune.compile.pool import CompilePool
from autotune.errors import UserError
from autotune.machine.devices import Device
from autotune.machine.targets import Target
from autotune.measure.confirm import Comparison
from autotune.measure.pool import Measurer
from autotune.measure.settings import MeasureSettings
from autotune.problem.layer import Layer, Problem, Stage, parse_shapes
from autotune.problem.models import PRESETS, preset
from autotune.problem.routing import Routing
from autotune.protocol.registry import load_backend
from autotune.results import Compiled, Failure, Measurement
from autotune.space.config import Config
from autotune.store.store import Store
from autotune.tuning.run import RunRequest, run
from autotune.tuning.targets import resolve_target

PADDED = "padded_runtime:make"
SLOWER = 0.03


class Proof:
    """What the parts share, and what they found."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.target: Target = resolve_target("live")
        self.layer = Layer.of(preset(options.model), options.tp)
        self.problem = Problem(self.layer, parse_shapes(options.shape)[0])
        self.stage = Stage(options.stage)
        self.backend = load_backend("triton")
        self.settings = MeasureSettings(poor=math.inf)
        self.started = time.monotonic()
        self.result: dict[str, Any] = {"device": self.target.device.name, "problem": self.problem.key}
        self.rows: list[tuple[str, str, str]] = []

    @property
    def device(self) -> Device:
        return self.target.device

    def say(self, text: str) -> None:
        print(f"[{time.monotonic() - self.started:6.1f}] {text}", flush=True)

    def found(self, part: str, what: str, holds: bool | None, figure: str, data: Any) -> None:
        """Keeps a finding; `holds` is None for a figure that is neither right nor wrong."""
        self.rows.append((what, {True: "holds", False: "FAILS", None: "-"}[holds], figure))
        self.result.setdefault(part, {})[what] = {"holds": holds, "figure": figure, "data": data}
        self.options.out.write_text(json.dumps(self.result, indent=1, default=str) + "\n")
        self.say(f"{what}: {figure}")


def prove_verdicts(proof: Proof) -> None:
    """Part 1."""
    tokens = proof.problem.tokens
    default = proof.backend.space(proof.layer, tokens, proof.stage, proof.device).default
    repeats = proof.options.repeats
    with Measurer(PADDED, [proof.problem], proof.settings) as measurer:
        proof.result["fingerprint"] = asdict(measurer.fingerprint())
        base = measurer.submit(proof.problem, proof.stage, default).result()
        if isinstance(base, Failure):
            raise UserError(f"the default cannot be measured: {base.reason}")
        pad = Config({**default, "pad_us": round(1000 * SLOWER * base.us)})
        twin = Config({**default, "twin": 1})
        proof.say(f"default {base.us:.2f} us a launch")
        for name, other, wanted in (("equal binaries", twin, "same"), ("3 % slower", pad, "slower")):
            answers = [
                measurer.compare(proof.problem, default, other, proof.stage, seed=repeat)
                for repeat in range(repeats)
            ]
            made = [answer for answer in answers if isinstance(answer, Comparison)]
            verdicts = Counter(str(answer.verdict) for answer in made)
            ratios = [answer.ratio.value for answer in made]
            widest = max((answer.ratio.high - answer.ratio.low for answer in made), default=float("nan"))
            counted = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items())
            least, most = min(ratios, default=0.0), max(ratios, default=0.0)
            figure = f"{counted} of {repeats}; ratios {least:.4f} to {most:.4f}, widest interval {widest:.4f}"
            data = [
                {"verdict": str(answer.verdict), "ratio": asdict(answer.ratio)}
                if isinstance(answer, Comparison)
                else {"failure": answer.reason}
                for answer in answers
            ]
            proof.found("1", f"{name}: {wanted}", verdicts[wanted] == repeats, figure, data)


def prove_repeatable(proof: Proof) -> None:
    """Part 2."""
    winners: list[Config] = []
    data = []
    for seed in (1, 2):
        path = _database(proof, seed)
        request = RunRequest(
            backend="triton",
            problems=[proof.problem],
            target=proof.target,
            trials=proof.options.trials,
            seed=seed,
            sampler="tpe",
            workers=max(1, len(os.sched_getaffinity(0)) - 1),
            timeout_s=proof.options.tuning_limit,
            command="prove_measuring",
        )
        began = time.monotonic()
        with Store.open(str(path)) as store, PlainProgress("measured") as progress:
            result = run(request, store, progress)
            trials = {str(status): count for status, count in store.trial_counts(result.run).items()}
        if not result.best:
            proof.found("2", "repeatable", False, f"the run with seed {seed} has no winner", None)
            return
        winner = result.best[0]
        winners.append(winner.config.of(proof.stage))
        data.append(
            {
                "seed": seed,
                "seconds": time.monotonic() - began,
                "trials": trials,
                "config": str(winner.config.of(proof.stage)),
                "layer_gain": [winner.gain_low, winner.gain, winner.gain_high],
            }
        )
        proof.say(f"seed {seed}: {winner.config.of(proof.stage)}, layer gain {winner.gain:.1%}")
    with Measurer("triton", [proof.problem], proof.settings) as measurer:
        compared = measurer.compare(proof.problem, winners[0], winners[1], proof.stage)
    if isinstance(compared, Failure):
        proof.found("2", "two seeds, one winner", False, compared.reason, data)
        return
    ratio = compared.ratio
    figure = (
        f"{compared.a.value:.2f} and {compared.b.value:.2f} us,"
        f" ratio {ratio.value:.4f} ({ratio.low:.4f} to {ratio.high:.4f})"
    )
    proof.found("2", "two seeds, one winner", abs(ratio.value - 1) < 0.01, figure, data)


def _database(proof: Proof, seed: int) -> Path:
    return Path(proof.options.work, f"seed{seed}.db")


def compare_conditions(proof: Proof) -> None:
    """Part 4."""
    space = proof.backend.space(proof.layer, proof.problem.tokens, proof.stage, proof.device)
    configs = list(dict.fromkeys([space.default, *_tuned(proof), *_sampled(proof)]))
    compiled = _compile(proof, configs)
    proof.say(f"{len(compiled)} configs, each hot under uniform and cold under correlated routing")
    correlated = replace(proof.problem, routing=Routing("correlated", 0.5))
    conditions = {
        "hot, uniform": (proof.problem, replace(proof.settings, cold=0.0)),
        "cold, correlated": (correlated, proof.settings),
    }
    times: dict[str, dict[Config, float]] = {}
    for name, (problem, settings) in conditions.items():
        with Measurer("triton", [problem], settings) as measurer:
            futures = {c: measurer.submit(problem, proof.stage, c) for c in compiled}
            answers = {config: future.result() for config, future in futures.items()}
        times[name] = {c: m.us for c, m in answers.items() if isinstance(m, Measurement)}
    both = [c for c in compiled if all(c in measured for measured in times.values())]
    hot, cold = (times[name] for name in conditions)
    hot_winner, cold_winner = min(both, key=hot.__getitem__), min(both, key=cold.__getitem__)
    rank = _rank_correlation([hot[c] for c in both], [cold[c] for c in both])
    with Measurer("triton", [correlated], proof.settings) as measurer:
        compared = measurer.compare(correlated, cold_winner, hot_winner, proof.stage)
    data: dict[str, Any] = {
        "configs": len(both),
        "rank_correlation": rank,
        "hot_winner": str(hot_winner),
        "cold_winner": str(cold_winner),
        "hot_us": {str(c): hot[c] for c in both},
        "cold_us": {str(c): cold[c] for c in both},
    }
    if isinstance(compared, Failure):
        proof.found("4", "hot winner in the cold", None, compared.reason, data)
        return
    data["ratio"] = asdict(compared.ratio)
    best_hot, best_cold = hot[hot_winner], cold[cold_winner]
    figure = (
        f"hot winner {compared.ratio.value - 1:+.1%} ({compared.ratio.low - 1:+.1%} to"
        f" {compared.ratio.high - 1:+.1%}) against the cold winner in the cold; {best_hot:.2f} us hot,"
        f" {best_cold:.2f} us cold; rank correlation {rank:.2f} of {len(both)} configs"
    )
    proof.found("4", "hot winner in the cold", None, figure, data)


def _tuned(proof: Proof) -> list[Config]:
    """The best of part 2's runs, where they are."""
    found: list[tuple[float, Config]] = []
    for seed in (1, 2):
        path = _database(proof, seed)
        if path.exists():
            with Store.open(str(path)) as store:
                stored = [trial for record in store.runs() for trial in store.trials_of(record.id)]
            found += [
                (trial.time_us, trial.config)
                for trial in stored
                if trial.stage is proof.stage and trial.time_us is not None
            ]
    return [config for _, config in sorted(found, key=lambda pair: pair[0])[: proof.options.configs]]


def _sampled(proof: Proof) -> list[Config]:
    import random

    space = proof.backend.space(proof.layer, proof.problem.tokens, proof.stage, proof.device)
    rng = random.Random(0)
    return [space.sample(rng) for _ in range(proof.options.configs)]


def _compile(proof: Proof, configs: Sequence[Config]) -> list[Config]:
    """Those that compile; their binaries are in Triton's cache afterwards."""
    workers = max(1, len(os.sched_getaffinity(0)) - 1)
    with CompilePool("triton", proof.device, workers=workers, time_limit_s=30) as pool:
        futures = {c: pool.submit(proof.layer, proof.problem.tokens, proof.stage, c) for c in configs}
        return [c for c, future in futures.items() if isinstance(future.result(), Compiled)]


def _rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's, by Pearson's of the ranks."""
    import numpy as np

    ranks = np.array([np.argsort(np.argsort(values)) for values in (a, b)], np.float64)
    centred = ranks - ranks.mean(axis=1, keepdims=True)
    return float((centred[0] * centred[1]).sum() / (centred[0] ** 2).sum())


PARTS = {"1": prove_verdicts, "2": prove_repeatable, "4": compare_conditions}


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="prove-") as folder:
        options.work = options.work or folder
        try:
            proof = Proof(options)
            for part in options.parts.split(","):
                proof.say(f"part {part}")
                PARTS[part](proof)
        except UserError as error:
            print(f"prove_measuring: {error}", file=sys.stderr)
            return 2
    print(f"\n{proof.device.name}, {proof.problem.shape} {proof.stage}")
    for what, holds, figure in proof.rows:
        print(f"  {what:28} {holds:6} {figure}")
    return 0 if all(holds != "FAILS" for _, holds, _ in proof.rows) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("proof.json"))
    parser.add_argument("--parts", default="1,2,4", help="some of 1,2,4")
    parser.add_argument("--model", default="kimi-k2.5-w4a8", choices=sorted(PRESETS))
    parser.add_argument("--tp", type=int, default=8)
    parser.add_argument("--shape", default="m4")
    parser.add_argument("--stage", default="stage1", choices=[str(stage) for stage in Stage])
    parser.add_argument("--repeats", type=int, default=20, help="comparisons of part 1")
    parser.add_argument("--trials", type=int, default=200, help="of each tuning run of part 2")
    parser.add_argument(
        "--tuning-limit", type=float, default=150, help="seconds of each tuning run of part 2"
    )
    parser.add_argument("--configs", type=int, default=80, help="tuned and as many random ones in part 4")
    parser.add_argument("--work", help="folder for the tuning runs' databases; default: a temporary one")
    return parser


if __name__ == "__main__":
    sys.exit(main())
