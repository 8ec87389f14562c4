"""How far a correct output may be from its reference, and how far one is."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from autotune.measure.runtime import Path

if TYPE_CHECKING:
    import torch

BF16 = 1.66e-3
"""RMS relative error of rounding to bfloat16: u / sqrt(3) with u = 2^-8, averaged over the mantissa."""

ROOM = 2.0
"""A correct kernel stays at half of its bound."""

TILE = 16
"""Elements of a row that are judged together; one wrong element among them is 25 % of their norm."""

TILE_ROOM = 5.0
"""What a single tile may deviate, in bounds: of 16 roundings, the worst of a million such tiles."""


def bound(path: Path, simulated: float) -> float:
    """Greatest ||out - reference|| / ||reference|| of a correct kernel with these roundings, times `ROOM`.

    The accumulators are exact integers. Errors of the remaining roundings are independent, so their squares
    add up, in units of one bfloat16 rounding of the whole result (`BF16`, 1.66e-3):

    - The output, rounded once, is 1, and for the layer a bfloat16 intermediate is quantised to INT8 again:
      a few values land on the neighbouring integer. How many depends on how values are distributed below
      their row's peak, so both are simulated on the case's own values (`Case.simulated`: 1.7e-3 for a stage,
      6e-3 to 7e-3 for the layer at real size) and handed in.
    - Each expert's contribution, rounded before a float32 sum: 1 more, as the contributions are independent
      of each other and their squares add up to the result's. (At real size: 2.3e-3 = sqrt(2) * 1.66e-3.)
    - n additions onto a bfloat16 output instead: the j-th rounds a sum that has j/n of the square, which
      makes (1 + 2 + ... + n) / n = (n + 1) / 2 in place of the output's 1. (With 8 and rounded
      contributions: sqrt(5.5) * 1.66e-3 = 3.9e-3; simulated at real size 3.3e-3 to 4.3e-3.)
    - Cutting off instead of rounding: errors of up to twice the size, so four times each square.

    Args:
        simulated: relative error of rounding the output, and the intermediate where the path does.
    """
    unit = (4 if path.toward_zero else 1) * BF16**2
    further = ((path.bf16_adds + 1) / 2 - 1 if path.bf16_adds else 0.0) + path.contributions_bf16
    return float(ROOM * (max(simulated**2, unit) + further * unit) ** 0.5)


def to_bf16(x: "torch.Tensor", *, toward_zero: bool) -> "torch.Tensor":
    """float32 values that bfloat16 has: the nearest, or the next towards zero."""
    import torch

    if toward_zero:
        return (x.contiguous().view(torch.int32) & -(1 << 16)).view(torch.float32)
    return x.bfloat16().float()


@dataclass(frozen=True)
class Deviation:
    """How far an output is from its reference.

    Attributes:
        error: ||out - reference|| / ||reference|| over everything; infinity when a value is not finite.
        tile_error: the largest such ratio of a tile.
        row, column: where the tile is.
        not_finite: rows with a value that is not finite: never written, or computed from what was not.
    """

    error: float
    tile_error: float
    row: int
    column: int
    not_finite: int


def deviation(out: "torch.Tensor", reference: "torch.Tensor") -> Deviation:
    """See `deviations`; out [rows, width]."""
    return deviations(out[None], reference[None])[0]


def deviations(outs: "torch.Tensor", references: "torch.Tensor") -> list[Deviation]:
    """Compares outputs with their references, as a whole and by tiles.

    A tile's norm is measured against its reference's, but no less than a quarter of the row's average tile:
    where contributions cancel, rounding is still as large as what it rounded.

    Args:
        outs: floating point [outputs, rows, width].
        references: float32 [outputs, rows, width].
    """
    import torch

    count, rows, width = references.shape
    finite = torch.isfinite(outs)
    difference = (outs.float() - references).square()
    square = references.square()
    # The last tile of a width that is no multiple is filled up with zeros: it is judged on what it has.
    pad = (0, -width % TILE)
    tiles = torch.nn.functional.pad(difference, pad).view(count, rows, -1, TILE).sum(dim=3)
    norms = torch.nn.functional.pad(square, pad).view(count, rows, -1, TILE).sum(dim=3)
    floor = norms.mean(dim=2, keepdim=True) / 16
    # A token whose every value is zero must come out as zeros.
    ratio = (tiles / torch.maximum(norms, floor).clamp(min=1e-30)).sqrt()
    worst, at = ratio.flatten(1).max(dim=1)
    errors = (difference.sum(dim=(1, 2)) / square.sum(dim=(1, 2))).sqrt()
    # One transfer: each waits for the device.
    figures = torch.stack(
        [finite.all(dim=2).all(dim=1).double(), errors.double(), worst.double(), at.double()]
    )
    made = []
    for index, (whole, error, tile_error, place) in enumerate(figures.T.tolist()):
        if whole:
            row, tile = divmod(int(place), ratio.shape[2])
            made.append(Deviation(error, tile_error, row, tile * TILE, 0))
        else:
            made.append(_not_finite(finite[index]))
    return made


def _not_finite(finite: "torch.Tensor") -> Deviation:
    broken = ~finite.all(dim=1)
    row = int(broken.nonzero()[0])
    column = int((~finite[row]).nonzero()[0])
    return Deviation(float("inf"), float("inf"), row, column, int(broken.sum()))
