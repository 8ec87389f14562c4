"""The JSON that `autotune.kernels.fused_moe_w4a8` reads: a config a stage for each number of tokens."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

from autotune.problem.layer import Layer
from autotune.protocol.exporter import (
    Content,
    Exporter,
    Place,
    Preview,
    Request,
    Row,
    Stack,
    estimate_note,
    source_of,
)
from autotune.store.records import WinnerRecord

FILE_NAME = "moe_w4a8.json"
VARIABLE = "AUTOTUNE_MOE_CONFIG"


def operator_json(layer: Layer, winners: Sequence[WinnerRecord]) -> str:
    """The file's text, entries ascending by tokens.

    Args:
        winners: of `layer` on one stack, one a number of tokens.
    """
    entries = [
        {
            "tokens": winner.problem.tokens,
            "stage1": dict(winner.config.stage1),
            "stage2": dict(winner.config.stage2),
        }
        for winner in sorted(winners, key=lambda winner: winner.problem.tokens)
    ]
    note = estimate_note(winners)
    environment = winners[0].environment
    content = {
        "format": "autotune-moe-w4a8",
        "version": 1,
        **({"note": note} if note else {}),  # the operator reads past it
        "gpu": {"name": environment.device, "compute_units": environment.compute_units},
        "model_dim": layer.model_dim,
        "inter_dim": layer.inter_dim,
        "experts": layer.experts,
        "top_k": layer.top_k,
        "entries": entries,
    }
    return json.dumps(content, indent=2) + "\n"


def operator_content(winners: Sequence[WinnerRecord], place: Place) -> Content:
    """The file and the variable that names it.

    Args:
        winners: of one layer on one stack, ascending by tokens.
    """
    layer = winners[0].problem.layer
    rows = tuple(
        Row(
            winner.problem.tokens,
            winner.problem.tokens,
            source_of(winner),
            f"stage1 {winner.config.stage1}; stage2 {winner.config.stage2}",
        )
        for winner in winners
    )
    return Content(
        files={FILE_NAME: operator_json(layer, winners)},
        variables={VARIABLE: f"{place.folder}/{FILE_NAME}"},
        lookups={
            "triton": {
                "file": FILE_NAME,
                "intended": {
                    str(winner.problem.tokens): {
                        "stage1": dict(winner.config.stage1),
                        "stage2": dict(winner.config.stage2),
                    }
                    for winner in winners
                },
            }
        },
        previews=(Preview(FILE_NAME, rows),),
    )


_PLUGIN = (
    "with moe-autotune installed beside it: its plugin runs the experts in both arms, in the baseline by the"
    " default configs. No model was served with it by its makers"
)


class OperatorExporter(Exporter):
    """For our own operator, which the plugins of `autotune.serving` run in an engine."""

    format = "json"
    options = frozenset[str]()
    stacks: Mapping[str, Stack] = {
        "vllm": Stack(f"vLLM 0.33 {_PLUGIN}", arguments=("--quantization autotune_w4a8",)),
        "sglang": Stack(f"SGLang 0.5.23 {_PLUGIN}", environment={"AUTOTUNE_W4A8_INT8_FOR_FP8": "1"}),
    }

    def content(self, request: Request) -> Content:
        content = operator_content(request.winners, request.place)
        return replace(content, variables={**content.variables, **request.environment()})
