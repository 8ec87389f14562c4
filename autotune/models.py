"""Models: the dimensions of their MoE layers, from presets or from a Hugging Face `config.json`."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autotune.errors import UserError


@dataclass(frozen=True)
class Model:
    """The MoE layer of a model before it is split over GPUs.

    Attributes:
        name: what the user calls it.
        model_dim: hidden size, elements.
        moe_intermediate: an expert's intermediate size, elements.
        experts: routed experts.
        top_k: routed experts a token.
        shared_experts: experts that every token visits.
    """

    name: str
    model_dim: int
    moe_intermediate: int
    experts: int
    top_k: int
    shared_experts: int = 0

    def with_fused_shared_experts(self) -> "Model":
        """The model as an engine sees it that routes every token to the shared experts as well.

        Raises:
            UserError: the model has no shared expert.
        """
        if not self.shared_experts:
            raise UserError(f"{self.name} has no shared expert: leave out --fused-shared-experts")
        return replace(
            self,
            name=f"{self.name}+shared",
            experts=self.experts + self.shared_experts,
            top_k=self.top_k + self.shared_experts,
            shared_experts=0,
        )


# Dimensions as in each model's published config.json.
PRESETS = {
    model.name: model
    for model in (
        Model("kimi-k2.5-w4a8", 7168, 2048, 384, 8, shared_experts=1),
        Model("deepseek-v3", 7168, 2048, 256, 8, shared_experts=1),
        Model("deepseek-r1", 7168, 2048, 256, 8, shared_experts=1),
        Model("qwen3-235b-a22b", 4096, 1536, 128, 8),
        Model("gpt-oss-120b", 2880, 2880, 128, 4),
    )
}
DEFAULT_MODEL = "kimi-k2.5-w4a8"


def preset(name: str) -> Model:
    """The preset called `name`.

    Raises:
        UserError: there is none.
    """
    try:
        return PRESETS[name]
    except KeyError:
        known = ", ".join(PRESETS)
        raise UserError(
            f"unknown model {name!r}: use one of {known}, or --model-config with the model's config.json"
        ) from None


# Families name the same dimension differently; the first key present wins.
_HF_KEYS = {
    "model_dim": ("hidden_size",),
    "moe_intermediate": ("moe_intermediate_size", "intermediate_size"),
    "experts": ("n_routed_experts", "num_experts", "num_local_experts"),
    "top_k": ("num_experts_per_tok", "experts_per_token", "num_experts_per_token"),
}
_HF_SHARED = ("n_shared_experts", "num_shared_experts")


def from_hf_config(path: Path) -> Model:
    """Reads a Hugging Face `config.json`; a multimodal model's `text_config` is looked into.

    Raises:
        UserError: the file cannot be read, or lacks a dimension of an MoE layer.
    """
    try:
        raw = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path} as JSON ({error}): give the model's config.json") from error
    if not isinstance(raw, dict):
        raise UserError(f"{path} is not a JSON object: give the model's config.json")
    nested = raw.get("text_config")
    fields: dict[str, Any] = nested if isinstance(nested, dict) else raw
    dims = {ours: _positive(fields, keys, path) for ours, keys in _HF_KEYS.items()}
    shared = next((fields[k] for k in _HF_SHARED if isinstance(fields.get(k), int)), 0)
    named = raw.get("_name_or_path") or raw.get("model_type")
    name = str(named or path.resolve().parent.name).rstrip("/").rsplit("/", 1)[-1].lower()
    model = Model(name=name, shared_experts=shared, **dims)
    if model.top_k > model.experts:
        raise UserError(
            f"{path} routes a token to {model.top_k} of {model.experts} experts: correct the config.json"
        )
    return model


def _positive(fields: dict[str, Any], keys: tuple[str, ...], path: Path) -> int:
    for key in keys:
        value = fields.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    raise UserError(f"{path} has no positive integer {' or '.join(keys)}: it is no MoE model's config.json")
