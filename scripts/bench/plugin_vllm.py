"""One layer of routed experts by vLLM's own classes, without vLLM: what the plugin's tests run.

Run for real are the files of `FILES`, from vLLM's wheel: how a quantisation is registered, chosen and read,
how a layer of experts is made and loaded. The rest of vLLM, and what it imports that is not installed here,
is stood in for; `stand_ins` lists all of it afterwards. For a process of its own.
"""

import logging
import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from autotune.engines.stand_in import StandIn, StandIns

_LAYERS = "vllm/model_executor/layers"
_QUANTIZATION = (
    *("__init__", "base_config", "quark/quark", "quark/quark_moe", "quark/utils"),
    *("utils/quant_utils", "utils/config_utils", "compressed_tensors/compressed_tensors"),
    *("compressed_tensors/compressed_tensors_moe/compressed_tensors_moe", "compressed_tensors/utils"),
)
_EXPERTS = (
    *(
        "activation",
        "all2all_utils",
        "config",
        "expert_map_manager",
        "fused_moe_method_base",
        "routed_experts",
    ),
)
FILES = (
    *(f"{_LAYERS}/quantization/{name}.py" for name in _QUANTIZATION),
    *(f"{_LAYERS}/fused_moe/{name}.py" for name in _EXPERTS),
    *("vllm/model_executor/custom_op.py", "vllm/model_executor/utils.py"),
)

ITS_OWN = ("huggingface_hub", "loguru", "safetensors", "tqdm")
"""What compressed-tensors imports besides, where it is installed."""

PREFIX = "model.layers.3.mlp.experts"
USER = "autotune_w4a8"
"""The command line's `--quantization`."""

_MOE = "vllm.model_executor.layers.fused_moe"


def install(root: Path) -> None:
    """Puts vLLM's files and the stand-ins in front of every import.

    Args:
        root: the folder that holds `vllm/`.
    """
    real = {}
    for path in FILES:
        name = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        real[name] = root / path
    values: Mapping[str, Mapping[str, Any]] = {
        "vllm": {"__version__": "0.33.0"},
        "vllm.logger": {"init_logger": _logger},
        "vllm.platforms": {"current_platform": _Platform()},
        "vllm.utils.math_utils": {"cdiv": lambda a, b: -(-a // b)},
        "vllm.config.parallel": {
            "ExpertPlacementStrategy": __import__("typing").Literal["linear", "round_robin"]
        },
        "vllm.distributed.eplb.eplb_state": {
            "EplbState": SimpleNamespace(
                build_initial_global_physical_to_logical_map=lambda experts, more: list(range(experts + more))
            )
        },
        "compressed_tensors": {"CompressionFormat": Names()},
        "compressed_tensors.config": {"CompressionFormat": Names()},
        "compressed_tensors.quantization": {
            "QuantizationArgs": Arguments,
            "QuantizationStrategy": Names(),
            "QuantizationType": Names(),
            "ActivationOrdering": Names(),
        },
        "vllm.model_executor.layers.linear": {"LinearBase": _Linear, "LinearMethodBase": object},
        "vllm.model_executor.layers.attention": {"Attention": _Attention},
        "vllm.model_executor.layers.vocab_parallel_embedding": {
            "ParallelLMHead": _Head,
            "VocabParallelEmbedding": _Head,
        },
        "vllm.model_executor.layers.quantization.online.moe_base": {"OnlineMoEMethodBase": _Online},
        "vllm.model_executor.model_loader.base_loader": {"BaseModelLoader": _Loader},
        "vllm.scalar_type": {"ScalarType": object},
    }
    packages = [
        name for name in ("compressed_tensors", "transformers", "regex", *ITS_OWN) if not installed(name)
    ]
    StandIns(("vllm", *packages), real, values).install()
    # The package of the experts' classes imports the whole of them: it gets those that are run here.
    package: Any = import_module(_MOE)
    package.FusedMoEMethodBase = import_module(f"{_MOE}.fused_moe_method_base").FusedMoEMethodBase
    package.RoutedExperts = import_module(f"{_MOE}.routed_experts").RoutedExperts
    package.FusedMoeWeightScaleSupported = import_module(
        f"{_MOE}.routed_experts"
    ).FusedMoeWeightScaleSupported
    package.UnquantizedFusedMoEMethod = _Unquantized
    plain: Any = import_module(f"{_MOE}.unquantized_fused_moe_method")
    plain.UnquantizedFusedMoEMethod = _Unquantized


def stand_ins() -> list[str]:
    """Modules that were stood in for so far."""
    kind = type(import_module("vllm"))
    return sorted(
        name for name, module in sys.modules.items() if type(module) is kind and kind is not type(sys)
    )


def config(quantization_config: Mapping[str, Any], user_quant: str | None) -> tuple[str, Any]:
    """The quantisation that vLLM takes for a checkpoint, and its config.

    Of `ModelConfig`, which asks every method in turn, only the question to the plugin's is imitated.
    """
    quantization = import_module("vllm.model_executor.layers.quantization")
    name = str(quantization_config["quant_method"])
    if USER in quantization.QUANTIZATION_METHODS:
        method = quantization.get_quantization_config(USER)
        name = method.override_quantization_method(quantization_config, user_quant, hf_config=None) or name
    return name, quantization.get_quantization_config(name).from_config(dict(quantization_config))


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
) -> Any:
    """vLLM's `RoutedExperts` of one rank, with nothing loaded.

    Args:
        bare: the method that such a layer would get instead, which may be a stand-in that makes no layer.
    """
    module = import_module(f"{_MOE}.config")
    size, mine = (1, 0) if ep else (tp, rank)
    parallel = module.FusedMoEParallelConfig(
        tp_size=size, pcp_size=1, dp_size=1, ep_size=tp if ep else 1, tp_rank=mine, pcp_rank=0, dp_rank=0,
        ep_rank=rank if ep else 0, sp_size=1, use_ep=ep, all2all_backend="naive", enable_eplb=False,
    )  # fmt: skip
    places = import_module(f"{_MOE}.expert_map_manager").ExpertMapManager(
        max_num_batched_tokens=8192, top_k=top_k, global_num_experts=experts, num_redundant_experts=0,
        num_expert_group=None, moe_parallel_config=parallel, placement_strategy="linear", enable_eplb=False,
    )  # fmt: skip
    moe = module.FusedMoEConfig(
        num_experts=experts, experts_per_token=top_k, hidden_dim=model_dim, intermediate_size=inter_dim,
        num_local_experts=places.local_num_experts, num_logical_experts=experts,
        activation=import_module(f"{_MOE}.activation").MoEActivation(activation), device="cpu",
        routing_method=StandIn(), moe_parallel_config=parallel, in_dtype=torch.bfloat16, max_num_tokens=8192,
    )  # fmt: skip
    routed = import_module(_MOE).RoutedExperts
    if bare:
        made = _bare()
        made.moe_config = moe
        return quant_config.get_quant_method(made, PREFIX)
    return routed(PREFIX, torch.bfloat16, moe, quant_config, places)


def _bare() -> Any:
    """Routed experts with nothing in them."""
    kind = import_module(_MOE).RoutedExperts
    made = kind.__new__(kind)
    torch.nn.Module.__init__(made)
    return made


def load(made: Any, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
    """A checkpoint's tensors, named from the expert's number on, through vLLM's own loader."""
    list(made.load_weights(tensors))


def load_model(quantization: str) -> Any:
    """What loading a model with routed experts ends with, whose layers were made before."""
    loader = import_module("vllm.model_executor.model_loader.base_loader").BaseModelLoader
    return type(loader().load_model(None, SimpleNamespace(quantization=quantization))).__name__


def process(made: Any) -> None:
    """What vLLM's loader does with a layer after its weights were loaded."""
    made.quant_method.process_weights_after_loading(made)


def runner(made: Any) -> Callable[..., torch.Tensor]:
    """How vLLM's runner calls the experts: (x, topk_weights, topk_ids)."""
    return lambda x, weights, ids: made.forward_modular(x=x, topk_weights=weights, topk_ids=ids)


class Arguments(SimpleNamespace):
    """In place of compressed-tensors' pydantic model of the same fields."""

    @classmethod
    def model_validate(cls, raw: Mapping[str, Any]) -> "Arguments":
        fields = {"num_bits": 8, "type": "int", "symmetric": True, "group_size": None, "strategy": None}
        return cls(**{**fields, "dynamic": False, "actorder": None, **raw})


class Names:
    """An enumeration whose members are their names in small letters, as compared with a config's text."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Name(name.lower().replace("_", "-"))


class _Name(str):
    @property
    def value(self) -> str:
        return str(self)


class _Platform:
    supported_quantization: tuple[str, ...] = ()

    def is_cuda_alike(self) -> bool:
        return True

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return StandIn()


class _Linear(torch.nn.Module):
    pass


class _Attention(torch.nn.Module):
    pass


class _Head(torch.nn.Module):
    pass


class _Loader:
    def load_model(self, vllm_config: Any, model_config: Any) -> torch.nn.Module:
        return torch.nn.ModuleList([_bare()])


class _Online:
    pass


class _Unquantized:
    def __init__(self, moe: Any) -> None:
        self.moe = moe


def _logger(name: str) -> Any:
    log = logging.getLogger(name)
    for method in ("info_once", "warning_once", "debug_once"):
        setattr(log, method, getattr(log, method.removesuffix("_once")))
    return log


def installed(name: str) -> bool:
    from importlib.util import find_spec

    return find_spec(name) is not None
