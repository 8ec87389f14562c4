#!/usr/bin/env python
"""Proves on the GPU of this machine that the numeric gate passes the default and refuses what is broken.

    AUTOTUNE_SGLANG_SRC=.engines AUTOTUNE_VLLM_SRC=.engines python scripts/prove_gate.py --out gate.json

Each backend's own default, at each token count and on each seed's weights and tokens: the share of its bound
that every stage and the layer take, and how many the gate refuses. Then faults are planted in the operands
that the kernels get, one in one tile, row or slot, and the gate must refuse them all. The engines' files come
from their wheels, by `scripts/unpack_engine.py`. On an H100 with 16 cores about three minutes.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from autotune.backends import sglang, vllm
from autotune.kernels.formats import BLOCKED
from autotune.measure.gate import Case, Incorrect, Left, check_launches, make_cases, parts, poison
from autotune.problem.layer import Layer, Problem, Stage
from autotune.problem.routing import UNIFORM
from autotune.protocol.runtime import (
    GATED,
    Activations,
    Launch,
    LogicalWeights,
    Runtime,
    Step,
    What,
    format_of,
)
from autotune.results import LayerConfig

BACKENDS = ("triton", *(row.name for row in (*sglang.ROWS, *vllm.ROWS)))
TOKENS = (1, 2, 3, 4, 5, 6, 7, 8, 160)
TILE = 16
"""Columns of the smallest tile that a space has."""

ZERO = 0x08
"""Two INT4 weights of zero (`autotune.kernels.layout`)."""


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong.

    Attributes:
        seen: the launches in which it must be found.
        weights, inputs, step: what the kernels get; the references are those of the right ones.
    """

    name: str
    seen: tuple[What, ...]
    weights: LogicalWeights
    inputs: Activations
    step: Step


def faults(weights: LogicalWeights, case: Case) -> Iterator[Fault]:
    """Faults of one tile of one expert, one row or one slot."""
    inputs, step = case.inputs, case.step
    # A choice near the middle that is not another GPU's.
    here = (step.ids >= 0).nonzero().tolist()
    if not here:
        return
    token, choice = here[len(here) // 2]
    expert = int(step.ids[token, choice])

    def of_weights(name: str, seen: tuple[What, ...], **changed: Any) -> Fault:
        return Fault(name, seen, replace(weights, **changed), inputs, step)

    for number, sees in ((1, (What.STAGE1, What.LAYER)), (2, (What.STAGE2, What.LAYER))):
        w, scale = f"w{number}", f"w{number}_scale"
        packed, by_row = getattr(weights, w), getattr(weights, scale)
        tile = packed.clone()
        tile[expert, :TILE] = packed[expert, TILE : 2 * TILE]
        yield of_weights(f"stage {number}: a wrong tile", sees, **{w: tile})
        for splits in (4, 8) if number == 2 else (7, 14):
            split = packed.clone()
            split[expert, :TILE, : packed.shape[2] // splits] = ZERO
            yield of_weights(f"stage {number}: one of {splits} splits is missing", sees, **{w: split})
        # Of up, where there is a gate: what a gate's row is off by, SiLU may make nothing of at one token.
        unscaled = by_row.clone()
        row = 0 if case.form in BLOCKED else 3  # a block has its first row's
        unscaled[expert, row + (by_row.shape[1] // 2 if number == 1 else 0)] = 1.0
        yield of_weights(f"stage {number}: a row of weights without its scale", sees, **{scale: unscaled})
    if not inputs.a1.dtype.is_floating_point or inputs.a1.element_size() == 1:
        for number, what in ((1, What.STAGE1), (2, What.STAGE2)):
            name = f"a{number}_scale"
            scales = getattr(inputs, name).clone()
            if number == 1:
                scales.view(len(step.ids), -1)[token, 0] = 1.0
            else:
                scales.view(*step.ids.shape, -1)[token, choice, 0] = 1.0
            changed: dict[str, Any] = {name: scales}
            without = f"stage {number}: a row of activations without its scale"
            yield Fault(without, (what,), weights, replace(inputs, **changed), step)
    ids = step.ids.clone()
    ids[token, choice] = next(e for e in range(len(weights.w1)) if e not in step.ids[token].tolist())
    yield Fault("a swapped expert", GATED, weights, inputs, replace(step, ids=ids))
    router = step.router.clone()
    router[token, choice] = 0.0
    dropped = replace(step, router=router)
    yield Fault("a dropped weight of a token", (What.STAGE2, What.LAYER), weights, inputs, dropped)


def launches_of(
    runtime: Runtime, what: What, config: LayerConfig, inputs: Activations, steps: Sequence[Step]
) -> list[Launch]:
    if what is What.LAYER:
        return runtime.layer(config, inputs, steps)
    return runtime.stage(Stage(what.value), config.of(Stage(what.value)), inputs, steps)


def path_of(runtime: Runtime, what: What, config: LayerConfig) -> Any:
    return runtime.path(what, config if what is What.LAYER else config.of(Stage(what.value)))


def shares(launches: Sequence[Launch], cases: Sequence[Case], what: What, path: Any) -> dict[str, float]:
    """Of the case that takes most of its bound: that share, its error and its bound."""
    worst = {"share": 0.0, "error": 0.0, "bound": 0.0}
    for launch, case in zip(launches, cases, strict=True):
        poison([launch])
        launch.run()
        for part in parts([Left.by(launch)], [case], what, path):
            (expected,), (deviation,) = part.expected, part.deviations()
            share = expected.share(deviation)
            if share > worst["share"]:
                worst = {"share": share, "error": deviation.error, "bound": expected.limit}
    return worst


def prove(backend: str, options: argparse.Namespace) -> dict[str, Any]:
    """One backend: rows of the default, and of faults."""
    from autotune.measure.workload import make_weights
    from autotune.problem.models import preset
    from autotune.protocol.registry import load_backend
    from autotune.protocol.runtime import load_runtime
    from autotune.tuning.targets import resolve_target

    layer = Layer.of(preset(options.model), options.tp, options.ep)
    kernels, device = load_backend(backend), resolve_target("live").device
    runtime = load_runtime(kernels.runtime)
    form, where = format_of(runtime), runtime.machine.device
    result: dict[str, Any] = {"backend": backend, "format": str(form), "rows": [], "faults": []}
    for seed in range(options.seeds):
        weights = make_weights(layer, where, seed)
        at: dict[int, tuple[LayerConfig, list[Case]]] = {}
        runtime.prepare(layer, weights)
        for tokens in options.tokens:
            # vLLM has its Triton kernel serve grouped weights only where an expert has many tokens.
            problem = Problem(layer, 8, 40) if not _serves(runtime, tokens) else None
            count = problem.tokens if problem else tokens
            if count in at:
                continue
            stages = (kernels.space(layer, count, stage, device).default for stage in Stage)
            config = LayerConfig(*stages)
            cases = make_cases(
                layer, weights, count, UNIFORM, 1, where, seed + count, thorough=True, form=form
            )
            at[count] = config, cases
            for what in GATED:
                path = path_of(runtime, what, config)
                made = launches_of(runtime, what, config, cases[0].inputs, [case.step for case in cases])
                row = {"tokens": count, "seed": seed, "what": what.value}
                row |= shares(made, cases, what, path) | {"refused": ""}
                try:
                    check_launches(made, cases, what, path)
                except Incorrect as refused:
                    row["refused"] = str(refused)
                result["rows"].append(row)
        for count, (config, cases) in at.items():
            if count not in (min(at), 8, max(at)):
                continue
            for fault in faults(weights, cases[0]):
                if fault.weights is not weights:
                    runtime.prepare(layer, fault.weights)
                for what in fault.seen:
                    made = launches_of(runtime, what, config, fault.inputs, [fault.step])
                    row = {"tokens": count, "seed": seed, "what": what.value, "fault": fault.name}
                    try:
                        check_launches(made, cases[:1], what, path_of(runtime, what, config))
                        row["refused"] = ""
                    except Incorrect as refused:
                        row["refused"] = str(refused)
                    result["faults"].append(row)
                if fault.weights is not weights:
                    runtime.prepare(layer, weights)
    return result


def _serves(runtime: Any, tokens: int) -> bool:
    return not hasattr(runtime, "calls") or runtime.serves(What.LAYER, None, tokens)


def in_a_process(backend: str, options: argparse.Namespace) -> dict[str, Any]:
    """One backend in a process of its own: an engine's module serves one quantisation."""
    command = [sys.executable, __file__, "--only", backend, "--seeds", str(options.seeds)]
    command += ["--tokens", ",".join(map(str, options.tokens)), "--model", options.model]
    command += ["--tp", str(options.tp), "--ep", str(options.ep)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        return {"backend": backend, "format": "", "rows": [], "faults": [], "failed": last}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def show(results: Sequence[dict[str, Any]]) -> bool:
    """Prints the table; whether all holds."""
    holds = True
    print(f"{'backend':13} {'format':21} {'tokens':>6}  error / bound, the worst of all seeds and cases")
    for result in results:
        if "failed" in result:
            holds = False
            print(f"{result['backend']:13} failed: {result['failed']}")
        for tokens in dict.fromkeys(row["tokens"] for row in result["rows"]):
            rows = [row for row in result["rows"] if row["tokens"] == tokens]
            cells = []
            for what in GATED:
                worst = max(
                    (row for row in rows if row["what"] == what.value), key=lambda row: float(row["share"])
                )
                cells.append(
                    f"{what.value} {worst['error']:.1e}/{worst['bound']:.1e} ({worst['share']:.2f},"
                    f" seed {worst['seed']})"
                )
            refused = [row for row in rows if row["refused"]]
            planted = [row for row in result["faults"] if row["tokens"] == tokens]
            caught = sum(bool(row["refused"]) for row in planted)
            seen = f", faults refused {caught} of {len(planted)}" if planted else ""
            print(
                f"{result['backend']:13} {result['format']:21} {tokens:6d}  {'; '.join(cells)};"
                f" refused {len(refused)} of {len(rows)}{seen}"
            )
            for row in refused:
                print(f"    {row['what']}, seed {row['seed']}: {row['refused']}")
            for row in planted:
                if not row["refused"]:
                    print(f"    not refused: {row['fault']}, {row['what']}, seed {row['seed']}")
            holds = holds and not refused and caught == len(planted)
    for name, rows in (("defaults", "rows"), ("planted faults", "faults")):
        verdicts = [bool(row["refused"]) for result in results for row in result[rows]]
        print(f"{name} refused: {sum(verdicts)} of {len(verdicts)}")
    return holds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backends", default=",".join(BACKENDS))
    parser.add_argument("--tokens", default=TOKENS, type=lambda text: tuple(map(int, text.split(","))))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--model", default="kimi-k2.5-w4a8")
    parser.add_argument("--tp", type=int, default=8)
    parser.add_argument("--ep", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=4, help="processes at a time; nothing is timed")
    parser.add_argument("--out", type=Path, help="the rows as JSON")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(prove(options.only, options)))
        return
    with ThreadPoolExecutor(options.jobs) as pool:
        results = list(pool.map(lambda name: in_a_process(name, options), options.backends.split(",")))
    if options.out:
        options.out.write_text(json.dumps(results, indent=1) + "\n")
    sys.exit(0 if show(results) else 1)


if __name__ == "__main__":
    main()
