"""SGLang's own lookup of a fused-MoE file, for `processes.lookup`: its file is run, the rest stood in."""

from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from autotune.engines.stand_in import StandIns
from autotune.engines.verify import weight_shapes
from autotune.processes.lookup import Select

FILE = "sglang/srt/layers/moe/moe_runner/triton_utils/fused_moe_triton_config.py"


def sglang_lookup(request: dict[str, Any], messages: list[str]) -> tuple[Select, Select]:
    """A `processes.lookup.Lookup`."""
    hip = request["arch"].startswith("gfx")
    name = FILE.removesuffix(".py").replace("/", ".")
    execution = SimpleNamespace(deterministic=SimpleNamespace(enable_deterministic_inference=False))
    StandIns(
        ("sglang", "torch", "triton"),
        {name: Path(request["root"]) / FILE},
        {
            "triton": {"__version__": request["triton_version"]},
            "sglang.srt.runtime_context": {"get_exec": lambda: execution},
            "sglang.srt.utils": {
                "get_device_name": lambda *_: request["device_name"],
                "is_hip": lambda: hip,
            },
        },
    ).install()
    engine = import_module(name)
    dtype, block = request["quantisation"]["dtype"], request["quantisation"]["block_shape"]
    experts, (w1, w2) = request["experts"], weight_shapes(request)

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
