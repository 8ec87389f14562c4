#!/usr/bin/env python
"""The null test on the GPU of this machine: the default against copies of itself, through the whole decision.

    python scripts/null_test.py --runs 20 --out null.json

Each run times several copies of both stages' defaults (a knob that changes nothing tells them apart), settles
their order in further windows, sends the best pairs to a final against the default, and decides as
`autotune run` does. Every winner is a false one. Run it again, and `tests/tuning/test_null.py`, after
anything that changes how winners are picked. About ten seconds a run on an H100.
"""

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from autotune.errors import UserError
from autotune.measure.confirm import decide_again
from autotune.measure.pool import Measurer
from autotune.measure.settings import MeasureSettings
from autotune.problem.layer import Layer, Problem, Stage, parse_shapes
from autotune.problem.models import preset
from autotune.protocol.registry import load_backend
from autotune.results import Confirmation, Failure, LayerConfig, Measurement
from autotune.search.choose import Ranked, finalists
from autotune.search.race import settle
from autotune.space.config import Config
from autotune.tuning.targets import resolve_target

RUNTIME = "padded_runtime:make"


def settled(measurer: Measurer, problem: Problem, stage: Stage, copies: list[Config]) -> Ranked:
    """The copies in the order in which a search and its race leave them."""

    def again(config: Config) -> Measurement | Failure:
        return measurer.submit(problem, stage, config).result()

    first = {config: again(config) for config in copies}
    times = {config: m.us for config, m in first.items() if isinstance(m, Measurement)}
    return settle(sorted(times.items(), key=lambda pair: pair[1]), again)


def decide(problem: Problem, default: LayerConfig, copies: int, settings: MeasureSettings) -> Confirmation:
    """One whole decision."""
    twins = {
        stage: [Config({**default.of(stage), "twin": number}) for number in range(1, copies + 1)]
        for stage in Stage
    }
    with Measurer(RUNTIME, [problem], settings) as measurer:
        one, two = (settled(measurer, problem, stage, twins[stage]) for stage in Stage)
        contenders = finalists(one, two, default=default, published=None, most=8)
        return measurer.confirm(problem, contenders)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--copies", type=int, default=6, help="of each stage's default")
    parser.add_argument("--model", default="kimi-k2.5-w4a8")
    parser.add_argument("--tp", type=int, default=8)
    parser.add_argument("--shape", default="m4")
    parser.add_argument("--out", type=Path, default=Path("null.json"))
    options = parser.parse_args()
    target = resolve_target("live")
    layer = Layer.of(preset(options.model), options.tp)
    (tokens,) = parse_shapes(options.shape)
    problem = Problem(layer, tokens)
    backend = load_backend("triton")
    default = LayerConfig(
        *(backend.space(layer, problem.tokens, stage, target.device).default for stage in Stage)
    )
    runs = []
    for seed in range(options.runs):
        started = time.monotonic()
        settings = replace(MeasureSettings(), seed=seed)
        final = decide(problem, default, options.copies, settings)
        said = decide_again(final, settings)
        measured = (
            None if said.ratio is None else [1 - said.ratio.value, 1 - said.ratio.high, 1 - said.ratio.low]
        )
        runs.append({"seed": seed, "winner": final.winner, "gain_95": measured, "notes": list(final.notes)})
        options.out.write_text(json.dumps({"device": target.device.name, "runs": runs}, indent=1) + "\n")
        text = (
            "nothing was compared"
            if measured is None
            else "gain {:+.2%} ({:+.2%} to {:+.2%})".format(*measured)
        )
        told = f"FALSE WINNER {final.winner}" if final.winner else "kept the default"
        print(f"seed {seed}: {told}, {text}, {time.monotonic() - started:.1f} s", flush=True)
    false = sum(bool(run["winner"]) for run in runs)
    compared = sum(run["gain_95"] is not None for run in runs)
    print(
        f"{false} false winners of {len(runs)} decisions on {target.device.name}, {compared} of them compared"
    )
    if false > 0.05 * len(runs) or compared < len(runs):
        sys.exit(1)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
