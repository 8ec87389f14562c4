"""Translates between our configs and those of SGLang's and vLLM's Triton fused MoE, and names quantisations.

Our spaces call a tile's sides `tile_m`, `tile_n`, `tile_k`, as all spaces do; the engines' kernels and files
call them `BLOCK_SIZE_M` and so on. This module is the one place that translates.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from autotune.errors import UserError
from autotune.space.config import Config, Value

ENGINE_NAMES: Final[Mapping[str, str]] = {
    "tile_m": "BLOCK_SIZE_M",
    "tile_n": "BLOCK_SIZE_N",
    "tile_k": "BLOCK_SIZE_K",
    "group_m": "GROUP_SIZE_M",
    "num_warps": "num_warps",
    "num_stages": "num_stages",
    "waves_per_eu": "waves_per_eu",
    "matrix_instr_nonkdim": "matrix_instr_nonkdim",
    "kpack": "kpack",
}
"""Our knob to the engines' key, in the order in which their own files have them."""

HIP_ONLY: Final = frozenset({"waves_per_eu", "matrix_instr_nonkdim", "kpack"})
"""Compile options that Triton's CUDA backend does not know: a launch with one raises there."""


@dataclass(frozen=True)
class Quantisation:
    """How an engine holds the experts: part of the name of the file that it looks for.

    Attributes:
        dtype: the engine's selector, e.g. `int8_w8a8`; None: bfloat16.
        block_shape: (N, K) of a block with one scale. (0, group): groups along K, which are in no name.
        per_channel: activations by token, weights by output channel (SGLang names it).
    """

    dtype: str | None
    block_shape: tuple[int, int] | None = None
    per_channel: bool = False

    @property
    def packed(self) -> bool:
        """Two weights share a byte."""
        return (self.dtype or "").startswith("int4")

    @property
    def weight_only(self) -> bool:
        """Weights are quantised, activations are bfloat16."""
        return (self.dtype or "").endswith("a16")

    @property
    def named_block(self) -> tuple[int, int] | None:
        """The block shape as a file name has it: both engines leave it out unless both sides are set."""
        return self.block_shape if self.block_shape and all(self.block_shape) else None


def entry(config: Config, *, split_k: bool = False) -> dict[str, int]:
    """One entry of an engine's file, which is also what its kernel is launched with.

    An unset knob is left out: the engine's launch then leaves it to Triton.

    Args:
        split_k: with `"SPLIT_K": 1`, which vLLM's kernel for grouped INT4 and INT8 weights demands and
            SGLang's refuses.

    Raises:
        UserError: the config has a knob that no engine's file has.
    """
    unknown = sorted(config.keys() - ENGINE_NAMES.keys())
    if unknown:
        raise UserError(
            f"knob {unknown[0]} has no place in a fused-MoE file: export winners of backend sglang or vllm"
        )
    written = {
        theirs: _whole(ours, config[ours])
        for ours, theirs in ENGINE_NAMES.items()
        if config.get(ours) is not None
    }
    return written | {"SPLIT_K": 1} if split_k else written


def config_of(raw: Mapping[str, Any]) -> Config:
    """The config that an entry of an engine's file is; keys that are no knobs of ours are dropped."""
    return Config({ours: raw[theirs] for ours, theirs in ENGINE_NAMES.items() if theirs in raw})


def _whole(name: str, value: Value) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise UserError(f"{name}={value!r} is not a whole number: correct the search space")
    return value
