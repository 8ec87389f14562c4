"""config.json files: every family's names, nested parts, and what is refused with its true reason.

Values are those of published files; only what concerns the MoE layer is kept of them.
"""

# ruff: noqa: E501 a table has a row a line

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.errors import UserError
from autotune.problem.models import Model, from_hf_config

# name: the file's keys, then hidden size, an expert's width, experts, top-k, shared experts.
# fmt: off
FAMILIES: dict[str, tuple[dict[str, Any], tuple[int, int, int, int, int]]] = {
    "mixtral": ({"hidden_size": 4096, "intermediate_size": 14336, "num_local_experts": 8, "num_experts_per_tok": 2}, (4096, 14336, 8, 2, 0)),
    "deepseek_v2": ({"hidden_size": 2048, "intermediate_size": 10944, "moe_intermediate_size": 1408, "n_routed_experts": 64, "num_experts_per_tok": 6, "n_shared_experts": 2}, (2048, 1408, 64, 6, 2)),
    "kimi_k2": ({"hidden_size": 7168, "intermediate_size": 18432, "moe_intermediate_size": 2048, "n_routed_experts": 384, "num_experts_per_tok": 8, "n_shared_experts": 1}, (7168, 2048, 384, 8, 1)),
    "kimi_linear": ({"hidden_size": 2304, "intermediate_size": 9216, "moe_intermediate_size": 1024, "num_experts": 256, "num_experts_per_token": 8, "num_shared_experts": 1}, (2304, 1024, 256, 8, 1)),
    "qwen2_moe": ({"hidden_size": 2048, "intermediate_size": 5632, "moe_intermediate_size": 1408, "num_experts": 60, "num_experts_per_tok": 4, "shared_expert_intermediate_size": 5632}, (2048, 1408, 60, 4, 4)),
    "qwen3_moe": ({"hidden_size": 4096, "intermediate_size": 12288, "moe_intermediate_size": 1536, "num_experts": 128, "num_experts_per_tok": 8}, (4096, 1536, 128, 8, 0)),
    "qwen3_next": ({"hidden_size": 2048, "intermediate_size": 5120, "moe_intermediate_size": 512, "num_experts": 512, "num_experts_per_tok": 10, "shared_expert_intermediate_size": 512}, (2048, 512, 512, 10, 1)),
    "qwen3_vl_moe": ({"text_config": {"hidden_size": 2048, "intermediate_size": 6144, "moe_intermediate_size": 768, "num_experts": 128, "num_experts_per_tok": 8}, "vision_config": {"hidden_size": 1152}}, (2048, 768, 128, 8, 0)),
    "glm4_moe": ({"hidden_size": 5120, "intermediate_size": 12288, "moe_intermediate_size": 1536, "n_routed_experts": 160, "num_experts_per_tok": 8, "n_shared_experts": 1}, (5120, 1536, 160, 8, 1)),
    "ernie4_5_moe": ({"hidden_size": 2560, "intermediate_size": 12288, "moe_intermediate_size": 1536, "moe_num_experts": 64, "moe_k": 6, "moe_num_shared_experts": 2}, (2560, 1536, 64, 6, 2)),
    "step3p5": ({"hidden_size": 4096, "intermediate_size": 11264, "moe_intermediate_size": 1280, "moe_num_experts": 288, "moe_top_k": 8, "share_expert_dim": 1280}, (4096, 1280, 288, 8, 1)),
    "hunyuan": ({"hidden_size": 6400, "intermediate_size": 18304, "num_experts": 16, "moe_topk": 1, "num_shared_expert": 1}, (6400, 18304, 16, 1, 1)),
    "hunyuan_v1_moe": ({"hidden_size": 4096, "intermediate_size": 3072, "moe_intermediate_size": [3072] * 32, "num_experts": 64, "moe_topk": [8] * 32, "num_shared_expert": [1] * 32}, (4096, 3072, 64, 8, 1)),
    "hy_v3": ({"hidden_size": 4096, "intermediate_size": 13312, "expert_hidden_dim": 1536, "num_experts": 192, "num_experts_per_tok": 8, "num_shared_experts": 1}, (4096, 1536, 192, 8, 1)),
    "dbrx": ({"d_model": 6144, "ffn_config": {"ffn_act_fn": {"name": "silu"}, "ffn_hidden_size": 10752, "moe_num_experts": 16, "moe_top_k": 4}}, (6144, 10752, 16, 4, 0)),
    "gemma4": ({"text_config": {"hidden_size": 2816, "intermediate_size": 2112, "moe_intermediate_size": 704, "num_experts": 128, "top_k_experts": 8, "enable_moe_block": True}}, (2816, 704, 128, 8, 0)),
    "jamba": ({"hidden_size": 4096, "intermediate_size": 14336, "num_experts": 16, "num_experts_per_tok": 2}, (4096, 14336, 16, 2, 0)),
    "granitemoe": ({"hidden_size": 1536, "intermediate_size": 512, "num_local_experts": 40, "num_experts_per_tok": 8}, (1536, 512, 40, 8, 0)),
    "granitemoehybrid": ({"hidden_size": 4096, "intermediate_size": 768, "num_local_experts": 72, "num_experts_per_tok": 10, "shared_intermediate_size": 1536}, (4096, 768, 72, 10, 2)),
    "olmoe": ({"hidden_size": 2048, "intermediate_size": 1024, "num_experts": 64, "num_experts_per_tok": 8}, (2048, 1024, 64, 8, 0)),
    "phimoe": ({"hidden_size": 4096, "intermediate_size": 6400, "num_local_experts": 16, "num_experts_per_tok": 2}, (4096, 6400, 16, 2, 0)),
    "llama4": ({"text_config": {"model_type": "llama4_text", "hidden_size": 5120, "intermediate_size": 8192, "intermediate_size_mlp": 16384, "num_local_experts": 16, "num_experts_per_tok": 1}}, (5120, 8192, 16, 1, 1)),
    "gpt_oss": ({"hidden_size": 2880, "intermediate_size": 2880, "num_local_experts": 32, "num_experts_per_tok": 4, "experts_per_token": 4}, (2880, 2880, 32, 4, 0)),
    "arctic": ({"hidden_size": 7168, "intermediate_size": 4864, "num_local_experts": 128, "num_experts_per_tok": 2}, (7168, 4864, 128, 2, 0)),
    "minimax_m2": ({"hidden_size": 3072, "intermediate_size": 1536, "num_local_experts": 256, "num_experts_per_tok": 8, "shared_intermediate_size": 0}, (3072, 1536, 256, 8, 0)),
    "bailing_moe": ({"hidden_size": 2048, "intermediate_size": 5632, "moe_intermediate_size": 1408, "num_experts": 64, "num_experts_per_tok": 6, "num_shared_experts": 2}, (2048, 1408, 64, 6, 2)),
    "dots1": ({"hidden_size": 4096, "intermediate_size": 10944, "moe_intermediate_size": 1408, "n_routed_experts": 128, "num_experts_per_tok": 6, "n_shared_experts": 2}, (4096, 1408, 128, 6, 2)),
    "nemotron_h": ({"hidden_size": 2688, "intermediate_size": 1856, "moe_intermediate_size": 1856, "n_routed_experts": 128, "num_experts_per_tok": 6, "n_shared_experts": 1, "moe_shared_expert_intermediate_size": 3712}, (2688, 1856, 128, 6, 2)),
    "grok-1": ({"hidden_size": 6144, "intermediate_size": 32768, "num_local_experts": 8, "num_experts_per_tok": 2}, (6144, 32768, 8, 2, 0)),
    "aria": ({"text_config": {"model_type": "aria_text", "hidden_size": 2560, "intermediate_size": 1664, "moe_num_experts": 64, "moe_topk": 6, "moe_num_shared_experts": 2}}, (2560, 1664, 64, 6, 2)),
    "deepseek_vl_v2": ({"language_config": {"model_type": "deepseek_v2", "hidden_size": 2560, "intermediate_size": 12288, "moe_intermediate_size": 1536, "n_routed_experts": 72, "num_experts_per_tok": 6, "n_shared_experts": 2}}, (2560, 1536, 72, 6, 2)),
    "internvl_chat": ({"llm_config": {"model_type": "qwen3_moe", "hidden_size": 2048, "intermediate_size": 6144, "moe_intermediate_size": 768, "num_experts": 128, "num_experts_per_tok": 8}, "vision_config": {"hidden_size": 1024}}, (2048, 768, 128, 8, 0)),
    "exaone_moe": ({"hidden_size": 6144, "intermediate_size": 18432, "moe_intermediate_size": 2048, "num_experts": 128, "num_experts_per_tok": 8, "num_shared_experts": 1}, (6144, 2048, 128, 8, 1)),
    "lfm2_moe": ({"hidden_size": 2048, "intermediate_size": 7168, "moe_intermediate_size": 1792, "num_experts": 32, "num_experts_per_tok": 4, "use_expert_bias": True}, (2048, 1792, 32, 4, 0)),
    "mimo_v2_flash": ({"hidden_size": 4096, "intermediate_size": 16384, "moe_intermediate_size": 2048, "n_routed_experts": 256, "num_experts_per_tok": 8, "n_shared_experts": None}, (4096, 2048, 256, 8, 0)),
    "xverse_moe": ({"hidden_size": 2560, "intermediate_size": 1728, "num_experts": 64, "moe_top_k": 6, "num_shared_experts": 2}, (2560, 1728, 64, 6, 2)),
    "pangu_pro_moe": ({"hidden_size": 5120, "moe_intermediate_size": 1344, "num_experts": 64, "num_experts_per_tok": 8, "shared_expert_intermediate_size": 5376}, (5120, 1344, 64, 8, 4)),
    "jetmoe": ({"hidden_size": 2048, "intermediate_size": 5632, "num_local_experts": 8, "num_experts_per_tok": 2, "activation_function": "silu"}, (2048, 5632, 8, 2, 0)),
    "solar_open": ({"hidden_size": 4096, "moe_intermediate_size": 1280, "n_routed_experts": 128, "num_experts_per_tok": 8, "n_shared_experts": 1}, (4096, 1280, 128, 8, 1)),
    "qwen3_omni_moe": ({"thinker_config": {"text_config": {"hidden_size": 2048, "moe_intermediate_size": 768, "num_experts": 128, "num_experts_per_tok": 8}}, "talker_config": {"text_config": {"hidden_size": 1024, "moe_intermediate_size": 384, "num_experts": 128, "num_experts_per_tok": 6}}}, (2048, 768, 128, 8, 0)),
    "pangu_ultra_moe": ({"hidden_size": 7680, "intermediate_size": 18432, "moe_intermediate_size": 2048, "num_routed_experts": 256, "num_experts_per_tok": 8, "num_shared_experts": 1}, (7680, 2048, 256, 8, 1)),
    "smallthinker": ({"hidden_size": 2560, "moe_ffn_hidden_size": 768, "moe_num_primary_experts": 64, "moe_num_active_primary_experts": 6}, (2560, 768, 64, 6, 0)),
    "yuan": ({"hidden_size": 2048, "intermediate_size": 8192, "ffn_hidden_size": 8192, "moe_config": {"moe_num_experts": 32, "moe_top_k": 2, "ffn_hidden_size": 4096}}, (2048, 4096, 32, 2, 0)),
    "mixtral-params": ({"dim": 4096, "hidden_dim": 14336, "moe": {"num_experts": 8, "num_experts_per_tok": 2}}, (4096, 14336, 8, 2, 0)),
    "mistral": ({"dim": 7168, "hidden_dim": 16384, "moe": {"num_experts": 128, "num_experts_per_tok": 4, "expert_hidden_dim": 4096, "num_shared_experts": 1}}, (7168, 4096, 128, 4, 1)),
}
# fmt: on
PLAIN = {"hidden_size": 2048, "moe_intermediate_size": 768, "num_experts": 128, "num_experts_per_tok": 8}


def read(folder: Path, content: object) -> Model:
    path = folder / "config.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return from_hf_config(path)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_familys_names_are_read(name: str, tmp_path: Path) -> None:
    content, dims = FAMILIES[name]
    model = read(tmp_path, {"model_type": name, **content})
    assert (
        model.model_dim, model.moe_intermediate, model.experts, model.top_k, model.shared_experts
    ) == dims  # fmt: skip
    assert model.name == name


@pytest.mark.parametrize(("change", "reason"), [
    ({"num_experts": 1, "num_experts_per_tok": 1}, "dense model: num_experts is 1"),
    ({"num_experts": 0}, "dense model: num_experts is 0"),
    ({"enable_moe_block": False}, "dense model: enable_moe_block is false"),
    ({"n_routed_experts": 64}, "n_routed_experts=64 and num_experts=128, which should be the same"),
    ({"moe_topk": 6}, "num_experts_per_tok=8 and moe_topk=6"),
    ({"num_experts_per_tok": [8, 8, 6], "num_hidden_layers": 3}, r"layers unlike experts: num_experts_per_tok is \[8, 8, 6\]"),
    ({"moe_intermediate_size": [1536, 512]}, r"two groups of experts: moe_intermediate_size is \[1536, 512\]"),
    ({"num_null_experts": 4}, r"beside its 128 of width 768 \(num_null_experts=4\)"),
    ({"zce_nums": [0, 2]}, r"\(zce_nums=\[0, 2\]\)"),
    ({"zero_expert_num": "0"}, 'zero_expert_num is "0", not a whole number'),
    ({"text_config": {**PLAIN, "hidden_size": 4096}}, "hidden_size=2048 and text_config.hidden_size=4096"),
    ({"zero_expert_num": 256}, r"zero experts, which compute nothing, beside its 128"),
    ({"num_experts_per_tok": 129}, "129 of 128 experts"),
    ({"num_experts": True}, "num_experts is true, not a whole number"),
    ({"num_experts": 128.0}, "num_experts is 128.0, not a whole number"),
    ({"num_experts": "128"}, 'num_experts is "128", not a whole number'),
    ({"num_experts": -1}, "num_experts is -1, not a whole number"),
    ({"num_experts": float("nan")}, "num_experts is NaN, not a whole number"),
    ({"num_experts": 10**12}, "num_experts is 1000000000000, not a whole number of 1 to 65536"),
    ({"num_experts": {}}, "num_experts is {}, not"),
    ({"moe_intermediate_size": []}, r"moe_intermediate_size is \[\]"),
    ({"hidden_size": None}, r"lacks an MoE layer's hidden size \(hidden_size or"),
    ({"num_experts_per_tok": None}, r"lacks the experts per token \(num_experts_per_tok or"),
    ({"num_shared_experts": "two"}, 'num_shared_experts is "two"'),
    ({"hidden_act": 3}, "hidden_act is 3, not an activation"),
    ({"swiglu_limit": "much"}, 'swiglu_limit is "much", not a limit'),
    ({"quantization_config": "fp8"}, 'quantization_config is "fp8", not an object'),
    ({"quantization": "fp8"}, 'quantization is "fp8", not an object'),
    ({"model_type": "muse_spark"}, "of muse_spark, where each expert's output is normalised before the weighted sum"),
    ({"model_type": "zaya"}, "of zaya, where a token may go to an expert that computes nothing"),
    ({"text_config": {"num_experts": 64}}, r"num_experts=128 and text_config.num_experts=64"),
])  # fmt: skip
def test_what_cannot_be_is_told_with_file_and_key(
    change: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=reason) as told:
        read(tmp_path, {**PLAIN, **change})
    assert "config.json" in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(("content", "reason"), [
    ({"hidden_size": 4096, "intermediate_size": 11008}, "is not an MoE model's config.json: it has none of"),
    ({"hidden_size": 4096, "count_of_experts": 8}, "names no number of experts that is known here .it has count_of_experts"),
    ({"text_config": {"hidden_size": 2560, "enable_moe_block": False, "num_experts": None}}, "is of a dense model: enable_moe_block is false"),
    ({"hidden_size": 2048, "moe_intermediate_size": 1408, "n_routed_experts": None}, "is of a dense model: n_routed_experts is null"),
    ({"block_configs": [{}], "hidden_size": 8192}, "every layer a shape of its own"),
    ({"text_config": PLAIN, "llm_config": {**PLAIN, "num_experts": 64}}, "two language models with experts, in text_config and llm_config"),
    ('{"num_experts": ' + "[" * 100_000, "as JSON"),
    ({"hidden_size": 64, "language_tower": {"inner": PLAIN}}, "names experts in language_tower.inner, where no language model is known"),
    ('{"num_experts": 8, "num_experts": 16}', "num_experts is both 8 and 16"),
    ("[]", "not a JSON object"),
    ('{"model_type": "\\ud800"}', "as JSON"),
    ("\x00", "as JSON"),
    # DeepSeek's heirs have a dense width besides, which is never an expert's.
    ({"hidden_size": 64, "intermediate_size": 64, "n_routed_experts": 8, "num_experts_per_tok": 2}, "lacks an expert's intermediate size"),
])  # fmt: skip
def test_a_file_without_one_moe_layer_says_why(content: object, reason: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=reason):
        read(tmp_path, content)


@pytest.mark.parametrize(("named", "name"), [
    ("Org/My Model", "my-model"),
    ("a\x1b[31mred", "a-31mred"),
    ("m\"$(x)`'+shared", "m-x-shared"),
    ("x" * 5000, "x" * 80),
])  # fmt: skip
def test_a_name_can_stand_in_files_shells_and_terminals(named: str, name: str, tmp_path: Path) -> None:
    assert read(tmp_path, {**PLAIN, "model_type": "qwen3_moe", "_name_or_path": named}).name == name


def test_routed_experts_may_work_at_another_hidden_size(tmp_path: Path) -> None:
    for key in ("routed_expert_hidden_size", "moe_latent_size"):
        model = read(tmp_path, {**PLAIN, key: 1024, "num_shared_experts": 2})
        assert model.model_dim == 1024
        # The shared ones work at the model's own, so none of them is as a routed one.
        with pytest.raises(UserError, match="no shared expert that is as a routed one"):
            model.with_fused_shared_experts()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
keys = st.sampled_from([
    *("num_experts", "n_routed_experts", "moe_k", "hidden_size", "moe_intermediate_size", "intermediate_size"),
    *("hidden_act", "mlp_bias", "swiglu_limit", "swiglu_limits", "quantization_config", "text_config"),
    *("ffn_config", "num_shared_experts", "model_type", "zero_expert_num", "_name_or_path", "block_configs"),
])  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(keys, json_values, max_size=5))
def test_whatever_stands_in_a_file_is_a_layer_or_one_sentence(
    tmp_path_factory: pytest.TempPathFactory, change: dict[str, Any]
) -> None:
    folder = tmp_path_factory.getbasetemp()
    try:
        model = read(folder, {**PLAIN, **change})
    except UserError as error:
        told = str(error)
    else:
        told = str(folder / "config.json")
        assert 2 <= model.experts <= 1 << 16
        assert 1 <= model.top_k <= model.experts
    assert str(folder / "config.json") in told
