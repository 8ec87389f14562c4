"""Bounds how far a correct output may be from its reference, and computes how far one is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autotune.protocol.runtime import Path

if TYPE_CHECKING:
    import torch

BF16 = 1.66e-3
"""RMS relative error of rounding to bfloat16: u / sqrt(3) with u = 2^-8, averaged over the mantissa."""

ROOM = 2.0
"""A correct kernel stays at half of its bound."""

_A_SCALE = 1.37
"""Stands for any scale, which is not a power of two: a value is rounded once before it and once after."""

TILE = 16
"""Elements of a row that are judged together; one wrong element among them is 25 % of their norm."""

TILE_ROOM = 5.0
"""What a single tile may deviate, in bounds: of 16 roundings, the worst of a million such tiles."""


def rounding(path: Path) -> float:
    """RMS relative error of one bfloat16 rounding as the path makes it: cut off, up to twice the size."""
    return (2 if path.toward_zero else 1) * BF16


def bound(path: Path, simulated: float) -> float:
    """Greatest ||out - reference|| / ||reference|| of a correct kernel with these roundings, times `ROOM`.

    The roundings are independent, so their squares add up. The path up to the output is simulated, on the
    case's own values (`Case.simulated`), and handed in: gate and up, SiLU, the product; the sums, where the
    accumulators are narrow; and for a layer that is judged as a whole, the integers or FP8 values that flip
    because the intermediate was rounded. How many do depends on how values are distributed below their row's
    peak. What is left is in units of one bfloat16 rounding of the whole result (`BF16`, 1.66e-3):

    - Each expert's contribution, rounded before a float32 sum: 1 more, as the contributions are independent
      of each other and their squares add up to the result's. (At real size: 2.3e-3 = sqrt(2) * 1.66e-3.)
    - The same of a contribution that s slices along K are added up to in bfloat16: a slice has 1/s of the
      square, so rounding all of them makes 1, and the sums after the second to the last (2 + ... + s) / s.
      One more where each was rounded before its scale, too. (humming by channel, at real size: 2.87e-3.)
    - n additions onto a bfloat16 output instead: the j-th rounds a sum that has j/n of the square, which
      makes (1 + 2 + ... + n) / n = (n + 1) / 2 in place of the output's 1. (With 8 and rounded
      contributions: sqrt(5.5) * 1.66e-3 = 3.9e-3; simulated at real size 3.3e-3 to 4.3e-3.)
    - Cutting off instead of rounding: errors of up to twice the size, so four times each square.

    Args:
        simulated: relative error of the path up to the output, its rounding included.
    """
    unit = rounding(path) ** 2
    further = (path.bf16_adds + 1) / 2 - 1 if path.bf16_adds else 0.0
    if path.contributions_bf16:
        sums = (path.slices + 1) / 2 - 1 / path.slices  # 0 of one slice, which is rounded once
        further += 1 + sums + path.scaled_bf16
    return float(ROOM * (max(simulated**2, unit) + further * unit) ** 0.5)


def to_bf16(x: "torch.Tensor", *, toward_zero: bool) -> "torch.Tensor":
    """float32 values that bfloat16 has: the nearest, or the next towards zero; of any shape."""
    import torch

    if toward_zero:
        return (x.contiguous().view(torch.int32) & -(1 << 16)).view(torch.float32)
    return x.bfloat16().float()


def simulate_stage1(gate_up: "torch.Tensor", path: Path, draw: int = 0) -> "torch.Tensor":
    """Stage 1's output by the roundings of a path.

    Args:
        gate_up: float32 [slots, 2 * inter_dim], the exact sums.
        draw: seed of what narrow accumulators add. Their error grows with a value, and with the partial sums
            on the way to it (on an H100, K = 7168: 1.1e-3 of a value, and 0.4 of that of its row's RMS).

    Returns:
        float32 [slots, inter_dim], bfloat16 values.
    """
    import torch

    from autotune.kernels.reference import silu

    def rounded(x: "torch.Tensor") -> "torch.Tensor":
        return to_bf16(x, toward_zero=path.toward_zero)

    if path.sums:
        generator = torch.Generator(gate_up.device).manual_seed(draw)
        noise = torch.randn(gate_up.shape, device=gate_up.device, generator=generator)
        square = gate_up.square()
        gate_up = gate_up + path.sums * noise * (square + square.mean(dim=1, keepdim=True) / 6).sqrt()

    def finished(x: "torch.Tensor") -> "torch.Tensor":
        return rounded(rounded(x / _A_SCALE) * _A_SCALE) if path.scaled_bf16 else rounded(x)

    if path.gate_up_bf16:
        sliced = path.slices > 1
        gate_up = _sliced(gate_up, path.slices, draw, finished, rounded) if sliced else finished(gate_up)
    gate, up = gate_up.chunk(2, dim=1)
    activated = silu(gate)
    return rounded((rounded(activated) if path.silu_bf16 else activated) * up)


def _sliced(
    total: "torch.Tensor",
    slices: int,
    draw: int,
    finished: "Callable[[torch.Tensor], torch.Tensor]",
    rounded: "Callable[[torch.Tensor], torch.Tensor]",
) -> "torch.Tensor":
    """A sum made of so many random parts, each of like size, added up one by one and rounded each time.

    Args:
        finished: makes a part what the kernel adds.
    """
    import torch

    generator = torch.Generator(total.device).manual_seed(draw)
    size = total.square().mean(dim=1, keepdim=True).sqrt() / slices**0.5
    shape = (slices, *total.shape)
    parts = torch.randn(shape, device=total.device, generator=generator) * size
    parts += (total - parts.sum(dim=0)) / slices
    summed = finished(parts[0])
    for part in parts[1:]:
        summed = rounded(summed + finished(part))
    return summed


@dataclass(frozen=True)
class Deviation:
    """How far an output is from its reference.

    Attributes:
        error: ||out - reference|| / ||reference|| over everything; infinity when a value is not finite.
        tile_error: such a ratio of the tile that is worst, its row's excuse taken into account.
        row, column: where the tile is.
        not_finite: rows with a value that is not finite: never written, or computed from what was not.
        slack: by how much its row's excuse raises the tile's bound; 1: it has none.
    """

    error: float
    tile_error: float
    row: int
    column: int
    not_finite: int
    slack: float = 1.0


@dataclass(frozen=True, eq=False)
class Expected:
    """What is judged by.

    Attributes:
        reference: float32 [rows, width].
        limit: of the relative error.
        slack: float32 [rows] or [rows, tiles], see `deviations`.
    """

    reference: "torch.Tensor"
    limit: float
    slack: "torch.Tensor | None" = None

    def share(self, deviation: Deviation) -> float:
        """How much of its bound, or of its worst tile's, an output takes; above 1 it is refused."""
        of_tile = deviation.tile_error / (TILE_ROOM * self.limit * deviation.slack)
        return max(deviation.error / self.limit, of_tile)


def deviation(out: "torch.Tensor", reference: "torch.Tensor") -> Deviation:
    """See `deviations`; out [rows, width]."""
    return deviations(out[None], reference[None])[0]


def deviations(
    outs: "torch.Tensor", references: "torch.Tensor", slack: "torch.Tensor | None" = None
) -> list[Deviation]:
    """Compares outputs with their references, as a whole and by tiles.

    A tile's norm is measured against its reference's, but no less than a quarter of the row's average tile:
    where contributions cancel, rounding is still as large as what it rounded.

    Args:
        outs: floating point [outputs, rows, width].
        references: float32 [outputs, rows, width].
        slack: float32 [outputs, rows], by how much more a row's tiles may deviate than others, or
            [outputs, rows, tiles], by how much more each may; None: 1.
    """
    import torch

    finite = torch.isfinite(outs)
    difference = (outs.float() - references).square()
    square = references.square()
    if slack is None:
        slack = torch.ones(references.shape[:2], device=outs.device)
    ratio = (by_tile(difference) / measured_against(references)).sqrt()
    slack = (slack if slack.dim() == 3 else slack[..., None]).expand_as(ratio)
    worst, at = (ratio / slack).flatten(1).max(dim=1)
    errors = (difference.sum(dim=(1, 2)) / square.sum(dim=(1, 2)).clamp(min=1e-30)).sqrt()
    of_worst = slack.flatten(1).gather(1, at[:, None])[:, 0]
    # One transfer: each waits for the device.
    columns = (finite.all(dim=2).all(dim=1), errors, worst, at, of_worst)
    summary = torch.stack([column.double() for column in columns], dim=1)
    compared = []
    for index, (whole, error, tile_error, place, more) in enumerate(summary.tolist()):
        if whole:
            row, tile = divmod(int(place), ratio.shape[2])
            compared.append(Deviation(error, tile_error * more, row, tile * TILE, 0, more))
        else:
            compared.append(_not_finite(finite[index]))
    return compared


def by_tile(values: "torch.Tensor") -> "torch.Tensor":
    """[..., width] -> [..., tiles]: sums over each tile; the last may have fewer elements."""
    import torch

    padded = torch.nn.functional.pad(values, (0, -values.shape[-1] % TILE))
    return padded.view(*values.shape[:-1], -1, TILE).sum(dim=-1)


def measured_against(references: "torch.Tensor") -> "torch.Tensor":
    """[..., width] -> [..., tiles]: the square of what a tile's deviation is a share of.

    A token whose every value is zero must come out as zeros.
    """
    import torch

    norms = by_tile(references.square())
    return torch.maximum(norms, norms.mean(dim=-1, keepdim=True) / 16).clamp(min=1e-30)


def tile_slack(reference: "torch.Tensor", draws: "Sequence[torch.Tensor]", limit: float) -> "torch.Tensor":
    """By how much more each tile of an output may deviate, by simulations of its path.

    Where gate and up are sums that were rounded on the way, their errors are as large as the sums were, not
    as what is left of them: of silu(gate) * up a large gate makes any error of a small up large, in a tile
    that has little else. 16 elements are too few for that to average out: simulated, one tile in some hundred
    thousand is beyond `TILE_ROOM` bounds, and on an H100 one was.

    Args:
        reference: float32 [rows, width].
        draws: as many simulations of it.
        limit: of the relative error of everything.

    Returns:
        float32 [rows, tiles], 1 and more.
    """
    import torch

    squares = torch.stack([by_tile((draw - reference).square()) for draw in draws]).mean(dim=0)
    expected = (squares / measured_against(reference)).sqrt()
    return (ROOM * expected / limit).clamp(min=1)


def _not_finite(finite: "torch.Tensor") -> Deviation:
    broken = ~finite.all(dim=1)
    row = int(broken.nonzero()[0])
    column = int((~finite[row]).nonzero()[0])
    return Deviation(float("inf"), float("inf"), row, column, int(broken.sum()))


@dataclass(frozen=True, eq=False)
class Part:
    """A part of what launches of equal shapes left, with what it is judged by.

    Attributes:
        of: what its error is of, for messages; empty: of everything.
    """

    of: str
    outs: "Sequence[torch.Tensor]"
    expected: Sequence[Expected]

    def deviations(self) -> list[Deviation]:
        """How far each is off."""
        import torch

        references = torch.stack([each.reference for each in self.expected])
        even = torch.ones(references.shape[1], device=references.device)
        slack = torch.stack([even if each.slack is None else each.slack for each in self.expected])
        outs = torch.stack([out.reshape(references.shape[1:]) for out in self.outs])
        return deviations(outs, references, slack)
