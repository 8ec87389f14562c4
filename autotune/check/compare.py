"""Compares what a kernel left in its buffers with what it should have, in numpy.

The two criteria of `autotune.measure.gate`: the norm over everything, against a bound that follows from the
path's roundings, and every tile of a few columns of a row, against a multiple of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from autotune.check.operands import Array
from autotune.measure.bounds import TILE, TILE_ROOM, bound
from autotune.protocol.runtime import Path

POISON_BF16 = np.uint16(0x7FDE)  # a NaN that no kernel makes
POISON_F32 = np.uint32(0x7FDEAD5A)
POISON_I32 = np.uint32(0x5EADBEEF)
_F32 = 2e-6  # a few float32 roundings


class WrongOutput(Exception):
    """The numbers are wrong.

    Attributes:
        error: over what was compared; infinite where a value is not finite; None: nothing was.
    """

    def __init__(self, reason: str, error: float | None = None) -> None:
        super().__init__(reason)
        self.error = error


def bf16(values: Array) -> Array:
    """float64 of bfloat16 bits, uint16, of any shape."""
    return (values.astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)


def round_bf16(values: Array) -> Array:
    """float64 of the bfloat16 nearest to each float, ties to even, of any shape."""
    bits = values.astype(np.float32).view(np.uint32)
    return bf16(((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16))


def require_untouched(out: Array, initial: Array | np.uint16, touched: Array, name: str) -> None:
    """Makes sure that nothing but `touched` of an output was written.

    Args:
        out: uint16 [rows, columns], bits of bfloat16.
        initial: what the output held before.
        touched: bool, like `out`.

    Raises:
        WrongOutput: something else was.
    """
    stray = (out != initial) & ~touched
    if stray.any():
        row, column = np.argwhere(stray)[0]
        raise WrongOutput(f"{name}: out[{row}, {column}] was written, which no sampled workgroup owns")


@dataclass
class OutputErrors:
    """Gathers comparisons of one check; `error` is their common relative error."""

    path: Path
    _difference: float = 0.0
    _square: float = 0.0
    _rounding: float = 0.0
    _worst: tuple[float, str] = field(default=(0.0, ""))

    def compare(self, out: Array, reference: Array, where: str) -> None:
        """Compares rows of an output, float64 [rows, columns] each.

        Raises:
            WrongOutput: a value is not finite: never written, or computed from what was not.
        """
        if not np.isfinite(out).all():
            row, column = (int(index) for index in np.argwhere(~np.isfinite(out))[0])
            raise WrongOutput(
                f"{where}: row {row}, column {column} of the tile is {out[row, column]}", float("inf")
            )
        difference, square = (out - reference) ** 2, reference**2
        self._difference += float(difference.sum())
        self._square += float(square.sum())
        self._rounding += float(((round_bf16(reference) - reference) ** 2).sum())
        pad = ((0, 0), (0, -out.shape[1] % TILE))
        tiles = [np.pad(each, pad).reshape(len(out), -1, TILE).sum(axis=2) for each in (difference, square)]
        # Where contributions cancel, rounding is still as large as what it rounded.
        floor = tiles[1].mean(axis=1, keepdims=True) / 16
        ratio = np.sqrt(tiles[0] / np.maximum(np.maximum(tiles[1], floor), 1e-30))
        row, tile = divmod(int(ratio.argmax()), ratio.shape[1])
        if ratio[row, tile] > self._worst[0]:
            self._worst = (float(ratio[row, tile]), f"{where}, row {row}, column {tile * TILE} on")

    def compare_float32(self, out: Array, reference: Array, where: str) -> None:
        """Compares partial sums, which no bfloat16 rounding excuses.

        Args:
            out: float64 [rows, columns], of sums in float32.
            reference: like `out`.

        Raises:
            WrongOutput: they differ by more than a few float32 roundings.
        """
        if not np.isfinite(out).all():
            raise WrongOutput(f"{where}: a partial sum was not written or is not finite", float("inf"))
        scale = np.sqrt((reference**2).mean())
        worst = float(np.abs(out - reference).max() / max(float(scale), 1e-30))
        if worst > 8 * _F32:
            raise WrongOutput(f"{where}: a partial sum is off by {worst:.1e} of their size", worst)

    def error(self) -> float:
        """The relative error of everything compared.

        Raises:
            WrongOutput: beyond what the path's roundings explain.
        """
        if not self._square:
            raise WrongOutput("no output was compared")
        error = float(np.sqrt(self._difference / self._square))
        limit = bound(self.path, float(np.sqrt(self._rounding / self._square)))
        if error > limit:
            raise WrongOutput(f"relative error {error:.2e}, the path's roundings explain {limit:.1e}", error)
        worst, where = self._worst
        if worst > TILE_ROOM * limit:
            raise WrongOutput(f"{where}: {worst:.2e} off, roundings explain {TILE_ROOM * limit:.1e}", error)
        return error
