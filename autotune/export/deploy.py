"""Launch examples: the same server twice, once as it ships and once with the bundle.

The model is Kimi-K2.5 with an EAGLE3 draft model whose verify step takes four tokens a sequence: shape `m4`.
Flags as in SGLang 0.5.23 (`srt/arg_groups/fields/spec.py`) and vLLM 0.33.0 (`config/speculative.py`).
"""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from autotune.errors import UserError
from autotune.protocol.content import estimate_note
from autotune.store.records import WinnerRecord

ENGINES: Final = ("sglang", "vllm")

_REACH: Final = {
    "AITER_W4A8_USE_INT8": "1",
    "AITER_USE_FLYDSL_MOE": "1",
    "AITER_USE_FLYDSL_MOE_STAGE1": "1",
    "AITER_USE_FLYDSL_MOE_STAGE2": "1",
    "AITER_ENFORCE_DSL": "1",
    "SGLANG_USE_AITER": "1",
}
"""What leads the published image's SGLang to its int8 W4A8 kernels; both arms have it."""


@dataclass(frozen=True)
class Stack:
    """What must serve an arm.

    Attributes:
        environment: of both arms.
        required: a variable that the stack itself must have set; "": none.
    """

    text: str
    environment: Mapping[str, str]
    required: str = ""


def stack(backend: str, engine: str) -> Stack:
    """The stack on which an engine runs a backend's kernels.

    Raises:
        UserError: no such stack is known.
    """
    if backend.startswith(engine):
        return Stack(
            f"mainline {engine}: its Triton fused MoE reads the JSON files of this bundle", dict[str, str]()
        )
    if backend in ENGINES or backend.partition("_")[0] in ENGINES:
        raise UserError(
            f"winners of backend {backend} serve in {backend.partition('_')[0]}: use that --deploy"
        )
    if backend == "triton":
        return Stack(
            f"{engine} patched to call autotune.kernels.fused_moe_w4a8: neither engine reads this bundle as"
            " it is",
            dict[str, str](),
        )
    if engine == "sglang":
        return Stack(
            "the published image clementlincf/amdafde:v0.5.10rc0-rocm720-mi30x-kimi-k2.5-opt-20260420, the"
            " only one with the int8 W4A8 path; mainline SGLang runs this checkpoint as int4 x fp8 through"
            " AITER, which reads AITER_CONFIG_FMOE and none of these variables",
            _REACH,
            "DSL2_ROOT",
        )
    return Stack(
        "mainline vLLM through AITER, which serves int4 x fp8 and reads AITER_CONFIG_FMOE; its int8 W4A8 path"
        " is in the published SGLang image only, so the FLYDSL variables of this bundle have no effect here",
        {"VLLM_ROCM_USE_AITER": "1"},
    )


def deploy_files(
    engine: str, folder: str, winners: Sequence[WinnerRecord], variables: Mapping[str, str]
) -> dict[str, str]:
    """Two scripts, `deploy/ENGINE-baseline.sh` and `deploy/ENGINE-tuned.sh`.

    Args:
        engine: `sglang` or `vllm`.
        variables: the bundle's environment, which only the tuned arm has.
        folder: where the serving process finds the bundle.

    Raises:
        UserError: the engine is unknown, or does not serve these winners.
    """
    if engine not in ENGINES:
        raise UserError(f"unknown engine {engine!r}: use --deploy {' or '.join(ENGINES)}")
    first = winners[0]
    needed = stack(first.backend, engine)
    command = _launch(engine, first.problem.layer.tp, triton=first.backend.startswith(engine))
    arms = {"baseline": "", "tuned": f". {shlex.quote(folder + '/env/autotune.sh')}\n" if variables else ""}
    note = estimate_note(winners)
    return {
        f"deploy/{engine}-{arm}.sh": _script(arm, needed, load, command, note) for arm, load in arms.items()
    }


def _script(arm: str, needed: Stack, load: str, command: str, note: str | None) -> str:
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in needed.environment.items())
    check = f': "${{{needed.required}:?the image sets it}}"\n' if needed.required else ""
    return (
        "#!/bin/sh\n"
        f"# The {arm} arm. Stack: {needed.text}.\n"
        + (f"# The bundle holds {note}.\n" if note else "")
        + "# MODEL and DRAFT are folders or Hugging Face names of the model and its EAGLE3 draft.\n"
        "# Rollback: start the baseline arm, and delete the bundle's folder; nothing else was changed.\n"
        "set -eu\n"
        f"{check}{exports}{load}"
        f"exec {command}\n"
    )


def _launch(engine: str, tp: int, *, triton: bool) -> str:
    """The server's command; `triton`: its MoE must run the kernels that read the bundle's JSON files."""
    if engine == "sglang":
        parts = [
            "python3 -m sglang.launch_server",
            '--model-path "$MODEL"',
            f"--tp-size {tp}",
            "--trust-remote-code",
            # Left to itself, SGLang takes Marlin for grouped INT4 on NVIDIA GPUs, which reads no file.
            *(["--moe-runner-backend triton"] if triton else []),
            "--speculative-algorithm EAGLE3",
            '--speculative-draft-model-path "$DRAFT"',
            "--speculative-num-steps 3",
            "--speculative-eagle-topk 1",
            "--speculative-num-draft-tokens 4",
        ]
    else:
        # Three drafted tokens and the one that is verified with them make the four of m4.
        speculative = json.dumps({"method": "eagle3", "model": "__DRAFT__", "num_speculative_tokens": 3})
        quoted = shlex.quote(speculative).replace("__DRAFT__", "'\"$DRAFT\"'")
        parts = [
            'vllm serve "$MODEL"',
            f"--tensor-parallel-size {tp}",
            "--trust-remote-code",
            f"--speculative-config {quoted}",
        ]
    return " \\\n  ".join(parts)
