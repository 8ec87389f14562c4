"""Looks up what vLLM would hand to humming's launch with a bundle, for `processes.lookup`.

Run are vLLM's own `vllm/utils/humming.py` and `fused_humming_moe.py`, our plugin as vLLM loads it, and the
installed humming, which is told that the bundle's GPU is here; the rest of vLLM is stood in for.
"""

import logging
from contextlib import nullcontext
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from autotune.backends.humming import library, plugin
from autotune.engines.stand_in import StandIns
from autotune.errors import UserError
from autotune.machine.devices import known_device
from autotune.processes.lookup import Select

EXPERTS = "vllm.model_executor.layers.fused_moe.experts.fused_humming_moe"
FILES = {
    EXPERTS: "vllm/model_executor/layers/fused_moe/experts/fused_humming_moe.py",
    "vllm.utils.humming": "vllm/utils/humming.py",
}


def humming_lookup(request: dict[str, Any], messages: list[str]) -> tuple[Select, Select]:
    """A `processes.lookup.Lookup`. `layers` of the request are humming's layer configs by sublayer."""
    _pretend(request["gpu"], request["compute_units"])
    root = Path(request["root"])
    StandIns(
        ("vllm",),
        {name: root / path for name, path in FILES.items()},
        {
            "vllm.logger": {"init_logger": logging.getLogger},
            "vllm": {
                "envs": SimpleNamespace(
                    VLLM_BATCH_INVARIANT=request["compute"]["use_batch_invariant"],
                    VLLM_HUMMING_USE_F16_ACCUM=request["compute"]["use_f16_accum"],
                    VLLM_HUMMING_MOE_GEMM_TYPE=None,
                )
            },
            "vllm.forward_context": {"get_forward_context": lambda: SimpleNamespace(dp_metadata=None)},
            "vllm.model_executor.layers.fused_moe.moe_align_block_size": {"moe_align_block_size": _block},
        },
    ).install()
    plugin.register()
    engine = import_module(EXPERTS)
    config_class = library.load("humming.config").LayerConfig
    configs = {name: config_class(**facts) for name, facts in request["layers"].items()}
    select = _select(engine, configs, request["top_k"])
    return select, lambda tokens: {}  # what it would be without the file, nobody asks


def _select(engine: Any, configs: dict[str, Any], top_k: int) -> Select:
    """What a layer that is built now would launch at so many tokens, by vLLM's own code."""
    layer = object.__new__(engine.HummingIndexedExperts)
    layer.humming_configs = configs
    layer.num_experts = layer.global_num_experts = configs["w13"].num_experts
    layer.init_humming_moe()
    ranges = {"stage1": layer.w13_tuning_config, "stage2": layer.w2_tuning_config}

    def select(tokens: int) -> dict[str, Any]:
        ids = SimpleNamespace(
            size=lambda axis: (tokens, top_k)[axis], numel=lambda: tokens * top_k, get_device=lambda: 0
        )
        kwargs = layer.prepare_humming_moe_kwargs(ids, None, None)
        entries = {}
        for (stage, table), launched in zip(ranges.items(), kwargs, strict=False):
            rows = launched["valid_shape_m"]
            entry = next((entry for low, high, entry in table if low < rows <= high), None)
            if entry is None:
                entries[stage] = {"gap": rows}
                continue
            # The sort's block must be the entry's: vLLM looks it up by itself.
            wrong = (
                {}
                if launched["sorted_ids"] == entry["block_shape"][0]
                else {"sorted": launched["sorted_ids"]}
            )
            entries[stage] = {**entry, **wrong}
        return entries

    return select


def _block(*, block_size: int, **_: Any) -> tuple[int, int, int]:
    """In place of the sort: the block size that vLLM asked for."""
    return block_size, block_size, block_size


def _pretend(gpu: str, compute_units: int) -> None:
    """Lets humming find the bundle's GPU here.

    Raises:
        UserError: its facts are not known.
    """
    import torch

    device = known_device(gpu)
    if device is None:
        raise UserError(f"{gpu!r} is not a known GPU: add it to autotune/machine/devices.py")
    library.without_gpu(replace(device, name=gpu, compute_units=compute_units))
    torch.cuda.device = nullcontext  # type: ignore[misc,assignment]
    torch.cuda.current_device = lambda: 0
