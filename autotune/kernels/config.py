"""The knobs of the two stages, typed. `search_spaces/triton/` says which values are tried."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Protocol, Self

from autotune.errors import UserError


class Dims(Protocol):
    """What a kernel must know of a layer; `LayerDims` and `autotune.problem.layer.Layer` both have it."""

    @property
    def model_dim(self) -> int: ...
    @property
    def inter_dim(self) -> int: ...
    @property
    def experts(self) -> int: ...
    @property
    def top_k(self) -> int: ...


@dataclass(frozen=True)
class LayerDims:
    """Dimensions of one GPU's share of an MoE layer.

    Attributes:
        model_dim: hidden size, even.
        inter_dim: an expert's intermediate size on this GPU, even.
        experts: routed experts.
        top_k: experts per token visits.
    """

    model_dim: int
    inter_dim: int
    experts: int
    top_k: int

    def __post_init__(self) -> None:
        for name in ("model_dim", "inter_dim", "experts", "top_k"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}: it must be positive")
        if self.model_dim % 2 or self.inter_dim % 2:
            raise UserError(
                f"model_dim {self.model_dim} and inter_dim {self.inter_dim} must be even:"
                " INT4 weights come in pairs"
            )


@dataclass(frozen=True)
class _Knobs:
    """Knobs that both stages have.

    Attributes:
        tile_m: rows of a block, the sort's block size; equal in both stages of a layer. 8 serves up to 8
            tokens, and needs NVIDIA.
        tile_n: weight rows that a program computes (stage 1: half of them gate, half up).
        tile_k: values of K a step; half as many bytes.
        split_k: programs that share a tile's K.
        group: blocks that run through an n tile before the next one.
        num_warps: warps (waves) a program.
        num_stages: depth of the software pipeline.
        w_cache: how the weights are loaded: "none" (Triton's default), "cg" (past L1), "first" (first to
            leave L2).
        xcds: chiplets that neighbouring programs are kept together on; None: dispatch order (AMD).
        waves_per_eu: occupancy that the compiler aims at; None: its own choice (AMD).
        matrix_instr_nonkdim: MFMA shape; None: the compiler's own choice (AMD).
        kpack: K elements packed a thread; None: the compiler's own choice (AMD).
        sched_strategy: LLVM's `amdgpu-sched-strategy`; None: LLVM's default (AMD).
        buffer_loads: tell the compiler which tensors end below 2 GiB, so that it reads them by buffer loads;
            None: do not (AMD).
        pdl: programmatic dependent launch; None: off (NVIDIA, sm_90 on).
    """

    tile_m: int = 16
    tile_n: int = 64
    tile_k: int = 256
    split_k: int = 1
    group: int = 1
    num_warps: int = 4
    num_stages: int = 3
    w_cache: str = "none"
    xcds: int | None = None
    waves_per_eu: int | None = None
    matrix_instr_nonkdim: int | None = None
    kpack: int | None = None
    sched_strategy: str | None = None
    buffer_loads: bool | None = None
    pdl: bool | None = None

    @classmethod
    def of(cls, knobs: Mapping[str, Any]) -> Self:
        """The config that a mapping spells; a knob it leaves out takes its default above.

        Raises:
            UserError: an unknown knob, or a value of the wrong type.
        """
        known = {field.name: field for field in fields(cls)}
        for name, value in knobs.items():
            if name not in known:
                raise UserError(f"{name} is no knob of {cls.__name__}: it has {', '.join(known)}")
            if not _fits(known[name].default, value):
                raise UserError(f"{name}={value!r} of {cls.__name__} has the wrong type")
        return cls(**knobs)

    def knobs(self) -> dict[str, Any]:
        """The knobs by name; unset ones are None."""
        return asdict(self)


@dataclass(frozen=True)
class Stage1Config(_Knobs):
    """Knobs of stage 1; see `_Knobs`.

    Attributes:
        requantise: "launch": a launch of its own quantises what stage 1 computes for stage 2; "last": the
            program that is last at a block's rows does, to the same bits.
        prefetch: bytes of each weight row that a program asks L2 for before the sort has ended; None: none
            (needs pdl).
    """

    requantise: str = "launch"
    prefetch: int | None = None

    def __post_init__(self) -> None:
        if self.requantise not in ("launch", "last"):
            raise UserError(f"requantise={self.requantise!r} is unknown: use launch or last")
        bytes_ = self.prefetch
        if bytes_ is not None and (bytes_ < 128 or bytes_ & (bytes_ - 1)):
            raise UserError(f"prefetch={bytes_}: it must be a power of two, 128 or more, or unset")


@dataclass(frozen=True)
class Stage2Config(_Knobs):
    """Knobs of stage 2; see `_Knobs`.

    Attributes:
        reduce: how the sum over a token's experts is made. "loop": in registers, a program walks over all
            blocks (at most `sort.TOKEN_ROWS` tokens, split_k and group must be 1); "arrive": float32 partial
            sums, added in slot order by the last program to arrive, deterministic; "atomic": float32 atomic
            adds, rounded to bfloat16 by the last to arrive, in no fixed order.
        split_blocks: programs of "loop" that share the blocks of an n tile, more of them for the same work; 1
            otherwise.
        partials: what "arrive" keeps an expert's part of a sum in: "float32", or "bfloat16", which is half as
            much to write and read, and one rounding more (split_k 1).
    """

    reduce: str = "arrive"
    split_blocks: int = 1
    partials: str = "float32"

    def __post_init__(self) -> None:
        if self.reduce not in ("loop", "arrive", "atomic"):
            raise UserError(f"reduce={self.reduce!r} is unknown: use loop, arrive or atomic")
        if self.reduce == "loop" and (self.split_k != 1 or self.group != 1):
            raise UserError("reduce=loop walks over all blocks in one program: split_k and group must be 1")
        if self.split_blocks < 1 or (self.reduce != "loop" and self.split_blocks != 1):
            raise UserError(
                f"split_blocks={self.split_blocks}: it must be 1 or more, and 1 unless reduce=loop"
            )
        if self.partials not in ("float32", "bfloat16"):
            raise UserError(f"partials={self.partials!r} is unknown: use float32 or bfloat16")
        if self.partials == "bfloat16" and (self.reduce != "arrive" or self.split_k != 1):
            raise UserError("partials=bfloat16 needs reduce=arrive and split_k=1")


def _fits(default: Any, value: Any) -> bool:
    if default is None:  # a knob that may be unset; which of the two types it has is the compiler's to refuse
        return value is None or isinstance(value, bool | int | str)
    return type(value) is type(default)
