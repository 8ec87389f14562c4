"""Launch examples: the same server twice, once as it ships and once with the bundle.

The model is Kimi-K2.5 with an EAGLE3 draft model whose verify step takes four tokens a sequence: shape `m4`.
Flags as in SGLang 0.5.23 (`srt/arg_groups/fields/spec.py`) and vLLM 0.33.0 (`config/speculative.py`).
"""

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Final

from autotune.errors import UserError
from autotune.problem.layer import Layer
from autotune.protocol.exporter import Stack, estimate_note, load_exporter
from autotune.store.records import WinnerRecord

ENGINES: Final = ("sglang", "vllm")


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
    stack = _stack(winners[0].backend, engine)
    command = _launch(engine, winners[0].problem.layer, stack.arguments)
    arms = {"baseline": "", "tuned": f". {shlex.quote(folder + '/env/autotune.sh')}\n" if variables else ""}
    note = estimate_note(winners)
    return {
        f"deploy/{engine}-{arm}.sh": _script(arm, stack, load, command, note) for arm, load in arms.items()
    }


def _stack(backend: str, engine: str) -> Stack:
    """What of an engine runs a backend's kernels.

    Raises:
        UserError: nothing of it is known to.
    """
    stacks = load_exporter(backend).stacks
    if engine in stacks:
        return stacks[engine]
    if stacks:
        raise UserError(f"winners of backend {backend} serve in {' or '.join(stacks)}: use that --deploy")
    raise UserError(
        f"no launch of {engine} is known to run the kernels of backend {backend}: leave --deploy out"
    )


def _script(arm: str, stack: Stack, load: str, command: str, note: str | None) -> str:
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in stack.environment.items())
    check = f': "${{{stack.required}:?the image sets it}}"\n' if stack.required else ""
    return (
        "#!/bin/sh\n"
        f"# The {arm} arm. Stack: {stack.text}.\n"
        + (f"# The bundle holds {note}.\n" if note else "")
        + "# MODEL and DRAFT are folders or Hugging Face names of the model and its EAGLE3 draft.\n"
        "# Rollback: start the baseline arm, and delete the bundle's folder; nothing else was changed.\n"
        "set -eu\n"
        f"{check}{exports}{load}"
        f"exec {command}\n"
    )


def _launch(engine: str, layer: Layer, arguments: Sequence[str]) -> str:
    """The server's command, with what leads it to the backend's kernels."""
    if engine == "sglang":
        parts = [
            "python3 -m sglang.launch_server",
            '--model-path "$MODEL"',
            f"--tp-size {layer.tp}",
            *([f"--ep-size {layer.ep}"] if layer.ep > 1 else []),
            "--trust-remote-code",
            *arguments,
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
            f"--tensor-parallel-size {layer.tp}",
            *([f"--data-parallel-size {layer.ep // layer.tp}"] if layer.ep > layer.tp else []),
            *(["--enable-expert-parallel"] if layer.ep > 1 else []),
            "--trust-remote-code",
            *arguments,
            f"--speculative-config {quoted}",
        ]
    return " \\\n  ".join(parts)
