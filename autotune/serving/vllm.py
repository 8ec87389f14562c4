"""The vLLM plugin `autotune`: W4A8 experts by our kernels, and humming's tuned ranges.

vLLM calls `register` in each of its processes (entry point group `vllm.general_plugins`). A checkpoint whose
routed experts are INT4 is then served with `--quantization autotune_w4a8`, or without where vLLM has nothing
for it: its own config class reads the checkpoint, and only the routed experts get another method. Shared
experts, attention and dense layers stay vLLM's. No model was served with it by us.
"""

import functools
import importlib
import logging
import os
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from autotune.backends.humming import plugin as humming_plugin
from autotune.errors import UserError
from autotune.serving import checkpoint, layers, versions
from autotune.serving.checkpoint import Layout, Loading
from autotune.serving.experts import INT8_VARIABLE, run

NAME: Final = "autotune_w4a8"
LOGGER: Final = "vllm.autotune"  # a child of vLLM's own logger, whose handlers print it
_ELSEWHERE: Final = f"serve it without --quantization {NAME}"
_QUANTIZATION: Final = "vllm.model_executor.layers.quantization"

_log = logging.getLogger(LOGGER)
_asked: dict[str, bool] = {}
"""Layers of routed experts that vLLM asked about, and whether they are ours."""


def register() -> None:
    """What vLLM calls. Never raises: a server starts without the plugin rather than not at all."""
    humming_plugin.register()
    try:
        quantization = importlib.import_module(_QUANTIZATION)
        if NAME not in quantization.QUANTIZATION_METHODS:  # vLLM may load its plugins twice
            quantization.register_quantization_config(NAME)(config_class())
        version = getattr(importlib.import_module("vllm"), "__version__", None)
    except (ImportError, AttributeError) as error:
        _log.warning(
            "autotune: this vLLM has no place for --quantization %s (%s): serve with vLLM %s",
            *(NAME, error, versions.tested("vllm")),
        )
        return
    if (told := versions.warning("vllm", version)) is not None:
        layers.say(_log, f"autotune: {told}", logging.WARNING)


@cache
def config_class() -> Any:
    """The class that vLLM knows as `autotune_w4a8`. It makes configs of vLLM's own classes."""
    base = importlib.import_module(f"{_QUANTIZATION}.base_config").QuantizationConfig

    class AutotuneW4A8Config(base):  # type: ignore[misc,valid-type]
        @classmethod
        def from_config(cls, config: dict[str, Any]) -> Any:
            _watch_loading()
            return _config_of(str(config.get("quant_method", ""))).from_config(config)

        @classmethod
        def override_quantization_method(
            cls, hf_quant_cfg: Mapping[str, Any], user_quant: str | None, hf_config: Any = None
        ) -> str | None:
            platform = importlib.import_module("vllm.platforms").current_platform
            if user_quant is None and not platform.is_cuda_alike():
                return None  # vLLM has kernels of its own for Arm
            return NAME if claims(hf_quant_cfg, user_quant) else None

        def get_name(self) -> str:
            return NAME

        def get_supported_act_dtypes(self) -> list[Any]:
            import torch

            return [torch.bfloat16]

        @classmethod
        def get_min_capability(cls) -> int:
            return 80

        @staticmethod
        def get_config_filenames() -> list[str]:
            return []

        def get_quant_method(self, layer: Any, prefix: str) -> None:
            raise NotImplementedError("configs are made by from_config")

    return AutotuneW4A8Config


def claims(checkpoint_config: Mapping[str, Any], user_quant: str | None) -> bool:
    """Whether a checkpoint's experts are to be ours.

    Args:
        checkpoint_config: its `quantization_config`.
        user_quant: `--quantization`.

    INT4 with dynamic INT8 activations is claimed by itself, since vLLM has nothing for it on a GPU; a
    checkpoint that declares FP8 activations only where the user asks for INT8 ones.

    Raises:
        UserError: the user asks for a checkpoint whose experts cannot be.
    """
    if user_quant not in (None, NAME):
        return False
    scales = _int8_scales(checkpoint_config)
    if user_quant is None:
        return "channel" in scales or (_declares_fp8(checkpoint_config) and _int8_asked())
    if scales and "channel" not in scales:
        raise UserError(
            f"the checkpoint's INT4 weights have a scale per {min(scales)}, and the kernels take one per"
            " channel: quantise it per channel"
        )
    if not scales and not _declares_fp8(checkpoint_config):
        raise UserError(
            f"--quantization {NAME} reads INT4 experts of Quark (fp8 per tensor, int4 per channel) and of"
            " compressed-tensors (a scale per channel, dynamic INT8), and the checkpoint's are of another"
            f" kind (quant_method {checkpoint_config.get('quant_method')!r}): leave the option out"
        )
    return True


def _int8_asked() -> bool:
    return os.environ.get(INT8_VARIABLE) == "1"


def _declares_fp8(config: Mapping[str, Any]) -> bool:
    """Quark with a layer of [fp8 per tensor, int4 per channel]."""
    if config.get("quant_method") != "quark":
        return False
    return any(map(layers.is_int4_pair, layers.quark_weights(config)))


def _int8_scales(config: Mapping[str, Any]) -> set[str]:
    """What has a scale in compressed-tensors' groups of INT4 × dynamic INT8; empty: there are none."""
    if config.get("quant_method") != "compressed-tensors":
        return set()
    groups = [layers.mapping(group) for group in layers.mapping(config.get("config_groups")).values()]
    names = ("weights", "input_activations")
    pairs = [tuple(layers.mapping(group.get(name)) for name in names) for group in groups]
    return {
        str(weights.get("strategy"))
        for weights, inputs in pairs
        if (weights.get("num_bits"), weights.get("type")) == (4, "int")
        and (inputs.get("num_bits"), inputs.get("type"), inputs.get("dynamic")) == (8, "int", True)
    }


@cache
def _watch_loading() -> None:
    """Lets a model whose experts our hook was never asked about fail when it is loaded, and not serve on."""
    loader = importlib.import_module("vllm.model_executor.model_loader.base_loader").BaseModelLoader
    own = loader.load_model

    @functools.wraps(own)
    def load_model(self: Any, vllm_config: Any, model_config: Any, *args: Any, **kwargs: Any) -> Any:
        model = own(self, vllm_config, model_config, *args, **kwargs)
        if model_config.quantization == NAME and not _asked and _has_experts(model):
            raise UserError(
                f"--quantization {NAME}: no layer of the model took our kernels, as vLLM did not ask for one:"
                f" serve with vLLM {versions.tested('vllm')}, or {_ELSEWHERE}"
            )
        if model_config.quantization == NAME and not any(_asked.values()):
            layers.say(
                _log, f"autotune: none of the model's layers are W4A8 experts, so {NAME} changes nothing"
            )
        return model

    loader.load_model = load_model


def _has_experts(model: Any) -> bool:
    routed = importlib.import_module("vllm.model_executor.layers.fused_moe").RoutedExperts
    return any(isinstance(module, routed) for module in model.modules())


@cache
def _config_of(method: str) -> Any:
    """vLLM's own config class of a checkpoint, which gives W4A8 experts our method."""
    if method == "quark":
        own = importlib.import_module(f"{_QUANTIZATION}.quark.quark").QuarkConfig
        find = _quark_layout
    else:
        own = importlib.import_module(
            f"{_QUANTIZATION}.compressed_tensors.compressed_tensors"
        ).CompressedTensorsConfig
        find = _compressed_layout
    routed = importlib.import_module("vllm.model_executor.layers.fused_moe").RoutedExperts

    class Config(own):  # type: ignore[misc,valid-type]
        def get_quant_method(self, layer: Any, prefix: str) -> Any:
            layout = find(self, layer, prefix) if isinstance(layer, routed) else None
            if isinstance(layer, routed):
                _asked[prefix] = layout is not None
            if layout is not None:
                return method_class()(layer.moe_config, layout, prefix)
            return super().get_quant_method(layer, prefix)

    Config.__name__ = Config.__qualname__ = f"AutotuneW4A8{own.__name__}"
    return Config


def _quark_layout(config: Any, layer: Any, prefix: str) -> Layout | None:
    """The layout of a layer's experts; None: they are of another kind, or left out of quantisation."""
    module = importlib.import_module(f"{_QUANTIZATION}.quark.quark_moe")
    try:
        _, _, method = config.get_quant_method_target(prefix, type(layer))
    except (RuntimeError, NotImplementedError):  # vLLM does not say what of it is not supported
        spec = config._find_matched_config(prefix, type(layer))
        if layers.is_int4_pair(spec.get("weight")):
            layers.refuse(prefix, layers.pair_refusals(spec), _ELSEWHERE)
        raise
    if method is not module.QuarkW4A8Fp8MoEMethod:
        return None
    layers.say(_log, layers.int8_for_fp8(f"--quantization {NAME} or {INT8_VARIABLE}=1"), logging.WARNING)
    return checkpoint.quark(config.pack_method)


def _compressed_layout(config: Any, layer: Any, prefix: str) -> Layout | None:
    names = (layer.ckpt_gate_proj_name, layer.ckpt_up_proj_name, layer.ckpt_down_proj_name)
    scheme = layers.common_scheme(config, layer, [f"{prefix}.0.{name}" for name in names])
    if scheme is None:
        return None
    weights, inputs = scheme.get("weights"), scheme.get("input_activations")
    if weights is None or not config._is_dynamic_token_w4a8_int(weights, inputs):
        return None
    strategy = getattr(weights.strategy, "value", weights.strategy)
    if strategy != "channel":
        raise UserError(
            f"{prefix}: its INT4 experts have a scale per {strategy}, and the kernels take one per channel:"
            " quantise it per channel"
        )
    layers.refuse(prefix, layers.compressed_refusals(config), _ELSEWHERE)
    return checkpoint.compressed(scheme.get("format"))


@cache
def method_class() -> Any:
    """vLLM's method of a routed-experts layer, with our kernels."""
    base = importlib.import_module(
        "vllm.model_executor.layers.fused_moe.fused_moe_method_base"
    ).FusedMoEMethodBase

    class AutotuneW4A8MoEMethod(base):  # type: ignore[misc,valid-type]
        def __init__(self, moe: Any, layout: Layout, prefix: str) -> None:
            super().__init__(moe)
            _require_served(moe, prefix)
            self._layout, self._prefix = layout, prefix
            self._loading: Loading | None = None

        def create_weights(
            self,
            layer: Any,
            num_experts: int,
            hidden_size: int,
            intermediate_size_per_partition: int,
            params_dtype: Any,
            **extra: Any,
        ) -> None:
            import torch

            if params_dtype is not torch.bfloat16:
                raise UserError(
                    f"{self._prefix}: the kernels take bfloat16, not {params_dtype}: --dtype bfloat16"
                )
            if layer.apply_router_weight_on_input:
                raise UserError(f"{self._prefix}: router weights go on the input: {_ELSEWHERE}")
            self._loading = Loading(
                *(self._layout, self._prefix, hidden_size, intermediate_size_per_partition),
                tp=self.moe.moe_parallel_config.tp_size,
            )
            layers.register_parameters(layer, self._loading, num_experts, extra)

        def process_weights_after_loading(self, layer: Any) -> None:
            assert self._loading is not None
            layers.finish(layer, self._loading, self.moe.experts_per_token, _log)

        def get_fused_moe_quant_config(self, layer: Any) -> None:
            return None

        def apply(
            self,
            layer: Any,
            x: Any,
            topk_weights: Any,
            topk_ids: Any,
            shared_experts: Any = None,
            shared_experts_input: Any = None,
        ) -> Any:
            places = layer.expert_map
            ids = topk_ids if places is None else places[topk_ids.long()]
            return run(
                *(layer.autotune_experts, layer.autotune_choice, x, topk_weights, ids),
                absent=places is not None,
            )

    return AutotuneW4A8MoEMethod


def _require_served(moe: Any, prefix: str) -> None:
    """Makes sure that a layer is one that the kernels compute.

    Raises:
        UserError: it is not.
    """
    activation = getattr(moe.activation, "value", moe.activation)
    parallel = moe.moe_parallel_config
    refusals = {
        f"its activation is {activation}, and the kernels have SiLU": activation != "silu",
        "it has biases": moe.has_bias,
        "its SwiGLU is clamped": moe.swiglu_limit is not None,
        "LoRA is on": moe.is_lora_enabled,
        "it is spread by all-to-all kernels (data parallelism)": parallel.use_all2all_kernels,
        "experts are balanced at run time (EPLB)": parallel.enable_eplb,
        "its hidden size is padded": moe.hidden_dim_unpadded not in (None, moe.hidden_dim),
    }
    layers.refuse(prefix, refusals, _ELSEWHERE)
