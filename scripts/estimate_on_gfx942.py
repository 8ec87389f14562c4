#!/usr/bin/env python
"""Holds the offline estimate against times that were measured on gfx942: the tuned rows that AITER ships.

    python scripts/estimate_on_gfx942.py AITER_TREE

AITER's tables of fused-MoE kernels have rows of GPUs with 304 CUs (MI300X, MI325X) with microseconds, of each
stage or of both in one kernel. For each row the formula of `autotune.compile.estimate` is worked out for that
kernel's tile: its bytes, its workgroups, and one tile of weights in flight a workgroup (two in pipelines from
v3 on). Printed are measured over estimated time, median and quartiles by tokens; then the bandwidth and the
latency, fitted on half of the layers and judged on the other half, both ways round.

What that cannot tell: the rows are winners, so it says nothing of the ranking of configs; AITER's tuner runs
the same weights again and again, so what fits the Infinity Cache of 256 MiB was warm; the row does not say
which of the two GPUs it is of (5.3 TB/s is taken). Rows without a time are left out.
"""

import argparse
import csv
import math
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median, quantiles

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from autotune.compile.estimate import estimate_us
from autotune.errors import UserError
from autotune.machine.devices import DEVICES
from autotune.problem.arithmetic import Scales, Scheme
from autotune.problem.layer import Layer, Problem, Stage, WeightBytes, gemm_dims
from autotune.protocol.backend import Work
from autotune.results import StaticFacts

CU_NUM = 304
DEVICE = DEVICES["mi300x"]
FEW = 128
"""Tokens up to which a layer is taken to wait for memory, as the formula does: what is fitted and judged."""

_SCHEMES = {
    "torch.bfloat16": None,
    "torch.float8_e4m3fnuz": Scheme("fp8", Scales.BLOCK, (128, 128), "fp8 in groups of 128"),
}
_CK = re.compile(r"moe_ck2stages_gemm[12]_\d+x(\d+)x(\d+)x(\d+)_\w+?_v(\d)_")
_ASM = re.compile(r"_(\d+)x(\d+)(?:_|E)")


@dataclass(frozen=True)
class Launch:
    """A kernel that was timed.

    Attributes:
        model: hidden size, width, experts and choices of its layer: what is split into halves.
        us: measured microseconds.
        works: of the stages that it computes, by our formula's terms.
        per_cu: workgroups that the LDS of a CU holds, by the tile.
    """

    model: str
    tokens: int
    us: float
    works: tuple[Work, ...]
    per_cu: int

    def estimate(self, bandwidth: float, latency_s: float) -> float:
        """Microseconds by the formula; stages of one kernel follow each other, in one launch."""
        device = replace(DEVICE, bandwidth_bytes_per_s=bandwidth)
        facts = StaticFacts(workgroups_per_cu=self.per_cu)
        nothing = estimate_us(Work(0.0, 1.0, 1.0), facts, device)
        each = [estimate_us(work, facts, device, latency_s) - nothing for work in self.works]
        return nothing + sum(each)


def rows(tree: Path) -> Iterator[dict[str, str]]:
    """Rows of such GPUs in all tables of tuned kernels.

    Raises:
        UserError: the tree has no tables.
    """
    tables = sorted(p for p in (tree / "aiter/configs").rglob("*tuned_fmoe*.csv") if "untuned" not in p.name)
    if not tables:
        raise UserError(f"{tree} has no aiter/configs/…tuned_fmoe….csv: give a source tree of AITER")
    for table in tables:
        with table.open(newline="") as file:
            for row in csv.DictReader(file):
                if row.get("cu_num") == str(CU_NUM) and row.get("gfx", "gfx942") == "gfx942":
                    yield row


def launches(row: dict[str, str]) -> Iterator[Launch]:
    """The timed kernels of a row; none where it has no time, or a format or name that is not known here."""
    weights = row["q_dtype_w"]
    if weights not in _SCHEMES or float(row["us"]) <= 0:
        return
    dims = [int(row[name]) for name in ("model_dim", "inter_dim", "expert", "topk")]
    layer = Layer("/".join(map(str, dims)), *dims, 1)
    problem = Problem(layer, 1, int(row["token"]))
    held = WeightBytes.of(_SCHEMES[weights])
    if row["run_1stage"] == "1":
        tile = _tile(row["kernelName1"])
        if tile:
            works = tuple(_work(problem, stage, held, tile) for stage in Stage)
            yield Launch(layer.model, problem.tokens, float(row["us"]), works, _per_cu(tile, held))
        return
    for stage, name, us in ((Stage.STAGE1, "kernelName1", "us1"), (Stage.STAGE2, "kernelName2", "us2")):
        tile = _tile(row[name])
        if tile and float(row[us]) > 0:
            work = _work(problem, stage, held, tile)
            yield Launch(layer.model, problem.tokens, float(row[us]), (work,), _per_cu(tile, held))


Tile = tuple[int, int, int, int]
"""Sides M, N and K, and tiles of weights in flight."""


def _tile(name: str) -> Tile | None:
    """A kernel's tile by its name; hand-written ones do not name K, which is 128 there."""
    ck = _CK.match(name)
    if ck:
        m, n, k, version = map(int, ck.groups())
        return m, n, k, 2 if version >= 3 else 1
    asm = _ASM.search(name)
    return (int(asm[1]), int(asm[2]), 128, 1) if asm else None


def _work(problem: Problem, stage: Stage, held: WeightBytes, tile: Tile) -> Work:
    m, n_tile, k_tile, deep = tile
    n, k = gemm_dims(problem.layer, stage)
    slots = problem.expected_slots()
    blocks = min(slots, problem.expected_experts() + slots // m)
    inputs = problem.tokens if stage is Stage.STAGE1 else slots
    return Work(
        bytes_moved=held.read(problem, stage) + inputs * k * min(2.0, held.weight) + 2 * slots * n,
        workgroups=blocks * math.ceil(n / n_tile),
        bytes_in_flight=n_tile * min(k, k_tile) * held.weight * deep,
    )


def _per_cu(tile: Tile, held: WeightBytes) -> int:
    m, n, k, deep = tile
    return max(1, min(2, int(DEVICE.lds_bytes_per_cu // ((m + n) * k * min(2.0, held.weight) * deep))))


def spread(ratios: Sequence[float]) -> str:
    """Median and quartiles."""
    if len(ratios) < 2:
        return f"{ratios[0]:5.2f}" if ratios else "    –"
    low, _, high = quantiles(ratios, n=4)
    return f"{median(ratios):5.2f} ({low:.2f} to {high:.2f})"


def ratios(timed: Sequence[Launch], bandwidth: float, latency_s: float) -> list[float]:
    """Measured over estimated time."""
    return [launch.us / launch.estimate(bandwidth, latency_s) for launch in timed]


def fit(timed: Sequence[Launch]) -> tuple[float, float]:
    """The bandwidth and latency with the least squares of the ratios' logarithms, on a grid."""
    bandwidths = [DEVICE.bandwidth_bytes_per_s * 1.06**i for i in range(-36, 7)]
    latencies = [0.1e-6 * 1.12**i for i in range(45)]

    def badness(pair: tuple[float, float]) -> float:
        return sum(math.log(ratio) ** 2 for ratio in ratios(timed, *pair))

    return min(((b, s) for b in bandwidths for s in latencies), key=badness)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tree", type=Path, help="source tree of AITER")
    options = parser.parse_args()
    try:
        found = [launch for row in rows(options.tree) for launch in launches(row)]
    except UserError as error:
        sys.exit(f"error: {error}")
    if not found:
        sys.exit(f"error: no row of {CU_NUM} CUs with a time under {options.tree}: give another AITER")
    print(
        f"{len(found)} kernels of {len({launch.model for launch in found})} layers with times at {CU_NUM} CUs"
    )
    print("measured / estimated, median (quartiles), as the estimate ships")
    assumed = (DEVICE.bandwidth_bytes_per_s, 0.8e-6)
    for tokens in sorted({launch.tokens for launch in found}):
        at = [launch for launch in found if launch.tokens == tokens]
        print(f"  M = {tokens:6d}  {len(at):3d} kernels  {spread(ratios(at, *assumed))}")
    few = [launch for launch in found if launch.tokens <= FEW]
    models = sorted({launch.model for launch in few})
    halves = [[launch for launch in few if models.index(launch.model) % 2 == side] for side in (0, 1)]
    print(f"up to M = {FEW}: {len(few)} kernels, as the estimate ships {spread(ratios(few, *assumed))}")
    for side in (0, 1):
        mine, other = halves[side], halves[1 - side]
        if not mine or not other:
            sys.exit(f"error: one layer only up to {FEW} tokens: it cannot be halved")
        bandwidth, latency = fit(mine)
        print(
            f"fitted on {', '.join(models[side::2])}: {bandwidth / 1e12:.1f} TB/s, {latency * 1e6:.2f} µs;"
            f" there {spread(ratios(mine, bandwidth, latency))};"
            f" judged on {', '.join(models[1 - side :: 2])}: {spread(ratios(other, bandwidth, latency))}"
        )


if __name__ == "__main__":
    main()
