"""Runs an engine's own lookup in a process of its own: `python -m autotune.engines.verify_worker < request`.

The request and the answer are JSON. The engine's file is run as it is; what it imports is stood in for, and
every path that it looks for is noted. Nothing of the engine needs to be installed, and no GPU.
"""

import builtins
import json
import logging
import os
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from autotune.engines.stand_in import StandIn, StandIns

SGLANG_FILE = "sglang/srt/layers/moe/moe_runner/triton_utils/fused_moe_triton_config.py"
VLLM_FILES = {
    "vllm.model_executor.layers.fused_moe.fused_moe": "vllm/model_executor/layers/fused_moe/fused_moe.py",
    "vllm.envs": "vllm/envs.py",
    "vllm.utils.platform_utils": "vllm/utils/platform_utils.py",
}

Lookup = Callable[[int], dict[str, Any]]
"""Selects by tokens."""


def main() -> None:
    """Answers the request on standard input."""
    request = json.load(sys.stdin)
    noted = _note_paths()
    messages = _note_messages()
    lookups: dict[str, Callable[[dict[str, Any]], tuple[Lookup, Lookup]]] = {
        "sglang": _sglang,
        "vllm": _vllm,
    }
    answer: dict[str, Any] = {"selected": {}, "defaults": {}, "error": None}
    try:
        lookup = lookups.get(request["engine"]) or partial(_named(request["lookup"]), messages)
        select, default = lookup(request)
        for tokens in request["tokens"]:
            answer["selected"][str(tokens)] = select(tokens)
            answer["defaults"][str(tokens)] = default(tokens)
    except Exception as error:
        # Whatever the engine raises is the finding.
        logging.getLogger(__name__).debug("the lookup raised", exc_info=True)
        answer["error"] = f"{type(error).__name__}: {error}"
    answer["looked_for"] = noted
    answer["messages"] = messages
    json.dump(answer, sys.stdout)


def _sglang(request: dict[str, Any]) -> tuple[Lookup, Lookup]:
    hip = request["arch"].startswith("gfx")
    name = SGLANG_FILE.removesuffix(".py").replace("/", ".")
    execution = SimpleNamespace(deterministic=SimpleNamespace(enable_deterministic_inference=False))
    StandIns(
        ("sglang", "torch", "triton"),
        {name: Path(request["root"]) / SGLANG_FILE},
        {
            "triton": {"__version__": request["triton_version"]},
            "sglang.srt.runtime_context": {"get_exec": lambda: execution},
            "sglang.srt.utils": {
                "get_device_name": lambda *_: request["device_name"],
                "is_hip": lambda: hip,
            },
        },
    ).install()
    engine = _import(name)
    dtype, block = request["quantisation"]["dtype"], request["quantisation"]["block_shape"]
    experts, k, n = request["experts"], request["model_dim"], request["inter_dim"]
    halved = 2 if dtype == "int4_w4a16" else 1
    w1, w2 = (experts, 2 * n, k // halved), (experts, k, n // halved)

    def select(tokens: int) -> dict[str, Any]:
        up, (down, _) = engine.try_get_optimal_moe_config(
            w1,
            w2,
            request["top_k"],
            dtype,
            tokens,
            block_shape=block,
            per_channel_quant=request["quantisation"]["per_channel"],
            return_down_config=True,
        )
        return {"stage1": up, "stage2": down or up}

    def default(tokens: int) -> dict[str, Any]:
        config = engine.get_default_config(
            tokens, experts, w2[2], w1[2], request["top_k"], dtype, False, block
        )
        return {"stage1": config, "stage2": config}

    return select, default


def _vllm(request: dict[str, Any]) -> tuple[Lookup, Lookup]:
    hip = request["arch"].startswith("gfx")
    platform = SimpleNamespace(
        get_device_name=lambda *_: request["device_name"],
        is_rocm=lambda: hip,
        is_cuda=lambda: not hip,
    )
    root = Path(request["root"])

    def next_power_of_2(n: int) -> int:
        return 1 << (n - 1).bit_length() if n > 1 else 1

    StandIns(
        ("vllm", "torch", "triton", "regex"),
        {name: root / path for name, path in VLLM_FILES.items()},
        {
            "regex": {"sub": re.sub},
            "vllm.platforms": {"current_platform": platform},
            "vllm.utils.math_utils": {"next_power_of_2": next_power_of_2},
            "vllm.logger": {"init_logger": logging.getLogger},
        },
    ).install()
    engine = _import("vllm.model_executor.layers.fused_moe.fused_moe")
    dtype, block = request["quantisation"]["dtype"], request["quantisation"]["block_shape"]
    experts, k, n = request["experts"], request["model_dim"], request["inter_dim"]
    halved = 2 if dtype == "int4_w4a16" else 1
    w1, w2 = (experts, 2 * n, k // halved), (experts, k, n // halved)

    def select(tokens: int) -> dict[str, Any]:
        return {
            "both": engine.try_get_optimal_moe_config(
                w1, w2, request["top_k"], dtype, tokens, block_shape=block
            )
        }

    def default(tokens: int) -> dict[str, Any]:
        return {"both": engine.get_default_config(tokens, experts, n, w1[2], request["top_k"], dtype, block)}

    return select, default


def _named(name: str) -> Callable[..., tuple[Lookup, Lookup]]:
    """The lookup that a backend brings, `module:function`."""
    module, _, function = name.partition(":")
    return cast("Callable[..., tuple[Lookup, Lookup]]", getattr(_import(module), function))


def _import(name: str) -> Any:
    return __import__(name, fromlist=["x"])


def _note_paths() -> list[dict[str, Any]]:
    """Notes every JSON or CSV file that is looked for or opened, in order."""
    noted: list[dict[str, Any]] = []
    exists, opened = os.path.exists, builtins.open

    def note(path: Any, found: bool) -> None:
        if isinstance(path, str) and path.endswith((".json", ".csv")):
            entry = {"path": path, "found": found}
            if entry not in noted:
                noted.append(entry)

    def noting_exists(path: Any) -> bool:
        found = exists(path)
        note(path, found)
        return found

    def noting_open(file: Any, *args: Any, **kwargs: Any) -> Any:
        handle = opened(file, *args, **kwargs)
        note(file, True)
        return handle

    os.path.exists = noting_exists
    builtins.open = noting_open
    return noted


def _note_messages() -> list[str]:
    """Notes what the engine logs. Both engines add `_once` methods to the standard logger."""
    messages: list[str] = []

    class Noting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    logging.getLogger().addHandler(Noting())
    logging.getLogger().setLevel(logging.INFO)
    for level in ("info", "warning", "debug"):

        def once(self: logging.Logger, text: str, *args: Any, **_: Any) -> None:
            message = text % tuple("" if isinstance(arg, StandIn) else arg for arg in args)
            if message not in messages:
                messages.append(message)

        setattr(logging.Logger, f"{level}_once", once)
    return messages


if __name__ == "__main__":
    main()
