#!/usr/bin/env python
"""Our W4A8 layer beside engines' own kernels, in one run on the GPU of this machine.

    AUTOTUNE_SGLANG_SRC=.engines python scripts/beside_engine.py --db tuned.db
    python scripts/beside_engine.py --engine humming_w4a8 --engine humming_w4a16 --shape all,m4x40

Times both stages and the layer at each shape: each backend's default and, from the databases, its tuned best,
on the same cold weights' routings, taking turns. A stage is all that lies between its input, as the GEMM
takes it, and what the next step reads: with ours one launch, with an engine its GEMM and its activation, or
its GEMM and its sum over slots. The sort is in neither; it is in the layer, with the quantisation. Of each
time, the share of the least time in which its own weight bytes can be read is printed: unlike formats have
unlike floors.

Prints a table; `--out` writes it as JSON. A minute on an H100 without databases, two with them.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import wait
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.beside import Timed, compiled, contenders, default_contender, side_by_side

from autotune.compile.pool import CompilePool
from autotune.errors import UserError
from autotune.machine.devices import Device
from autotune.machine.fingerprint import Fingerprint
from autotune.measure.pool import Measurer
from autotune.measure.settings import MeasureSettings
from autotune.problem.layer import Layer, Problem, Stage, parse_concurrency, parse_shapes, problems
from autotune.problem.models import PRESETS, preset
from autotune.problem.routing import UNIFORM
from autotune.protocol.registry import load_backend
from autotune.protocol.runtime import GATED, Subject, What
from autotune.report.limits import weights_of
from autotune.results import Failure, LayerConfig
from autotune.tuning.targets import resolve_target


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        found = beside(options, Layer.of(preset(options.model), options.tp))
    except UserError as error:
        print(f"beside_engine: {error}", file=sys.stderr)
        return 2
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n")
    return 0 if all("us" in row for row in found["rows"]) else 1


def beside(options: argparse.Namespace, layer: Layer) -> dict[str, Any]:
    """Times and prints everything.

    Raises:
        UserError: a backend cannot run here, or the card's bandwidth is not known.
    """
    target = resolve_target("live")
    bandwidth = _bandwidth(options.bandwidth, target.device)
    backends = {name: load_backend(name) for name in (options.ours, *(options.engine or ["sglang_w4a16"]))}
    for name in backends:
        if weights_of(name) is None:
            raise UserError(f"how many bytes {name} reads is not known: its registration must say so")
    shapes = _problems(layer, options.shape)
    settings = MeasureSettings(
        seed=options.seed, cold=options.cold, judge_rounds=options.rounds + options.rounds % 2
    )
    parts = [(problem, what) for problem in shapes for what in options.what]
    start = time.perf_counter()
    with ExitStack() as stack:
        measurers = {
            name: stack.enter_context(Measurer(backend.runtime, shapes, settings))
            for name, backend in backends.items()
        }
        stores: list[Any] = []
        if options.db:
            from autotune.store.store import Store  # needs SQLAlchemy

            stores = [stack.enter_context(Store.open(path, read_only=True)) for path in options.db]
        device = target.device
        # Not all have as much to compile, so together they are more than there are cores.
        workers = max(1, 2 * len(os.sched_getaffinity(0)) // (1 + len(backends)))
        pools = {name: stack.enter_context(CompilePool(name, device, workers=workers)) for name in backends}
        for problem, what in parts:
            for backend in backends.values():
                stage = _stage(what)
                compiled(pools, problem, stage, default_contender(backend, problem, stage, device))
        # Meanwhile the measure workers start, one after the other: each looks who else is on the GPU.
        fingerprints = {name: measurer.fingerprint() for name, measurer in measurers.items()}
        fields = {
            (problem, what): [
                contender
                for name, backend in backends.items()
                for contender in contenders(
                    backend, problem, _stage(what), device, fingerprints[name], settings.key, stores
                )
            ]
            for problem, what in parts
        }
        compiles = [
            future
            for (problem, what), field in fields.items()
            for contender in field
            for future in compiled(pools, problem, _stage(what), contender)
        ]
        wait(compiles)
        for pool in pools.values():
            pool.close()
        found: dict[str, Any] = {
            "layer": layer.key,
            "workload": settings.key,
            "rounds": 2 * settings.judge_rounds,
            "bandwidth_bytes_per_s": bandwidth,
            "fingerprints": {name: asdict(stack_here) for name, stack_here in fingerprints.items()},
            "rows": [],
        }
        print(_head(layer, fingerprints, settings, bandwidth), flush=True)
        print(f"{len(set(compiles))} kernels compiled in {time.perf_counter() - start:.0f} s", flush=True)
        for (problem, what), field in fields.items():
            print(f"\n{problem.shape} {what}")
            answers = side_by_side(measurers, backends, problem, _stage(what), field)
            for contender, answer in zip(field, answers, strict=True):
                row = _row(problem, what, contender.backend, bandwidth, answer)
                row |= {
                    "label": contender.label,
                    "config": _values(contender.config),
                    "stored_on": list(contender.stored_on),
                }
                found["rows"].append(row)
                print(_line(row), flush=True)
    print(_best(found["rows"]))
    return found


def _problems(layer: Layer, text: str) -> list[Problem]:
    """Of `m1,m4`, `all`, and for several sequences in flight `m4x40`; by tokens."""
    named = [part.strip().partition("x") for part in text.split(",")]
    listed = {
        problem
        for shape, _, sequences in named
        for problem in problems(layer, parse_shapes(shape), parse_concurrency(sequences or "1"), UNIFORM)
    }
    return sorted(listed, key=lambda problem: (problem.tokens, problem.verify_tokens))


def _stage(what: What) -> Stage | None:
    return None if what is What.LAYER else Stage(what.value)


def _values(config: Subject) -> dict[str, Any]:
    if isinstance(config, LayerConfig):
        return {str(stage): dict(config.of(stage)) for stage in Stage}
    return dict(config)


def _bandwidth(given: float | None, device: Device) -> float:
    """Bytes a second."""
    bandwidth = given * 1e12 if given else device.bandwidth_bytes_per_s
    if not bandwidth:
        raise UserError(f"the bandwidth of {device.name} is not known: give --bandwidth in TB/s")
    return float(bandwidth)


def _row(
    problem: Problem, what: What, backend: str, bandwidth: float, answer: Timed | Failure
) -> dict[str, Any]:
    weights = weights_of(backend)
    assert weights is not None  # or nothing was timed
    parts = Stage if what is What.LAYER else (Stage(what.value),)
    size = sum(weights.read(problem, stage) for stage in parts)
    floor = size / bandwidth * 1e6
    row: dict[str, Any] = {
        "shape": problem.shape,
        "what": str(what),
        "backend": backend,
        "weight_bytes": size,
        "floor_us": floor,
    }
    if isinstance(answer, Failure):
        return {**row, "status": str(answer.status), "reason": answer.reason}
    return {
        **row,
        "us": asdict(answer.us),
        "gate_error": answer.gate_error,
        "of_floor": floor / answer.us.value,
    }


def _head(
    layer: Layer, fingerprints: dict[str, Fingerprint], settings: MeasureSettings, bandwidth: float
) -> str:
    here = next(iter(fingerprints.values()))
    sources = ", ".join(f"{name} {stack.kernel_source[:12]}" for name, stack in fingerprints.items())
    return (
        f"{layer.key} on {here.device}: torch {here.torch}, Triton {here.triton}, {here.runtime},"
        f" driver {here.driver}\n"
        f"kernels' source: {sources}\n"
        f"{settings.key}, uniform routing, {2 * settings.judge_rounds} rounds in two turns of opposite order;"
        f" floor: a step's expected weight bytes at {bandwidth / 1e12:.2f} TB/s"
    )


def _line(row: dict[str, Any]) -> str:
    name = f"  {row['backend']:13} {row['label']:22}"
    other = f"  (found on another stack: {'; '.join(row['stored_on'])})" if row["stored_on"] else ""
    if "us" not in row:
        return f"{name} {row['status']}: {row['reason']}"
    us = row["us"]
    return (
        f"{name} {us['value']:8.2f} µs ({us['low']:.2f} to {us['high']:.2f})"
        f"  {row['of_floor']:4.0%} of its floor {row['floor_us']:.2f} µs{other}"
    )


def _best(rows: Sequence[dict[str, Any]]) -> str:
    """The fastest of each backend, a line per shape and stage or layer."""
    lines = ["\nthe fastest of each"]
    for shape, what in dict.fromkeys((row["shape"], row["what"]) for row in rows):
        mine = [row for row in rows if (row["shape"], row["what"]) == (shape, what) and "us" in row]
        fastest: dict[str, dict[str, Any]] = {}
        for row in sorted(mine, key=lambda row: -row["us"]["value"]):
            fastest[row["backend"]] = row
        parts = [
            f"{name} {row['us']['value']:.2f} µs ({row['of_floor']:.0%})"
            for name, row in sorted(fastest.items(), key=lambda pair: pair[1]["us"]["value"])
        ]
        ratio = ""
        if len(fastest) > 1:
            times = sorted(row["us"]["value"] for row in fastest.values())
            ratio = f"  {times[-1] / times[0]:.2f}x"
        lines.append(f"  {shape} {what}: {', '.join(parts)}{ratio}")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--engine", action="append", help="repeatable; default: sglang_w4a16")
    parser.add_argument("--ours", default="triton", help="the first backend")
    parser.add_argument("--shape", default="m1,m2,m4,m8", help="m4x40: with 40 sequences in flight")
    parser.add_argument(
        "--what",
        type=lambda text: [What(part) for part in text.split(",")],
        default=list(GATED),
        help="parts",
    )
    parser.add_argument("--model", default="kimi-k2.5-w4a8", choices=sorted(PRESETS))
    parser.add_argument("--tp", type=int, default=8)
    parser.add_argument("--db", action="append", default=[], help="a database with tuned configs; repeatable")
    parser.add_argument("--bandwidth", type=float, help="TB/s of the floor; default: the card's datasheet")
    parser.add_argument("--rounds", type=int, default=8, help="of each of the two turns; made even")
    parser.add_argument("--cold", type=float, default=2.0, help="as of autotune run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
