"""What the model that is served needs of a bundle: its kernels, and the names that its engine asks by."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from autotune.engines.moe import fused_by_sglang
from autotune.errors import UserError
from autotune.problem.arithmetic import Scales
from autotune.problem.layer import Layer
from autotune.problem.models import FUSED_SHARED, Model, family_of, known_needs
from autotune.protocol.bundle import Bundle
from autotune.protocol.legality import require_computed
from autotune.protocol.registry import load_backend


@dataclass(frozen=True)
class Served:
    """A bundle's layer, as the model that is served has it.

    Attributes:
        layer: with the model's needs; None: the manifest has none, and no model was told.
        family: `model_type` of the model.
        reason: why its kernels are not the model's, a sentence; "": they are.
    """

    layer: Layer | None
    family: str
    reason: str

    @classmethod
    def of(cls, bundle: Bundle, model: Model | None) -> "Served":
        """The model as told, else as it is known by the bundle's name for it.

        Raises:
            UserError: the model cannot be split as the bundle's layer is.
        """
        raw, name = bundle.manifest.get("layer"), bundle.manifest.get("backend")
        if not isinstance(raw, dict) or not isinstance(name, str):
            return cls(None, "", "")
        kept = Layer(
            **{key: raw[key] for key in ("model", "model_dim", "inter_dim", "experts", "top_k", "tp")}
        )
        layer, family = kept, family_of(kept.model)
        if model is not None:
            shared = kept.model.endswith(FUSED_SHARED) and model.shared_experts > 0
            described = model.with_fused_shared_experts() if shared else model
            layer, family = Layer.of(described, kept.tp), "" if shared else model.family
            if replace(layer, model=kept.model) != kept:
                return cls(
                    layer, family, f"model: it is {layer.key}, and the bundle was tuned for {kept.key}"
                )
        else:
            needs = known_needs(kept.model)
            if needs is not None and bundle.manifest.get("requantised"):
                needs = replace(needs, scheme=None)
            layer = replace(kept, needs=needs)
        try:
            require_computed(load_backend(name), name, layer)
        except UserError as error:
            return cls(layer, family, f"model: {error}")
        return cls(layer, family, "")

    def asked(self, engine: str, lookup: Mapping[str, Any]) -> dict[str, Any]:
        """What the engine asks by for this model, in place of what the export meant."""
        layer = self.layer
        if layer is None:
            return {}
        quantisation = dict(lookup["quantisation"])
        scheme = layer.needs.scheme if layer.needs is not None else None
        if scheme is not None and scheme.scales is Scales.BLOCK:
            quantisation.update(block_shape=scheme.block, per_channel=False)
        fused = (
            fused_by_sglang(self.family, layer.experts, quantisation["dtype"]) if engine == "sglang" else 0
        )
        return {
            "experts": layer.experts + fused,
            "model_dim": layer.model_dim,
            "inter_dim": layer.inter_dim,
            "top_k": layer.top_k + fused,
            "quantisation": quantisation,
        }
