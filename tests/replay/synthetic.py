"""Synthetic tables: shaped like a GPU's, made by a formula. Their times say nothing of any device.

What a search has to cope with is there: time is bound by bytes in flight, so knobs act together; rounds of
workgroups make cliffs; neighbouring token counts agree and distant ones do not; every config has an own
deviation of a few per cent; some fail to compile and some give wrong numbers; machine code of some is equal.
"""

import hashlib
import random
from dataclasses import replace
from math import ceil

from bench.subspace import KEPT, Values, bounded, leading

from autotune.machine.devices import DEVICES
from autotune.machine.fingerprint import Fingerprint
from autotune.problem.arithmetic import W4A8
from autotune.problem.layer import Layer, Problem, Stage, WeightBytes, gemm_dims
from autotune.problem.models import preset
from autotune.problem.routing import UNIFORM
from autotune.replay.table import Recorded, StageTable, Table
from autotune.resources import data_dir
from autotune.results import (
    Compiled,
    Failure,
    LayerConfig,
    LayerMeasurement,
    Measurement,
    Sample,
    StaticFacts,
    Status,
)
from autotune.space.config import Config
from autotune.space.read import parse_space

DEVICE = DEVICES["h100"]
WEIGHTS = WeightBytes.of(W4A8[0])
BANDWIDTH = 2.9e6  # bytes a microsecond
LATENCY_US = 0.9
FINGERPRINT = Fingerprint(
    device="synthetic",
    arch=DEVICE.arch,
    compute_units=DEVICE.compute_units,
    runtime="none",
    backend="triton",
    kernel_source="formula",
    tool_version="0",
)


def chance(*parts: object) -> float:
    """A number in [0, 1) that depends on `parts` alone."""
    digest = hashlib.blake2b("|".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def true_us(layer: Layer, stage: Stage, config: Config, tokens: int) -> float:
    """Microseconds without noise."""
    knob = {name: int(value) if isinstance(value, int) else value for name, value in config.items()}
    tile_n, tile_k, warps, depth = (
        int(knob[n] or 0) for n in ("tile_n", "tile_k", "num_warps", "num_stages")
    )
    split = int(knob.get("split_k") or 1)
    n, k = gemm_dims(layer, stage)
    problem = Problem(layer, tokens)
    blocks = min(float(tokens * layer.top_k), problem.expected_experts())
    groups = ceil(n / tile_n) * (split * blocks if knob.get("reduce") != "loop" else 1)
    stage_bytes = (tile_n + 32) * tile_k // 2
    fit = max(1, min(DEVICE.lds_bytes // (stage_bytes * max(1, depth - 1)), 48 // warps, 8))
    slots = DEVICE.compute_units * fit
    running = min(groups, slots)
    in_flight = running * tile_n * tile_k / 2 * min(depth - 1, 4) ** 0.8
    rounds = ceil(groups / slots)
    full = groups / (rounds * slots) if rounds > 1 else 1.0
    moved = WEIGHTS.read(problem, stage) * (ceil(n / tile_n) * tile_n / n)
    work = groups * (tile_n * tile_k / warps) / (DEVICE.compute_units * 4e5) * ceil(k / tile_k / split) * 0.04
    time = moved * (1 / BANDWIDTH + LATENCY_US / in_flight) / full**0.5 + work
    time += 1.5 + 0.35 * (split - 1) ** 0.7 * (1 + tokens / 6) + 0.02 * ceil(k / tile_k / split)
    time += 1.2 if knob.get("reduce") == "atomic" else 0.0
    time -= 0.9 if knob.get("pdl") else 0.0
    rough = 0.02 * chance("rough", layer.key, stage, config.key) + 0.01 * chance(
        "m", stage, config.key, tokens
    )
    return time * (1 + rough)


def synthetic_table(
    model: str = "kimi-k2.5-w4a8",
    tp: int = 8,
    *,
    tokens: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8),
    most: int | None = None,
    kept: "dict[Stage, Values] | None" = None,
    samples: int = 5,
) -> Table:
    """A table of both stages; equal arguments make equal tables."""
    layer = Layer.of(preset(model), tp)
    stages = {}
    for stage in Stage:
        text = (data_dir("search_spaces") / "triton" / f"{stage}.toml").read_text()
        spaces = [parse_space(text).at(layer, count, DEVICE) for count in tokens]
        defaults = [space.default for space in spaces]
        configs = bounded(spaces[0], (kept or dict(KEPT))[stage], defaults=defaults, most=most)
        rows = tuple(_row(layer, stage, config, tokens, samples, config in defaults) for config in configs)
        stages[stage] = StageTable(text, rows)
    return Table(layer, DEVICE, FINGERPRINT, "synthetic", UNIFORM, tokens, "synthetic", stages)


def _row(
    layer: Layer, stage: Stage, config: Config, tokens: tuple[int, ...], samples: int, safe: bool
) -> Recorded:
    fate = 1.0 if safe else chance("fate", layer.key, stage, config.key)
    seconds = round(0.25 + 0.5 * chance("compile", config.key), 4)
    if fate < 0.02:
        failure = Failure(Status.COMPILE_ERROR, "synthetic: out of resources", seconds)
        return Recorded(config, failure, {}, {})
    compiled = Compiled(
        hashlib.sha256(config.key.encode()).hexdigest()[:16], StaticFacts(lds_bytes=1024), seconds
    )
    if fate < 0.03:
        wrong = Failure(Status.INCORRECT, "synthetic: off", 0.005)
        return Recorded(config, compiled, dict.fromkeys(tokens, wrong), {})
    outcomes: dict[int, Measurement | Failure] = {}
    for count in tokens:
        us = true_us(layer, stage, config, count)
        rng = random.Random(f"{config.key}{count}")
        taken = tuple(Sample(round(us * (1 + rng.gauss(0, 0.003)), 3)) for _ in range(samples))
        outcomes[count] = Measurement(taken, 1.7e-3, round(0.006 + us * 5e-4, 5))
    return Recorded(config, compiled, outcomes, {})


def with_layers(table: Table, count: tuple[int, int] = (12, 8)) -> Table:
    """The table with layers of a product of its leaders: the stages' sum, less what a pair overlaps."""
    parts = [
        leading(
            [{row.config: us for row in part.rows if (us := row.us(t))} for t in table.tokens],
            list(dict.fromkeys(table.space(t, stage).default for t in table.tokens)),
            number,
        )
        for (stage, part), number in zip(table.stages.items(), count, strict=True)
    ]
    pairs = [LayerConfig(one, two) for one in parts[0] for two in parts[1]]
    layers = {pair: {t: _layer(table, pair, t) for t in table.tokens} for pair in pairs}
    return replace(table, layers=layers)


def layer_us(table: Table, pair: LayerConfig, tokens: int) -> float:
    """Microseconds of a layer without noise."""
    alone = [table.stages[stage].by_config[pair.of(stage)].us(tokens) or 0.0 for stage in Stage]
    overlap = 0.15 * chance("one", pair.stage1.key) + 0.1 * chance("two", pair.stage2.key)
    return sum(alone) * (1 - overlap - 0.02 * chance(pair.key)) + 1.5


def _layer(table: Table, pair: LayerConfig, tokens: int) -> LayerMeasurement:
    rng = random.Random(f"{pair.key}{tokens}")
    default = LayerConfig(*(table.space(tokens, stage).default for stage in Stage))
    us, base = (
        tuple(round(layer_us(table, config, tokens) * (1 + rng.gauss(0, 0.002)), 3) for _ in range(4))
        for config in (pair, default)
    )
    return LayerMeasurement(us, base, 6e-3, 0.012)
