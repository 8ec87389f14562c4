#!/usr/bin/env python
"""Records a table: every config of a bounded sub-space, both stages, m1..m8, on the GPU of this machine.

    python scripts/record_table.py --model kimi-k2.5-w4a8 --tp 8 --out kimi.table.json.gz

A killed or timed-out recording goes on where it was: what was found is in FILE.journal. `--limit` ends it in
good order before a machine's own limit does. The sub-space is in `scripts/bench/subspace.py`; `--keep` and
`--most` change it:

    --keep stage1.num_stages='2|3|4' --most 2200

On an H100 with 16 cores a config takes about 0.08 s at all eight token counts, so a stage of 2,400 configs
about 3.5 minutes and half a minute for the order of the best.
"""

import argparse
import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.recorder import Recorder, Recording
from bench.subspace import KEPT, Values, bounded, parse_kept
from bench.sweep import SweepSettings

from autotune.errors import UserError
from autotune.measure.settings import MeasureSettings
from autotune.problem.layer import Layer, Stage, parse_shapes, problems
from autotune.problem.models import PRESETS, preset
from autotune.problem.routing import Routing
from autotune.protocol.registry import backend_names, load_backend
from autotune.replay.files import SUFFIX, write_table
from autotune.tuning.targets import resolve_target

DIMS = 4  # of a layer: hidden, inner, experts, experts a token


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        return _record(options)
    except UserError as error:
        print(f"record_table: {error}", file=sys.stderr)
        return 2


def _record(options: argparse.Namespace) -> int:
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - started:6.1f}] {text}", flush=True)

    backend, device = load_backend(options.backend), resolve_target(options.target).device
    layer = _layer(options.dims, options.tp) if options.dims else Layer.of(preset(options.model), options.tp)
    tuned = problems(layer, parse_shapes(options.shape), [1], Routing.parse(options.routing))
    configs = {
        stage: bounded(
            backend.space(layer, tuned[0].tokens, stage, device),
            _kept(stage, options.keep),
            defaults=[backend.space(layer, p.tokens, stage, device).default for p in tuned],
            most=options.most,
        )
        for stage in (Stage(name) for name in options.stages.split(","))
    }
    measure = MeasureSettings(steps=options.steps)
    layers = _pair(options.layers) if len(configs) == len(Stage) else (0, 0)
    recording = Recording(
        backend=backend,
        device=device,
        problems=tuned,
        configs=configs,
        settings=SweepSettings(
            measure, samples=options.samples, contenders=options.contenders, slow=options.slow, layers=layers
        ),
        workers=options.workers or max(1, len(os.sched_getaffinity(0)) - 2),
        command=shlex.join(["python", "scripts/record_table.py", *sys.argv[1:]]),
    )
    sizes = ", ".join(f"{len(found)} configs of {stage}" for stage, found in configs.items())
    say(f"{layer.key} on {device.name}: {sizes}, at {len(tuned)} token counts")
    journal = options.out.with_name(options.out.name.removesuffix(SUFFIX) + ".journal")
    with Recorder(recording, journal, say) as recorder:
        table = recorder.run(options.limit)
    if table is None:
        say(f"time is up; the same command goes on from {journal}")
        return 3
    write_table(table, options.out)
    say(f"wrote {options.out}, {options.out.stat().st_size / 1e6:.2f} MB")
    return 0


def _layer(text: str, tp: int) -> Layer:
    """Reads `glm-4.6=5120,192,160,8`: a layer that is no preset's.

    Raises:
        UserError: not of that form.
    """
    name, equals, numbers = text.partition("=")
    dims = [int(number) for number in numbers.split(",") if number.isdigit()]
    if not (name and equals and len(dims) == DIMS):
        raise UserError(
            f"--dims {text!r} is not of the form NAME=HIDDEN,INNER,EXPERTS,TOP_K, a GPU's share of the layer"
        )
    return Layer(name, *dims, tp=tp)


def _pair(text: str) -> tuple[int, int]:
    """Reads `48x32`.

    Raises:
        UserError: not of that form.
    """
    one, by, two = text.partition("x")
    if not (by and one.isdigit() and two.isdigit()):
        raise UserError(
            f"--layers {text!r} is not of the form 48x32: configs of stage 1 by configs of stage 2"
        )
    return int(one), int(two)


def _kept(stage: Stage, texts: Sequence[str]) -> Values:
    """The kept values of a stage: the documented ones, changed by `--keep STAGE.KNOB=VALUES`."""
    own = [text.removeprefix(f"{stage}.") for text in texts if text.startswith(f"{stage}.")]
    return {**KEPT[stage], **parse_kept(own)}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help=f"the table, e.g. h100-kimi{SUFFIX}")
    parser.add_argument("--model", default="kimi-k2.5-w4a8", choices=sorted(PRESETS))
    parser.add_argument("--tp", type=int, default=8)
    parser.add_argument("--dims", metavar="NAME=HIDDEN,INNER,EXPERTS,TOP_K", help="instead of a model")
    parser.add_argument("--backend", default="triton", choices=backend_names())
    parser.add_argument(
        "--target", default="live", help="live; another device's only for a trial without GPU"
    )
    parser.add_argument("--shape", default="all", help="m1..m8, several or all")
    parser.add_argument("--routing", default="uniform")
    parser.add_argument("--stages", default="stage1,stage2")
    parser.add_argument("--keep", action="append", default=[], metavar="STAGE.KNOB=V|V")
    parser.add_argument("--most", type=int, help="a seeded sample of so many configs a stage; default: all")
    parser.add_argument(
        "--layers", default="48x32", help="configs of each stage whose pairs are recorded; 0x0"
    )
    parser.add_argument("--slow", type=float, default=2.0, help="times the best from which two samples do")
    parser.add_argument("--limit", type=float, help="seconds after which nothing new is begun")
    parser.add_argument("--workers", type=int, help="compile processes; default: cores - 2")
    parser.add_argument("--steps", type=int, default=16, help="launches of a pass at least")
    parser.add_argument("--samples", type=int, default=5, help="timed samples of a config near the best")
    parser.add_argument("--contenders", type=int, default=50, help="how many of each problem are re-measured")
    return parser


if __name__ == "__main__":
    sys.exit(main())
