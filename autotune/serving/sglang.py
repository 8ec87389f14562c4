"""The SGLang plugin `autotune`: W4A8 experts by our kernels, through SGLang's own hooks.

SGLang calls `register` in each of its processes (entry point group `sglang.srt.plugins`). The checkpoint's
quantisation keeps its name, since ROCm refuses new ones: hooks around `QuarkConfig.get_quant_method` and
`CompressedTensorsConfig.get_moe_scheme` give routed experts in W4A8 a scheme of ours, and everything else
goes to SGLang. No model was served with it by us.
"""

import importlib
import logging
import os
from functools import cache
from typing import Any, Final

from autotune.errors import UserError
from autotune.serving import checkpoint, layers, versions
from autotune.serving.checkpoint import Layout, Loading
from autotune.serving.experts import INT8_VARIABLE, run

LOGGER: Final = "sglang.autotune"
_QUANTIZATION: Final = "sglang.srt.layers.quantization"
_QUARK: Final = f"{_QUANTIZATION}.quark.quark"
_COMPRESSED: Final = f"{_QUANTIZATION}.compressed_tensors.compressed_tensors"
_ELSEWHERE: Final = "serve it without the plugin (SGLANG_PLUGINS names those to load)"

_log = logging.getLogger(LOGGER)
_wanted: set[str] = set()
_taken: set[str] = set()
"""Layers whose experts are to be ours, and are."""
_fired: set[str] = set()
"""Hooks that SGLang has called."""


def register() -> None:
    """What SGLang calls, before it applies hooks. Never raises."""
    try:
        registry = importlib.import_module("sglang.srt.plugins.hook_registry")
        around, after = registry.HookType.AROUND, registry.HookType.AFTER
    except (ImportError, AttributeError) as error:
        _log.warning(
            "autotune: this SGLang has no hooks (%s): serve with SGLang %s", error, versions.tested("sglang")
        )
        return
    for target, hook, kind in (
        (f"{_QUARK}.QuarkConfig.get_quant_method", _quark_method, around),
        (f"{_COMPRESSED}.CompressedTensorsConfig.get_moe_scheme", _compressed_scheme, around),
        ("sglang.srt.model_executor.model_runner.ModelRunner.load_model", _loaded, after),
    ):
        registry.HookRegistry.register(target, hook, kind)
    version = getattr(importlib.import_module("sglang"), "__version__", None)
    if (told := versions.warning("sglang", version)) is not None:
        layers.say(_log, f"autotune: {told}", logging.WARNING)


def _quark_method(own: Any, config: Any, layer: Any, prefix: str) -> Any:
    """Around `QuarkConfig.get_quant_method`."""
    _fired.add("quark")
    quark = importlib.import_module(_QUARK)
    if quark.should_ignore_layer(
        prefix, ignore=config.exclude_layers, fused_mapping=config.packed_modules_mapping
    ):
        return own(config, layer, prefix)
    spec = config._find_matched_config(prefix, layer)
    if not layers.is_int4_pair(spec.get("weight")):
        return own(config, layer, prefix)
    # SGLang's own method takes a pair of weights for one, and fails.
    if isinstance(layer, quark.RadixAttention):
        return quark.QuarkKVCacheMethod(config)
    if isinstance(layer, quark.LinearBase):
        raise UserError(
            f"{prefix}: a dense layer in INT4, which nothing here computes: quantise experts alone"
        )
    if not isinstance(layer, _experts_class()):
        return None
    layers.refuse(prefix, layers.pair_refusals(spec), _ELSEWHERE)
    if os.environ.get(INT8_VARIABLE) != "1":
        raise UserError(
            f"{prefix}: the checkpoint declares FP8 activations, which SGLang does not serve with INT4"
            f" weights: {INT8_VARIABLE}=1 runs its experts with INT8 ones (scripts/compare_activations.py"
            " compares both)"
        )
    layers.say(_log, layers.int8_for_fp8(f"{INT8_VARIABLE}=1"), logging.WARNING)
    layer.scheme = scheme_class("quark")(checkpoint.quark(config.pack_method), prefix)
    return quark.QuarkFusedMoEMethod(config)


def _compressed_scheme(own: Any, config: Any, layer: Any, layer_name: str | None = None) -> Any:
    """Around `CompressedTensorsConfig.get_moe_scheme`."""
    utils = importlib.import_module("sglang.srt.utils")
    if utils.is_npu() or utils.is_xpu() or utils.is_cpu():
        return own(config, layer, layer_name)  # SGLang has kernels of its own there
    names = [f"{layer_name}.0.{name}" for name in ("gate_proj", "up_proj", "down_proj")]
    scheme = layers.common_scheme(config, layer, names)
    if scheme is None:
        return own(config, layer, layer_name)
    weights, inputs = scheme.get("weights"), scheme.get("input_activations")
    if weights is None or inputs is None:
        return own(config, layer, layer_name)
    kinds = [getattr(part.type, "value", part.type) for part in (weights, inputs)]
    strategy = getattr(weights.strategy, "value", weights.strategy)
    ours = (
        kinds == ["int", "int"] and strategy == "channel" and config._is_dynamic_token_w4a8(weights, inputs)
    )
    if not ours:
        return own(config, layer, layer_name)
    layers.refuse(str(layer_name), layers.compressed_refusals(config), _ELSEWHERE)
    form = scheme.get("format") or config.quant_format
    return scheme_class("compressed")(checkpoint.compressed(getattr(form, "value", form)), layer_name)


def _loaded(result: Any, runner: Any, *args: Any, **kwargs: Any) -> None:
    """After `ModelRunner.load_model`: a layer that was ours and never came to its weights is a failure."""
    if _wanted - _taken:
        raise UserError(
            f"{min(_wanted - _taken)}: SGLang did not hand its loaded weights to our kernels: serve with"
            f" SGLang {versions.tested('sglang')}, or {_ELSEWHERE}"
        )
    config = layers.mapping(getattr(runner.model_config.hf_config, "quantization_config", None))
    if not _fired and any(map(layers.is_int4_pair, layers.quark_weights(config))):
        raise UserError(
            "no layer of the model took our kernels, as SGLang's hooks did not fire: serve with SGLang"
            f" {versions.tested('sglang')}, or {_ELSEWHERE}"
        )


def _experts_class() -> Any:
    return importlib.import_module("sglang.srt.layers.moe.fused_moe_triton.layer").FusedMoE


@cache
def scheme_class(method: str) -> Any:
    """SGLang's scheme of a routed-experts layer, with our kernels.

    Args:
        method: `quark` or `compressed`: whose scheme it must be.
    """
    if method == "quark":
        base = importlib.import_module(f"{_QUANTIZATION}.quark.schemes.quark_scheme").QuarkMoEScheme
    else:
        base = importlib.import_module(
            f"{_QUANTIZATION}.compressed_tensors.schemes.compressed_tensors_scheme"
        ).CompressedTensorsMoEScheme

    import torch

    # Where SGLang compiles its models (--enable-torch-compile) launches cannot be traced.
    opaque = torch.compiler.disable(run)  # type: ignore[no-untyped-call]

    class AutotuneW4A8MoE(base):  # type: ignore[misc,valid-type]
        def __init__(self, layout: Layout, prefix: str) -> None:
            self._layout, self._prefix = layout, prefix
            self._loading: Loading | None = None
            _wanted.add(prefix)

        @classmethod
        def get_min_capability(cls) -> int:
            return 80

        def create_weights(
            self,
            layer: Any,
            num_experts: int,
            hidden_size: int,
            intermediate_size_per_partition: int,
            params_dtype: Any,
            **extra: Any,
        ) -> None:
            if params_dtype is not torch.bfloat16:
                raise UserError(
                    f"{self._prefix}: the kernels take bfloat16, not {params_dtype}: give --dtype bfloat16"
                )
            _require_served(layer, self._prefix)
            self._loading = Loading(
                *(self._layout, self._prefix, hidden_size, intermediate_size_per_partition),
                tp=layer.moe_tp_size,
                local=lambda expert: layer._map_global_expert_id_to_local_expert_id(expert) != -1,
            )
            layers.register_parameters(layer, self._loading, num_experts, extra)

        def create_moe_runner(self, layer: Any, moe_runner_config: Any) -> None:
            """None: the kernels take standard ids of this rank's experts."""

        def process_weights_after_loading(self, layer: Any) -> None:
            assert self._loading is not None
            config = layer.moe_runner_config
            layers.finish(layer, self._loading, config.top_k, _log)
            factor = config.routed_scaling_factor
            if factor is not None and _runner_scales():
                layer.autotune_experts.w2_scale.mul_(factor)
            _taken.add(self._prefix)

        def apply_weights(self, layer: Any, dispatch_output: Any) -> Any:
            standard = importlib.import_module("sglang.srt.layers.moe.token_dispatcher.standard")
            weights, ids, *_ = dispatch_output.topk_output
            out = opaque(
                *(layer.autotune_experts, layer.autotune_choice, dispatch_output.hidden_states, weights, ids),
                absent=True,  # -1 is another rank's, by the dispatcher, or a padded token's, by the router
            )
            return standard.StandardCombineInput(hidden_states=out)

    return AutotuneW4A8MoE


def _runner_scales() -> bool:
    """Whether the experts' sum must be multiplied by the model's routed scaling factor here.

    On CUDA SGLang's runners do so, on ROCm its models (0.5.23, models/deepseek_v2.py).
    """
    import torch

    return torch.version.hip is None


def _require_served(layer: Any, prefix: str) -> None:
    config = layer.moe_runner_config
    backend = importlib.import_module("sglang.srt.layers.moe").get_moe_a2a_backend()
    refusals = {
        f"its activation is {config.activation}, and the kernels have SiLU": config.activation != "silu",
        "its experts have no gate": not config.is_gated,
        "it has biases": layer.with_bias,
        "its SwiGLU is clamped or scaled": any(
            value is not None
            for value in (
                config.swiglu_limit,
                config.gemm1_alpha,
                config.gemm1_beta,
                config.gemm1_clamp_limit,
            )
        ),
        "router weights go on the input": config.apply_router_weight_on_input,
        "its experts' outputs are not summed": config.no_combine,
        "shared experts are fused into it: --disable-shared-experts-fusion": layer.num_fused_shared_experts
        > 0,
        "it is spread by all-to-all kernels (--moe-a2a-backend)": not backend.is_none(),
        "SGLANG_INT4_WEIGHT rescales its weights while they are loaded": os.environ.get(
            "SGLANG_INT4_WEIGHT", "0"
        )
        not in ("", "0", "false"),
    }
    layers.refuse(prefix, refusals, _ELSEWHERE)
