"""vLLM's own lookup of a fused-MoE file, for `processes.lookup`: its files are run, the rest stood in."""

import logging
import re
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from autotune.engines.stand_in import StandIns
from autotune.engines.verify import weight_shapes
from autotune.processes.lookup import Select

FILES = {
    "vllm.model_executor.layers.fused_moe.fused_moe": "vllm/model_executor/layers/fused_moe/fused_moe.py",
    "vllm.envs": "vllm/envs.py",
    "vllm.utils.platform_utils": "vllm/utils/platform_utils.py",
}


def vllm_lookup(request: dict[str, Any], messages: list[str]) -> tuple[Select, Select]:
    """A `processes.lookup.Lookup`."""
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
        {name: root / path for name, path in FILES.items()},
        {
            "regex": {"sub": re.sub},
            "vllm.platforms": {"current_platform": platform},
            "vllm.utils.math_utils": {"next_power_of_2": next_power_of_2},
            "vllm.logger": {"init_logger": logging.getLogger},
        },
    ).install()
    engine = import_module("vllm.model_executor.layers.fused_moe.fused_moe")
    dtype, block = request["quantisation"]["dtype"], request["quantisation"]["block_shape"]
    experts, (w1, w2) = request["experts"], weight_shapes(request)

    def select(tokens: int) -> dict[str, Any]:
        return {
            "both": engine.try_get_optimal_moe_config(
                w1, w2, request["top_k"], dtype, tokens, block_shape=block
            )
        }

    def default(tokens: int) -> dict[str, Any]:
        return {
            "both": engine.get_default_config(
                tokens, experts, request["inter_dim"], w1[2], request["top_k"], dtype, block
            )
        }

    return select, default
