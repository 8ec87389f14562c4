"""One layer of routed experts by SGLang's own classes, without SGLang: what the plugin's tests run.

As `plugin_vllm`: run for real are the files of `FILES`, from SGLang's wheel: hooks and how they are applied,
configs of quantisations, the layer of experts with its loader, and the standard dispatcher. For a process of
its own.
"""

import logging
import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import torch

from autotune.engines.stand_in import StandIns
from bench.plugin_vllm import ITS_OWN, Arguments, Names, installed

_SRT = "sglang/srt"
_QUANTIZATION = (
    *("base_config", "base_scheme", "quark/quark", "quark/utils", "quark/schemes/quark_scheme"),
    *("compressed_tensors/compressed_tensors", "compressed_tensors/utils"),
    "compressed_tensors/schemes/compressed_tensors_scheme",
)
FILES = (
    *(f"{_SRT}/layers/quantization/{name}.py" for name in _QUANTIZATION),
    *(f"{_SRT}/layers/moe/{name}.py" for name in ("fused_moe_triton/layer", "moe_runner/base")),
    *(f"{_SRT}/layers/moe/token_dispatcher/{name}.py" for name in ("base", "standard")),
    f"{_SRT}/plugins/hook_registry.py",
)

PREFIX = "model.layers.3.mlp.experts"
USER = None
"""SGLang keeps the quantisation's name: the user says nothing."""

_parallel = SimpleNamespace(moe_ep_size=1, moe_ep_rank=0, moe_tp_size=1, moe_tp_rank=0, tp_group=None)


def install(root: Path) -> None:
    """Puts SGLang's files and the stand-ins in front of every import.

    Args:
        root: the folder that holds `sglang/`.
    """
    real = {path.removesuffix(".py").replace("/", "."): root / path for path in FILES}
    quantization, moe = "sglang.srt.layers.quantization", "sglang.srt.layers.moe"
    kinds = {
        f"{quantization}.fp8": ("Fp8Config", "Fp8LinearMethod", "Fp8MoEMethod"),
        f"{quantization}.unquant": ("UnquantizedFusedMoEMethod", "UnquantizedLinearMethod"),
        f"{quantization}.modelopt_quant": ("ModelOptNvFp4FusedMoEMethod",),
        f"{quantization}.minimax_m3_nvfp4": ("MiniMaxM3Nvfp4MoE",),
        f"{quantization}.kv_cache": ("BaseKVCacheMethod",),
        f"{moe}.kt_ep_wrapper": ("KTEPWrapperMethod",),
        "sglang.srt.layers.linear": ("LinearBase",),
        "sglang.srt.layers.radix_attention": ("RadixAttention",),
        "sglang.srt.layers.vocab_parallel_embedding": ("ParallelLMHead",),
    }
    for method in ("info", "warning", "debug"):  # SGLang adds these to the standard logger
        setattr(logging.Logger, f"{method}_once", getattr(logging.Logger, method))
    values: dict[str, dict[str, Any]] = {
        module: {name: type(name, (_Anything,), {}) for name in names} for module, names in kinds.items()
    }
    a2a = SimpleNamespace(is_none=lambda: True, is_deepep_v2=lambda: False, is_ascend_fuseep=lambda: False)
    values[f"{moe}.kt_ep_wrapper"]["create_kt_config_from_server_args"] = lambda *_: None
    values |= {
        "sglang": {"__version__": "0.5.23"},
        "pydantic": {"BaseModel": object},
        "sglang.srt.layers.moe": {"get_moe_a2a_backend": lambda: a2a},
        f"{moe}.topk": {"StandardTopKOutput": TopK, "TopKOutputChecker": _Checker},
        "sglang.srt.runtime_context": {"get_parallel": lambda: _parallel},
        "sglang.srt.eplb.expert_location": {"get_global_expert_location_metadata": lambda: None},
        "sglang.srt.utils": {"set_weight_attrs": _set},
        "sglang.srt.utils.common": {"get_device": lambda: "cuda" if torch.cuda.is_available() else "cpu"},
        "sglang.srt.utils.custom_op": {"register_custom_op": lambda *_, **__: lambda function: function},
        "compressed_tensors": {"CompressionFormat": Names()},
        "compressed_tensors.config": {"CompressionFormat": Names()},
        "compressed_tensors.quantization": {
            "QuantizationArgs": Arguments,
            "QuantizationStrategy": Names(),
            "QuantizationType": Names(),
        },
    }
    packages = [
        name for name in ("compressed_tensors", "transformers", "pydantic", *ITS_OWN) if not installed(name)
    ]
    StandIns(("sglang", *packages), real, values).install()
    # No package, or the hooks' look-up takes the class for a module of it.
    module: Any = ModuleType("sglang.srt.model_executor.model_runner")
    module.ModelRunner = ModelRunner
    sys.modules[module.__name__] = module
    package: Any = import_module(moe)
    package.MoeRunnerConfig = import_module(f"{moe}.moe_runner.base").MoeRunnerConfig
    schemes: Any = import_module(f"{quantization}.quark.schemes")
    schemes.QuarkMoEScheme = import_module(f"{quantization}.quark.schemes.quark_scheme").QuarkMoEScheme
    experts: Any = import_module(f"{moe}.fused_moe_triton")
    experts.FusedMoE = import_module(f"{moe}.fused_moe_triton.layer").FusedMoE
    experts.FusedMoeWeightScaleSupported = import_module(
        f"{moe}.fused_moe_triton.layer"
    ).FusedMoeWeightScaleSupported


def stand_ins() -> list[str]:
    """Modules that were stood in for so far."""
    kind = type(import_module("sglang"))
    return sorted(name for name, module in sys.modules.items() if type(module) is kind)


def config(quantization_config: Mapping[str, Any], user_quant: str | None) -> tuple[str, Any]:
    """SGLang's config of a checkpoint, with the plugin's hooks applied as `load_plugins` does."""
    import_module("sglang.srt.plugins.hook_registry").HookRegistry.apply_hooks()
    name = str(quantization_config["quant_method"])
    path = {"quark": "quark.quark:QuarkConfig"}.get(
        name, "compressed_tensors.compressed_tensors:CompressedTensorsConfig"
    )
    module, _, kind = path.partition(":")
    made = getattr(import_module(f"sglang.srt.layers.quantization.{module}"), kind)
    return name, made.from_config({**quantization_config, "packed_modules_mapping": {}})


def layer(
    quant_config: Any,
    *,
    experts: int,
    model_dim: int,
    inter_dim: int,
    top_k: int,
    tp: int = 1,
    rank: int = 0,
    ep: bool = False,
    activation: str = "silu",
    bare: bool = False,
    routed_scaling_factor: float | None = None,
) -> Any:
    """SGLang's `FusedMoE` of one rank, with nothing loaded.

    Args:
        bare: the method that such a layer would get instead.
    """
    size, mine = (tp, rank) if ep else (1, 0)
    _parallel.moe_ep_size, _parallel.moe_ep_rank = size, mine
    _parallel.moe_tp_size, _parallel.moe_tp_rank = (1, 0) if ep else (tp, rank)
    kind = import_module("sglang.srt.layers.moe.fused_moe_triton.layer").FusedMoE
    if bare:
        made = kind.__new__(kind)
        torch.nn.Module.__init__(made)
        made._has_fused_shared = False
        return quant_config.get_quant_method(made, PREFIX)
    return kind(
        num_experts=experts, hidden_size=model_dim, intermediate_size=inter_dim, layer_id=3, top_k=top_k,
        params_dtype=torch.bfloat16, quant_config=quant_config, prefix=PREFIX, activation=activation,
        routed_scaling_factor=routed_scaling_factor,
    )  # fmt: skip


def load(made: Any, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
    """A checkpoint's tensors, named from the expert's number on, as SGLang's models hand them on."""
    shards = {"gate_proj": ("w13", "w1"), "up_proj": ("w13", "w3"), "down_proj": ("w2", "w2")}
    for name, tensor in tensors:
        expert, projection, suffix = name.split(".")
        prefix, shard = shards[projection]
        parameter = getattr(made, f"{prefix}_{suffix}")
        parameter.weight_loader(
            parameter, tensor, f"{PREFIX}.{prefix}_{suffix}", shard_id=shard, expert_id=int(expert)
        )


def process(made: Any) -> None:
    """What SGLang's loader does with a layer after its weights were loaded."""
    made.quant_method.process_weights_after_loading(made)


def load_model(quantization: Any) -> Any:
    """What loading a model ends with, of a model whose layers were made before."""
    runner = import_module("sglang.srt.model_executor.model_runner").ModelRunner()
    declared = {} if quantization == "fp8" else {"global_quant_config": {"weight": _PAIR}}
    runner.model_config = SimpleNamespace(hf_config=SimpleNamespace(quantization_config=declared))
    return runner.load_model()


def runner(made: Any) -> Callable[..., torch.Tensor]:
    """A step through SGLang's dispatcher and layer: (x, topk_weights, topk_ids)."""
    return lambda x, weights, ids: made.forward_impl(x, TopK(weights, ids, None))


_PAIR = [{"dtype": "fp8_e4m3"}, {"dtype": "int4"}]


class TopK(NamedTuple):
    """As SGLang's `StandardTopKOutput`."""

    topk_weights: torch.Tensor
    topk_ids: torch.Tensor
    router_logits: Any


class _Checker:
    format_is_standard = staticmethod(lambda output: True)
    format_is_bypassed = staticmethod(lambda output: False)


class ModelRunner:
    def load_model(self) -> str:
        return "a model"


class _Anything(torch.nn.Module):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()


def _set(parameter: Any, attributes: Mapping[str, Any]) -> None:
    for name, value in attributes.items():
        setattr(parameter, name, value)
