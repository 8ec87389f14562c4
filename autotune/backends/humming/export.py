"""From winners to the file that our vLLM plugin answers from: humming's ranges, the tuned ones in front."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from autotune.backends.humming import library
from autotune.backends.humming.backend import HummingBackend
from autotune.backends.humming.knobs import entry
from autotune.backends.humming.plugin import FORMAT, SUBLAYERS, VARIABLE, VERSION
from autotune.backends.humming.ranges import MOST_ROWS, Range, at, overlaid, rows_of
from autotune.problem.layer import Stage
from autotune.protocol.exporter import (
    Content,
    Exporter,
    Preview,
    Request,
    Row,
    Stack,
    device_of,
    estimate_note,
    source_of,
)
from autotune.protocol.key_table import looked_at
from autotune.store.records import WinnerRecord

FILE_NAME: Final = "humming.json"
_CONCURRENT: Final = (40, 160)  # tokens that are looked at besides: sequences of a server, times 1 and 4


def tables(kernels: HummingBackend, winners: Sequence[WinnerRecord]) -> dict[Stage, list[Range]]:
    """Each stage's ranges.

    Args:
        winners: of one layer on one stack.

    Raises:
        UserError: their GPU is not one whose heuristic is known.
    """
    layer = winners[0].problem.layer
    device = device_of(winners[0], "humming's own choice")
    library.require_hopper(kernels.name, device)
    library.without_gpu(device)
    ranges = {}
    for stage in Stage:
        own: list[Range] = [tuple(each) for each in library.heuristic(kernels.row, layer, stage, None)]
        tuned = {
            rows_of(winner.problem.tokens, layer.top_k): entry(winner.config.of(stage))
            for winner in winners
            if winner.config.of(stage) != winner.default.of(stage)
        }
        ranges[stage] = overlaid(own, tuned)
    return ranges


def content_of(kernels: HummingBackend, winners: Sequence[WinnerRecord], folder: str) -> Content:
    """The file, the variable that names it, and what vLLM must find.

    Args:
        winners: of one layer on one stack, ascending by tokens.
        folder: where the serving process finds the bundle.
    """
    layer, environment = winners[0].problem.layer, winners[0].environment
    by_stage = tables(kernels, winners)
    note = estimate_note(winners)
    tuned = [winner.problem.tokens for winner in winners if not winner.kept_default]
    identity = {
        "humming": library.version(),
        "gpu": environment.device.removeprefix("offline:"),
        "compute": library.COMPUTE,
    }
    file = {
        "format": FORMAT,
        "version": VERSION,
        **({"note": note} if note else {}),
        **identity,
        "model": layer.model,
        "top_k": layer.top_k,
        "tuned": [list(rows_of(tokens, layer.top_k)) for tokens in tuned],
        "layers": [
            {
                "sublayer": SUBLAYERS[stage],
                "layer": library.layer_facts(kernels.row, layer, stage),
                "ranges": by_stage[stage],
            }
            for stage in Stage
        ],
    }
    counts = sorted({*looked_at(winner.problem.tokens for winner in winners), *_CONCURRENT})
    intended = {
        str(tokens): {
            str(stage): at(by_stage[stage], tokens * layer.top_k)
            for stage in Stage
            if tokens * layer.top_k <= MOST_ROWS
        }
        for tokens in counts
    }
    return Content(
        files={FILE_NAME: json.dumps(file, indent=1) + "\n"},
        variables={VARIABLE: f"{folder}/{FILE_NAME}"},
        lookups={
            "vllm": {
                **identity,
                "file": FILE_NAME,
                "backend": kernels.name,
                "top_k": layer.top_k,
                "compute_units": environment.compute_units,
                "intended": intended,
            }
        },
        previews=_previews(by_stage, winners, layer.top_k),
        notes=(
            "vLLM reads this through the plugin `autotune` of this package: install moe-autotune in the"
            " environment that serves, and see its log for the ranges that it took",
        ),
    )


def _previews(
    by_stage: Mapping[Stage, Sequence[Range]], winners: Sequence[WinnerRecord], top_k: int
) -> tuple[Preview, ...]:
    known = {winner.problem.tokens: winner for winner in winners}
    previews = []
    for stage in Stage:
        rows = []
        for tokens in looked_at(known):
            winner = known.get(tokens)
            source = source_of(winner) if winner is not None else "humming's own"
            rows.append(Row(tokens, tokens * top_k, source, short_entry(at(by_stage[stage], tokens * top_k))))
        previews.append(
            Preview(f"{FILE_NAME}, {SUBLAYERS[stage]}, keys are rows (tokens * {top_k})", tuple(rows))
        )
    return tuple(previews)


def short_entry(raw: Mapping[str, Any]) -> str:
    """An entry on one line: block and warp, and what differs from humming's own defaults."""
    rest = {
        name: value
        for name, value in raw.items()
        if name not in ("block_shape", "warp_shape", "mma_type") and value not in (False, None)
    }
    block, warp = ("x".join(str(size) for size in raw[name]) for name in ("block_shape", "warp_shape"))
    more = " ".join(name if value is True else f"{name}={value}" for name, value in rest.items())
    return f"{raw['mma_type']} {block} warp {warp} {more}".rstrip()


_STACK: Final = (
    "vLLM 0.33 with humming-kernels 0.1.19, and moe-autotune installed beside them for its plugin, which does"
    " nothing in the baseline arm, where its variable is not set"
)


class HummingExporter(Exporter):
    """For the formats that vLLM runs by humming of itself."""

    format = "humming"
    options = frozenset[str]()
    stacks: Mapping[str, Stack] = {"vllm": Stack(_STACK)}

    def content(self, request: Request) -> Content:
        kernels = request.kernels
        assert isinstance(kernels, HummingBackend)
        return content_of(kernels, request.winners, request.place.folder)


class HummingInt8Exporter(HummingExporter):
    """For INT8 activations, which vLLM must be asked for."""

    stacks: Mapping[str, Stack] = {
        "vllm": Stack(
            _STACK,
            environment={"VLLM_HUMMING_INPUT_QUANT_CONFIG": json.dumps({"dtype": "int8"})},
            arguments=("--quantization humming",),
        )
    }
