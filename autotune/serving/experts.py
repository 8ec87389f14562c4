"""Runs a layer's experts in an engine's process, and says at start-up by which config.

The config of a token count comes from the bundle that AUTOTUNE_MOE_CONFIG names, where it was made for this
layer, GPU and Triton; else it is the operator's default, and a warning says why.
"""

import hashlib
import logging
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from autotune.errors import UserError
from autotune.kernels.config import LayerDims
from autotune.kernels.tuned import Gpu, TunedConfigs, TunedLayer, default_config, load_tuned
from autotune.protocol.bundle import manifest_beside
from autotune.serving.checkpoint import Experts

if TYPE_CHECKING:
    import torch

CONFIG_VARIABLE: Final = "AUTOTUNE_MOE_CONFIG"
INT8_VARIABLE: Final = "AUTOTUNE_W4A8_INT8_FOR_FP8"
"""1: experts whose checkpoint declares FP8 activations run with INT8 ones."""

MOST_TOKENS: Final = 16384
"""Of one call; more are split, since scratch grows with tokens: 1.9 GB at 16,384 of Kimi-K2.5, as much as
other kernels need there for the experts' outputs before their sum. Calls of 4,096 take 29 % longer (H100)."""


def run(
    experts: Experts,
    choice: "Choice",
    x: "torch.Tensor",
    topk_weight: "torch.Tensor",
    topk_ids: "torch.Tensor",
    *,
    absent: bool = False,
) -> "torch.Tensor":
    """A layer's routed experts.

    Args:
        x: bfloat16 [tokens, model_dim].
        topk_weight: [tokens, top_k].
        topk_ids: [tokens, top_k], of this rank's experts.
        absent: ids may be -1: see `autotune.kernels.fused_moe_w4a8`.

    Returns:
        bfloat16 [tokens, model_dim].
    """
    import torch

    from autotune.kernels.operator import fused_moe_w4a8

    def call(part: slice) -> torch.Tensor:
        return fused_moe_w4a8(
            *(x[part], experts.w1, experts.w2, experts.w1_scale, experts.w2_scale),
            *(topk_weight[part].float(), topk_ids[part]),
            config=choice.at(min(len(x) - part.start, MOST_TOKENS)),
            absent=absent,
        )

    if len(x) <= MOST_TOKENS:
        return call(slice(0, len(x)))
    return torch.cat([call(slice(start, start + MOST_TOKENS)) for start in range(0, len(x), MOST_TOKENS)])


class Choice:
    """Which config a layer runs at how many tokens.

    Args:
        tuned: None: the default everywhere.
        arch: as `default_config` takes it.
    """

    def __init__(self, dims: LayerDims, arch: str, tuned: TunedConfigs | None = None) -> None:
        self._dims, self._arch, self.tuned = dims, arch, tuned
        self._known: dict[int, TunedLayer] = {}

    def at(self, tokens: int) -> TunedLayer:
        """The config at a token count: the bundle's where it has one that fits, else the default."""
        if tokens not in self._known:
            tuned = self.tuned
            self._known[tokens] = (
                default_config(tokens, self._dims, self._arch)
                if tuned is None
                else tuned.at(tokens, self._arch)
            )
        return self._known[tokens]


@cache
def chosen(named: str | None, dims: LayerDims, logger: str) -> Choice:
    """The bundle's configs for a layer, told once in the engine's log; the default's where it does not fit.

    Args:
        named: the bundle's file; None: there is none.
        logger: the engine's.
    """
    from autotune.kernels.operator import this_arch, this_gpu

    log, arch = logging.getLogger(logger), this_arch()
    plain = Choice(dims, arch)
    what = f"{dims.experts} experts of {dims.model_dim} x {dims.inter_dim}, top-{dims.top_k}"
    if not named:
        log.info("autotune: %s run the default configs: %s names no bundle", what, CONFIG_VARIABLE)
        return plain
    path = Path(named)
    try:
        tuned = load_tuned(path)
        content = path.read_bytes()
        manifest = manifest_beside(path, content)
    except (UserError, OSError) as error:
        log.warning("autotune: %s run the default configs: %s", what, error)
        return plain
    print_ = f"sha256 {hashlib.sha256(content).hexdigest()[:12]}"
    reason = _misfit(tuned, dims, this_gpu()) or _unmeasured(manifest)
    if reason is not None:
        log.warning("autotune: %s run the default configs: %s (%s) %s", what, path, print_, reason)
        return plain
    counts = ", ".join(map(str, sorted(tuned.entries)))
    log.info(
        "autotune: %s run by %s (%s) at %s tokens, which fits this GPU and Triton; else the default configs",
        *(what, path, print_, counts),
    )
    return Choice(dims, arch, tuned)


def _misfit(tuned: TunedConfigs, dims: LayerDims, gpu: Gpu | None) -> str | None:
    """Why a bundle is not for a layer here, as the end of a sentence; None: it is."""
    if tuned.dims != dims:
        return f"is for {tuned.dims}: tune this layer"
    return None if gpu is None else tuned.refusal(gpu)


def _unmeasured(manifest: Mapping[str, Any]) -> str | None:
    """Why a bundle was not measured with the Triton that is here; None: it was."""
    import triton

    try:
        versions = {str(stack["triton"]) for stack in manifest["environments"].values()}
    except (KeyError, TypeError, AttributeError):
        versions = set()
    if len(versions) != 1:
        return "does not say with which Triton it was measured: keep manifest.json beside it"
    measured_with = versions.pop()
    if measured_with != triton.__version__:
        return f"was measured with Triton {measured_with}, and {triton.__version__} is here: tune again"
    return None
