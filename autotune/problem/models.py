"""Models: the dimensions of their MoE layers, from presets or from a Hugging Face `config.json`."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from autotune.errors import UserError
from autotune.problem import DEFAULT_MODEL
from autotune.problem.arithmetic import PLAIN, Needs, Scales, Scheme
from autotune.problem.model_names import FAMILIES

FUSED_SHARED = "+shared"
"""Ends the name of a model that is seen with its shared experts as routed ones."""


@dataclass(frozen=True)
class Model:
    """The MoE layer of a model before it is split over GPUs.

    Attributes:
        name: what the user calls it.
        model_dim: hidden size, elements.
        moe_intermediate: an expert's intermediate size, elements.
        experts: routed experts.
        top_k: routed experts per token.
        shared_experts: experts that every token visits.
        needs: what the experts compute and how the checkpoint holds them, unless that is plain.
        family: `model_type` of its config.json.
    """

    name: str
    model_dim: int
    moe_intermediate: int
    experts: int
    top_k: int
    shared_experts: int = 0
    # The same dimensions are the same problem, however its numbers come.
    needs: Needs | None = field(default=None, compare=False)
    family: str = field(default="", compare=False)

    def requantised(self) -> "Model":
        """The model with its experts in the numbers of whatever backend is named, not in its checkpoint's.

        Raises:
            UserError: its checkpoint is not quantised.
        """
        return replace(self, needs=requantised(self.name, self.needs))

    def with_fused_shared_experts(self) -> "Model":
        """The model as an engine sees it that routes every token to the shared experts as well.

        Raises:
            UserError: the model has no shared expert.
        """
        if not self.shared_experts:
            raise UserError(
                f"{self.name} has no shared expert that is as a routed one: leave out --fused-shared-experts"
            )
        return replace(
            self,
            name=f"{self.name}{FUSED_SHARED}",
            experts=self.experts + self.shared_experts,
            top_k=self.top_k + self.shared_experts,
            shared_experts=0,
        )


_BLOCK_FP8 = Needs(
    scheme=Scheme(
        *("fp8", Scales.BLOCK, (128, 128), "fp8 in groups of 128"),
        source="its checkpoint's weight_block_size=[128, 128]",
    )
)
_MXFP4 = Scheme("mxfp4", Scales.GROUP, (1, 32), source="its checkpoint's quant_method=mxfp4")

# Dimensions and formats as in each model's published config.json.
PRESETS = {
    model.name: model
    for model in (
        Model(DEFAULT_MODEL, 7168, 2048, 384, 8, shared_experts=1),
        Model("deepseek-v3", 7168, 2048, 256, 8, 1, _BLOCK_FP8, "deepseek_v3"),
        Model("deepseek-r1", 7168, 2048, 256, 8, 1, _BLOCK_FP8, "deepseek_v3"),
        Model("qwen3-235b-a22b", 4096, 1536, 128, 8),
        Model(
            *("gpt-oss-120b", 2880, 2880, 128, 4),
            needs=replace(FAMILIES["gpt_oss"].needs, scheme=_MXFP4),
            family="gpt_oss",
        ),
    )
}


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


def family_of(name: str) -> str:
    """The `model_type` of a model by its name: published config.json files give it as their name."""
    return PRESETS[name].family if name in PRESETS else name


def requantised(name: str, needs: Needs | None) -> Needs:
    """A model's needs with its experts in a backend's numbers.

    Raises:
        UserError: they are in no numbers of their own.
    """
    if needs is None or needs.scheme is None:
        raise UserError(f"nothing is known of a quantised checkpoint of {name}: leave out --requantised")
    return replace(needs, scheme=None)


def known_needs(name: str) -> Needs | None:
    """What a model of that name needs, without a config.json: a preset's, or what its family computes."""
    name = name.removesuffix(FUSED_SHARED)
    if name in PRESETS:
        return PRESETS[name].needs
    family = FAMILIES.get(name)
    return family.needs if family is not None and family.needs != PLAIN else None


def from_hf_config(path: Path) -> Model:
    """Reads a Hugging Face `config.json`, or a checkpoint's folder; see `autotune.problem.model_config`.

    Raises:
        UserError: the file cannot be read, is of a dense model, contradicts itself, or has what no layer here
            is.
    """
    from autotune.problem.model_config import read_layer  # no other model needs it

    return Model(**read_layer(path / "config.json" if path.is_dir() else path))
