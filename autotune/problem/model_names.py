"""Names that the families of MoE models give their numbers, and values that their files leave out.

Each name stands with the families that have it, as transformers 5.24, vLLM 0.33.0 and SGLang 0.5.23 do.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from autotune.problem.arithmetic import PLAIN, Needs

HIDDEN: Final[Mapping[str, str]] = {
    "hidden_size": "nearly all",
    "d_model": "DBRX, Switch",
    "n_embd": "GPT-2's heirs",
    "dim": "Mistral's params.json",
}
ROUTED_HIDDEN: Final[Mapping[str, str]] = {
    "routed_expert_hidden_size": "Kimi-K3",
    "moe_latent_size": "Nemotron 3",
    "moe_hidden_size": "Muse",
}
"""Where routed experts work at another hidden size than the rest of the model."""

EXPERTS: Final[Mapping[str, str]] = {
    "n_routed_experts": "DeepSeek, Kimi-K2, GLM-4.5, dots, MiMo, LongCat, Nemotron-H, Mistral 4, Solar",
    "num_experts": "Qwen, OLMoE, Jamba, Hunyuan, Bailing, EXAONE, LFM2, Laguna, AFMoE, Gemma 4, Zaya",
    "num_local_experts": "Mixtral, Llama 4, gpt-oss, Phi, Granite, MiniMax, Grok, Arctic, JetMoE",
    "moe_num_experts": "ERNIE 4.5, Step-3, DBRX, Aria",
    "num_moe_experts": "Megatron's exports",
    "n_experts": "Moondream",
    "num_routed_experts": "openPangu Ultra",
    "moe_num_primary_experts": "SmallThinker",
}
TOP_K: Final[Mapping[str, str]] = {
    "num_experts_per_tok": "nearly all",
    "num_experts_per_token": "Kimi-Linear, Kimi-K3",
    "experts_per_token": "gpt-oss",
    "moe_k": "ERNIE 4.5",
    "moe_topk": "Hunyuan, LongCat, Aria",
    "moe_top_k": "Step-3, DBRX, XVERSE",
    "top_k_experts": "Gemma 4",
    "moe_router_topk": "Megatron's exports",
    "moe_experts_per_token": "Moondream",
    "n_experts_per_tok": "Moondream",
    "moe_num_active_primary_experts": "SmallThinker",
}
WIDTH: Final[Mapping[str, str]] = {
    "moe_intermediate_size": "nearly all",
    "expert_ffn_hidden_size": "LongCat",
    "moe_ffn_hidden_size": "Megatron's exports, SmallThinker",
    "expert_hidden_dim": "Hunyuan 3, Mistral",
    "moe_expert_inner_dim": "Moondream",
    "expert_inner_dim": "Moondream",
}
DENSE_WIDTH: Final[Mapping[str, str]] = {
    "intermediate_size": "Mixtral, Llama 4, Phi, Granite, OLMoE, Jamba",
    "hidden_dim": "Mixtral's params.json",
    "ffn_hidden_size": "JetMoE",
}
"""A dense layer's width, which is an expert's where the family has no other."""
SHARED: Final[Mapping[str, str]] = {
    "n_shared_experts": "DeepSeek, Kimi-K2, GLM-4.5, Nemotron-H",
    "num_shared_experts": "Bailing, AFMoE, EXAONE, Kimi-Linear",
    "num_shared_expert": "Hunyuan",
    "moe_num_shared_experts": "ERNIE 4.5, Aria",
}
SHARED_WIDTH: Final[Mapping[str, str]] = {
    "shared_expert_intermediate_size": "Qwen, Laguna",
    "moe_shared_expert_intermediate_size": "Nemotron-H",
    "shared_experts_intermediate_size": "dots3",
    "moe_shared_expert_ffn_hidden_size": "Megatron's exports",
    "shared_intermediate_size": "Granite, MiniMax-M3",
    "share_expert_dim": "Step-3",
    "share_expert_dims": "Step-3.5",
}
ACTIVATION: Final = (
    "mlp_hidden_act",
    "moe_hidden_act",
    "hidden_activation",
    "hidden_act",
    "activation_function",
    *("moe_activation", "mlp_activation", "ffn_activation", "expert_activation", "expert_hidden_act"),
    *("ffn_act_fn", "moe_act_fn", "act_fn"),
)
SILU: Final = ("silu", "swish", "swiglu")
LIMITS: Final = ("swiglu_limit", "swiglu_limits", "expert_swiglu_limit_list", "gate_clamp", "swiglu_clamp")
BIASES: Final = (
    *("mlp_bias", "moe_bias", "ffn_bias", "use_mlp_bias", "use_bias", "add_bias_linear"),
    *("experts_bias", "moe_use_bias"),
)
MODIFIERS: Final = re.compile(
    r"(?!\w*(router|shared|loss|capacity))"
    r"(swiglu|glu|mlp|ffn|moe|experts?|gate|up)_(\w+_)?(alpha|beta|limits?|clamp|softcap(ping)?)"
)
"""What bends an expert's activation, known or not; a router's and an attention's are others."""
GATED: Final = ("gated_linear_unit", "use_gated_mlp", "gated_mlp", "use_glu", "is_gated")
ZERO: Final = re.compile(r"(\w+_)?(zero|null|copy|constant|identity|skip)_experts?(_num)?|zce_nums")
"""Experts that compute nothing, of which a router may choose some."""
UNGATED: Final = ("relu2", "relu_squared", "squared_relu", "squaredrelu")
OFF: Final = ("enable_moe_block", "is_moe", "use_moe")
NESTED: Final = (
    *("text_config", "thinker_config", "language_config", "llm_config", "language_model", "llm"),
    *("decoder", "text_model", "lm_config", "model_config", "backbone"),
)
"""Where the language model stands in a multimodal model's file; vision, audio and talkers are not served."""
DEPTH: Final = ("num_hidden_layers", "n_layers", "num_layers")
QUANTISATION: Final = ("quantization_config", "compression_config", "quantization", "quant_config")
INLINE: Final = ("ffn_config", "moe_config", "moe")

MOST: Final = {"hidden": 1 << 18, "width": 1 << 20, "experts": 1 << 16, "top_k": 1 << 10}


@dataclass(frozen=True)
class Family:
    """What a family's file leaves out.

    Attributes:
        needs: what its experts compute where the file does not say.
        dense_width: an expert's width is `intermediate_size`.
        shared: shared experts that no key tells.
        unlike: what its layers do that no layer here does, a clause; "": nothing.
    """

    needs: Needs = PLAIN
    dense_width: bool = False
    shared: int = 0
    unlike: str = ""


def _needs(**values: Any) -> Needs:
    return Needs(
        **values, sources=tuple((name, f"{name}={value!r}, its family's") for name, value in values.items())
    )


_DENSE = Family(dense_width=True)
_OAI = _needs(activation="swiglu with alpha", limit=7.0, bias=True)
_GELU = _needs(activation="gelu")
FAMILIES: Final[Mapping[str, Family]] = {
    **dict.fromkeys(
        ("mixtral", "phimoe", "jamba", "olmoe", "flex_olmo", "arctic", "minimax", "minimax_m2", "jetmoe"),
        _DENSE,
    ),
    **dict.fromkeys(("minimax_text_01", "hunyuan", "hunyuan_v1_moe", "aria_text", "xverse_moe"), _DENSE),
    **dict.fromkeys(("granitemoe", "granitemoehybrid", "granitemoeshared", "granitemoe_swa", "dbrx"), _DENSE),
    **dict.fromkeys(
        ("llama4", "llama4_text"), Family(_needs(weighted_input=True), dense_width=True, shared=1)
    ),
    **dict.fromkeys(("gpt_oss", "openai_privacy_filter"), Family(_OAI, dense_width=True)),
    **dict.fromkeys(
        ("minimax_m3", "minimax_m3_vl", "minimax_m3_vl_text"),
        Family(_needs(activation="swiglu with alpha", limit=7.0), dense_width=True),
    ),
    **dict.fromkeys(("grok", "grok-1", "grok1"), Family(_GELU, dense_width=True)),
    **dict.fromkeys(("gemma4", "gemma4_text", "diffusion_gemma", "diffusion_gemma_text"), Family(_GELU)),
    **dict.fromkeys(("nemotron_h", "nemotronh"), Family(_needs(activation="relu2", gated=False))),
    **dict.fromkeys(
        ("inkling2", "inkling2_text", "inkling2_loop", "inkling2_loop_text"),
        Family(_needs(activation="swiglu with softcaps")),
    ),
    **dict.fromkeys(
        ("muse_spark", "muse_spark_text"),
        Family(unlike="each expert's output is normalised before the weighted sum"),
    ),
    "zaya": Family(unlike="a token may go to an expert that computes nothing"),
    "smallthinker": Family(_needs(activation="relu")),
    "kimi_k3": Family(_needs(activation="situ")),
    "nllb-moe": Family(_needs(activation="relu", gated=False), dense_width=True),
    "switch_transformers": Family(_needs(activation="relu", gated=False)),
    **dict.fromkeys(
        ("deepseek_v4", "glm5_next", "glm5_next_text", "hy_v4", "hy_v4_vl", "hy_v4_vl_text"),
        Family(_needs(limit=10.0)),
    ),
}
"""What the reference implementations take where a published config.json is silent, by `model_type`."""
