"""The JSON file that `autotune export` writes and the operator reads: which config at how many tokens.

    {"format": "autotune-moe-w4a8", "version": 1,
     "gpu": {"name": "NVIDIA H100 80GB HBM3", "compute_units": 132},
     "model_dim": 7168, "inter_dim": 256, "experts": 384, "top_k": 8,
     "entries": [{"tokens": 4, "stage1": {"tile_m": 16, ...}, "stage2": {"tile_m": 16, ...}}, ...]}

No torch and no Triton here.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from autotune.errors import UserError
from autotune.kernels.config import LayerDims, Stage1Config, Stage2Config

FORMAT = "autotune-moe-w4a8"
VERSION = 1
LOOP_TOKENS = 16
"""Tokens up to which stage 2 may walk over all blocks (`sort.TOKEN_ROWS`)."""


@dataclass(frozen=True)
class TunedLayer:
    """Configs of one layer's two stages; they share tile_m."""

    stage1: Stage1Config
    stage2: Stage2Config

    def __post_init__(self) -> None:
        if self.stage1.tile_m != self.stage2.tile_m:
            raise UserError(
                f"stage1.tile_m is {self.stage1.tile_m} and stage2.tile_m is {self.stage2.tile_m}:"
                " the stages share the sort's blocks, give both the same"
            )

    def serves(self, tokens: int) -> bool:
        """Whether the config's kernels can compute `tokens` tokens."""
        few_rows = self.stage1.tile_m < LOOP_TOKENS and tokens > self.stage1.tile_m
        return not few_rows and (self.stage2.reduce != "loop" or tokens <= LOOP_TOKENS)


@dataclass(frozen=True)
class Gpu:
    """What tells a GPU from others that run the same code: an H100 and an H200 are both sm_90.

    Attributes:
        name: as torch has it, or `offline:` and part of it where nothing was measured.
        compute_units: CUs or SMs of the device or partition.
    """

    name: str
    compute_units: int

    def __str__(self) -> str:
        return f"{self.name} ({self.compute_units} compute units)"

    def is_same(self, other: "Gpu") -> bool:
        """Whether what was tuned for this one holds on `other`, a GPU that is there."""
        if self.name.startswith("offline:"):
            part = self.name.removeprefix("offline:")
            alike = part in other.name.lower().replace(" ", "")
        else:
            alike = self.name == other.name
        return alike and self.compute_units == other.compute_units


@dataclass(frozen=True)
class TunedConfigs:
    """A file's content.

    Attributes:
        dims: the layer that the entries were tuned for.
        entries: config by number of tokens.
        gpu: that they were tuned for; None: the file does not tell.
    """

    dims: LayerDims
    entries: Mapping[int, TunedLayer]
    gpu: Gpu | None = None

    def refusal(self, here: Gpu) -> str | None:
        """Why the entries are not for the GPU that is here, as the end of a sentence; None: they are."""
        if self.gpu is None:
            return "does not say for which GPU: export it again"
        if not self.gpu.is_same(here):
            return f"is for {self.gpu}, and this is {here}: tune on this GPU"
        return None

    def at(self, tokens: int, arch: str) -> TunedLayer:
        """The entry for `tokens`, else that of the next larger count up to twice as many, else the default.

        Args:
            arch: of the GPU, as `default_config` takes it.

        Neighbouring counts agree on what is fast, distant ones do not: an entry tuned for decode must not
        slow prefill down. An entry that cannot serve so many tokens gives way to the default as well.
        """
        near = [count for count in self.entries if tokens <= count <= 2 * tokens]
        if near and self.entries[min(near)].serves(tokens):
            return self.entries[min(near)]
        return default_config(tokens, self.dims, arch)


def default_config(tokens: int, dims: LayerDims, arch: str) -> TunedLayer:
    """What is used where nothing was tuned: the defaults of `search_spaces/triton/`, which say why.

    Args:
        arch: as `autotune.machine.devices` spells it: `gfx942`, `sm_90`, ...
    """
    few, nvidia = tokens <= LOOP_TOKENS, arch.startswith("sm_")
    short, slots = dims.inter_dim <= 512, tokens * dims.top_k
    tile_m = _tile_m(tokens, dims)
    if nvidia and tokens <= 8 and slots >= 16 and not short and 2048 <= dims.model_dim < 6144:
        tile_m = 8
    shared: dict[str, Any] = {
        "tile_m": tile_m,
        "pdl": True if arch.startswith(("sm_9", "sm_10", "sm_12")) else None,
        "buffer_loads": True if arch.startswith("gfx9") else None,
    }
    stage1 = Stage1Config(tile_n=64, tile_k=512, num_stages=3, **shared)
    if dims.model_dim < 1024:
        stage1 = replace(stage1, tile_k=256, num_stages=2)
    elif tile_m == 64:
        stage1 = replace(stage1, tile_k=256 if nvidia else 512, num_stages=2)
    elif nvidia and tokens <= 8 and slots > 16 and dims.model_dim >= 6144:
        stage1 = replace(stage1, w_cache="first")
    elif few and nvidia and dims.model_dim >= 6144:
        stage1 = replace(
            stage1, tile_n=32, num_warps=2, num_stages=6, w_cache="first" if tokens <= 8 else "none"
        )
    elif few and nvidia and dims.model_dim >= 2048:
        stage1 = replace(stage1, tile_n=32, tile_k=1024, num_warps=2, w_cache="first")
    if shared["pdl"] and tokens <= 8 and dims.model_dim >= 2048:
        stage1 = replace(stage1, prefetch=1024 if slots <= 16 and dims.model_dim >= 6144 else 256)
    stage2 = Stage2Config(tile_n=64, tile_k=256, num_stages=2, **shared)
    if not nvidia:
        return TunedLayer(stage1, stage2)
    if tile_m == 64:
        stage2 = replace(stage2, tile_n=128, group=16, partials="bfloat16")
    elif not few:
        tile_n = 256 if tile_m == 16 and short else 128
        stage2 = replace(stage2, tile_n=tile_n, w_cache="first", partials="bfloat16")
    elif short and slots <= 16 and dims.model_dim >= 6144:
        stage2 = replace(stage2, reduce="loop", num_stages=8)
    elif short and slots > 8:
        stage2 = replace(stage2, reduce="loop", split_blocks=3, num_warps=2, num_stages=6)
    return TunedLayer(stage1, stage2)


def _tile_m(tokens: int, dims: LayerDims) -> int:
    """Rows of a block by the slots that an expert has on average: others are padding."""
    slots = tokens * dims.top_k
    if slots > 48 * dims.experts and tokens >= 64:
        return 64
    return 32 if slots > 24 * dims.experts and tokens >= 32 else 16


@lru_cache(maxsize=16)
def load_tuned(path: Path) -> TunedConfigs:
    """Read a file; once a path and process.

    Raises:
        UserError: it cannot be read, or is not of the format above.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"{path}: {error.strerror}: give the JSON file that `autotune export` wrote"
        ) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}): export it again") from error
    return parse_tuned(raw, str(path))


def parse_tuned(raw: Any, where: str) -> TunedConfigs:
    """The content of a parsed file.

    Args:
        where: what to call the file in an error.

    Raises:
        UserError: not of the format above.
    """
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        raise UserError(f"{where} is not an {FORMAT} file: give the JSON file that `autotune export` wrote")
    if raw.get("version") != VERSION:
        raise UserError(f"{where} has version {raw.get('version')}: this operator reads version {VERSION}")
    try:
        dims = LayerDims(**{name: int(raw[name]) for name in ("model_dim", "inter_dim", "experts", "top_k")})
        entries = {
            int(entry["tokens"]): TunedLayer(
                Stage1Config.of(entry["stage1"]), Stage2Config.of(entry["stage2"])
            )
            for entry in raw["entries"]
        }
        told = raw.get("gpu")
        gpu = None if told is None else Gpu(str(told["name"]), int(told["compute_units"]))
    except UserError as error:  # of a knob, which does not know where it stands
        raise UserError(f"{where}: {error}: export it again") from error
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(f"{where} is incomplete ({error!r}): export it again") from error
    if not entries:
        raise UserError(f"{where} has no entries: export it again")
    return TunedConfigs(dims, entries, gpu)
