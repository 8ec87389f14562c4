"""The interface to kernels on a device: launches for the gate and the timer, and the machine under it.

Everything here runs in a measure worker. The driver imports this module for its names alone: torch is
only named in annotations.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from autotune.errors import UserError
from autotune.kernels.formats import Format
from autotune.machine.fingerprint import Fingerprint
from autotune.problem.layer import Layer, Stage
from autotune.protocol.registry import load_backend, named
from autotune.results import LayerConfig
from autotune.space.config import Config

if TYPE_CHECKING:
    import torch


class What(StrEnum):
    """What is launched and timed as one."""

    LAYER = "layer"  # sort, quantise, stage 1, re-quantise, stage 2
    STAGE1 = "stage1"
    STAGE2 = "stage2"
    SPACED = "spaced"  # the layer, after a kernel that does nothing: no layer overlaps the one before


GATED = (What.LAYER, What.STAGE1, What.STAGE2)
"""What has numbers of its own to be judged; the others are launches of the same, otherwise timed."""

Subject = Config | LayerConfig
"""A config of one stage, or of both."""


@dataclass(frozen=True)
class LogicalWeights:
    """One layer's experts before a backend's own packing, on the device; a backend's packed ones, too.

    Two INT4 a byte, as `autotune.kernels.layout` defines it: `unpack_int4` gives the values, -8..7.

    Attributes:
        w1: int8 [experts, 2 * inter_dim, model_dim // 2]; rows are gate, then up.
        w1_scale: float32 [experts, 2 * inter_dim].
        w2: int8 [experts, model_dim, inter_dim // 2].
        w2_scale: float32 [experts, model_dim].
    """

    w1: "torch.Tensor"
    w1_scale: "torch.Tensor"
    w2: "torch.Tensor"
    w2_scale: "torch.Tensor"

    def clone(self) -> "LogicalWeights":
        """A physical copy with the same numbers."""
        return LogicalWeights(*(tensor.clone() for tensor in self._tensors()))

    def digest(self) -> int:
        """Changes when a byte does."""
        import torch

        return sum(
            int(tensor.flatten().view(torch.int16).sum(dtype=torch.int64)) for tensor in self._tensors()
        )

    def _tensors(self) -> "tuple[torch.Tensor, ...]":
        return self.w1, self.w1_scale, self.w2, self.w2_scale


@dataclass(frozen=True)
class Activations:
    """What the tokens bring along, on the device. Shared by all steps of a pass: hot, as in serving.

    Attributes:
        hidden: bfloat16 [tokens, model_dim], the layer's input.
        a1: [tokens, model_dim], stage 1's input: `hidden`, quantised to the runtime's format (`format_of`):
            int8, float8_e4m3fnuz or bfloat16.
        a1_scale: float32 [tokens]; in blocks [tokens, model_dim // BLOCK].
        a2: [tokens, top_k, inter_dim], stage 2's input, of the same dtype.
        a2_scale: float32 [tokens, top_k]; in blocks [tokens, top_k, inter_dim // BLOCK].
    """

    hidden: "torch.Tensor"
    a1: "torch.Tensor"
    a1_scale: "torch.Tensor"
    a2: "torch.Tensor"
    a2_scale: "torch.Tensor"


@dataclass(frozen=True)
class Step:
    """One launch's routing.

    Attributes:
        copy: which physical copy of the weights it reads.
        ids: int32 [tokens, top_k] on the device: slots of that copy, 0..experts-1, distinct in a token; under
            expert parallelism negative where the expert is another GPU's, unlike ones unlike numbers.
        router: float32 [tokens, top_k], the router's weights.
    """

    copy: int
    ids: "torch.Tensor"
    router: "torch.Tensor"


@dataclass(frozen=True)
class Path:
    """The roundings between a GEMM's sums and the output; the gate's bound follows from them.

    Attributes:
        sums: relative error of the sums themselves where the hardware's accumulators are narrower than
            float32 (Hopper's FP8); 0: they are exact, or as good as.
        gate_up_bf16: stage 1 rounds gate and up to bfloat16 before SiLU(gate) * up.
        slices: parts along K whose sums are added up in a GEMM's bfloat16 output one by one, each rounded (a
            stream-K whose workspace is the output); 1: a GEMM's output is rounded once. A GEMM's output is
            gate and up, and an expert's contribution, where these are rounded at all.
        scaled_bf16: where a GEMM's output is rounded, its sum was before it was multiplied by the scale.
        silu_bf16: SiLU(gate) is rounded to bfloat16 before it is multiplied.
        contributions_bf16: stage 2 rounds each expert's contribution to bfloat16 before the sum.
        bf16_adds: additions that are made on a bfloat16 output one by one (atomics); 0: summed in
            float32 and rounded once.
        requantised: a bfloat16 intermediate is on the way, quantised again where the format does (the layer).
        exact_division: where it is quantised again, a tie goes the way that it goes in the reference
            (`formats.quantise`), whose divisions are correctly rounded. Otherwise either way is right.
        toward_zero: bfloat16 values are cut off instead of rounded to the nearest.
    """

    sums: float = 0.0
    gate_up_bf16: bool = False
    slices: int = 1
    scaled_bf16: bool = False
    silu_bf16: bool = False
    contributions_bf16: bool = False
    bf16_adds: int = 0
    requantised: bool = False
    exact_division: bool = False
    toward_zero: bool = False


@dataclass(frozen=True)
class Launch:
    """One captured-able launch with the buffers that it alone writes.

    Attributes:
        run: launches on the current stream; allocates nothing on the host's time, never synchronises.
        output: what is checked. bfloat16; stage 1: [tokens, top_k, inter_dim], stage 2 and layer:
            [tokens, model_dim].
        accumulates: `run` adds into `output`, which must be zeros before each launch that is checked.
        scratch: further buffers of intermediate results that need not hold anything before a launch.
            The gate fills them with NaN, or large integers, so that an earlier launch's partial sum
            cannot stand in for a missing one.
        guards: buffers around `output` that must come out as they went in.
        intermediate: of a layer, stage 1's bfloat16 output [tokens * top_k, inter_dim] as it is left behind,
            before it is quantised; one of `scratch`. With it the gate judges the stages' halves one by one.
    """

    run: Callable[[], None]
    output: "torch.Tensor"
    accumulates: bool = False
    scratch: "tuple[torch.Tensor, ...]" = ()
    guards: "tuple[torch.Tensor, ...]" = ()
    intermediate: "torch.Tensor | None" = None


@dataclass(frozen=True)
class ClockReading:
    """A reading of the device. None: it does not tell."""

    mhz: int | None = None
    throttled: bool = False


class Replay(Protocol):
    """A pass over all steps, ready to be run again and again.

    Attributes:
        method: `graph` or `events`.
    """

    method: str

    def passes(self, samples: int, passes_a_sample: int) -> list[float]:
        """Runs samples * passes_a_sample passes back to back; microseconds a pass, one time a sample."""

    def close(self) -> None:
        """Gives the graph's memory back."""


class Machine(Protocol):
    """The device under a runtime; a stand-in on the CPU in tests.

    Attributes:
        device: what torch calls it: `cuda:0` (ROCm too), `cpu`.
        watched: whether times on it mean that others are there when they are odd.
    """

    device: str
    watched: bool

    def fingerprint(self, backend: str, kernel_source: str) -> Fingerprint:
        """The stack, as it is now."""

    def last_level_cache(self) -> int:
        """Bytes of the cache that weights must be evicted from to be cold."""

    def free_bytes(self) -> int:
        """Memory that can be allocated now."""

    def clock(self) -> ClockReading:
        """Core clock and throttling, now."""

    def identity(self) -> str | None:
        """The GPU's UUID or PCI address; None: it cannot be told from another, or is none."""

    def early(self) -> str | None:
        """Who was on it before this process had put anything there, in words; None: nobody."""

    def neighbours(self) -> str | None:
        """Who is on it now beside this process, in words; None: nobody that can be told."""

    def busy(self) -> float | None:
        """Share of the last second or so in which it worked; None: it is not told."""

    def synchronize(self) -> None:
        """Waits for all launches; raises RuntimeError when one of them has faulted."""

    def replay(self, launches: Sequence[Launch]) -> Replay:
        """Prepares one pass over `launches`, in order: the same kernels on one routing after the other."""


class Runtime(Protocol):
    """A backend's kernels on the device.

    An instance lives in one worker process, which has the environment that the configs it is given need.
    It may keep what it prepared; nothing of it matters after the process is killed.

    Attributes:
        name: the backend's.
    """

    name: str
    machine: Machine

    def kernel_source(self) -> str:
        """Digest of the kernels' source, or the engine's commit."""

    def packed_bytes(self, layer: Layer) -> int:
        """Device bytes of one copy of a layer's weights and scales in this backend's own layout."""

    def prepare(self, layer: Layer, weights: LogicalWeights) -> None:
        """Packs `weights` as copy 0, or uses them as they are; forgets the copies of an earlier layer."""

    def grow(self, copies: int) -> None:
        """Makes sure of so many physical copies; they may hold the same numbers."""

    def digest(self) -> int:
        """Changes when a byte of copy 0 does: a candidate that wrote out of bounds is found out."""

    def serves(self, what: What, config: Subject, tokens: int) -> bool:
        """Whether the config can be launched with so many tokens."""

    def stage(self, stage: Stage, config: Config, inputs: Activations, steps: Sequence[Step]) -> list[Launch]:
        """One launch a step. They share one set of output buffers, as launches do in serving."""

    def layer(self, config: LayerConfig, inputs: Activations, steps: Sequence[Step]) -> list[Launch]:
        """One launch a step of the whole layer, from `inputs.hidden`."""

    def path(self, what: What, config: Subject) -> Path:
        """The roundings that `config` makes at `what`."""


@runtime_checkable
class Formatted(Protocol):
    """A runtime whose kernels multiply something else than INT8 by INT4.

    Attributes:
        format: what the gate's references and operands are made in.
    """

    format: Format


def format_of(runtime: object) -> Format:
    """The numeric format of a runtime: INT8 x INT4 unless it says otherwise."""
    return runtime.format if isinstance(runtime, Formatted) else Format.INT8


@dataclass(frozen=True)
class Output:
    """An output buffer between two guards.

    Attributes:
        tensor: the buffer.
        guards: rows before and after it in the same allocation.
    """

    tensor: "torch.Tensor"
    guards: "tuple[torch.Tensor, ...]" = field(default=())

    @classmethod
    def allocate(cls, shape: tuple[int, ...], device: str, guard_rows: int = 64) -> "Output":
        """A bfloat16 buffer of zeros with `guard_rows` rows of NaN before and after it."""
        import torch

        rows, width = shape[0], torch.Size(shape[1:]).numel()
        whole = torch.full((rows + 2 * guard_rows, width), torch.nan, dtype=torch.bfloat16, device=device)
        inner = whole[guard_rows : guard_rows + rows]
        inner.zero_()
        return cls(inner.view(shape), (whole[:guard_rows], whole[guard_rows + rows :]))


def load_runtime(name: str) -> Runtime:
    """The runtime of a backend by the backend's name, or what `module:function` makes: see `registry.named`.

    Raises:
        UserError: there is none, or what it needs is not installed.
    """
    path = name if ":" in name else load_backend(name).runtime
    try:
        make: Any = named(path)
    except ModuleNotFoundError as error:
        missing = error.name or path
        remedy = "correct its name" if path.startswith(missing) else f"install it: pip install {missing}"
        raise UserError(f"{name} cannot run here, {missing} is not installed: {remedy}") from error
    except (ImportError, SyntaxError, AttributeError) as error:
        raise UserError(f"{name} cannot run here ({error}): correct {path!r}") from error
    runtime: Runtime = make()
    return runtime
