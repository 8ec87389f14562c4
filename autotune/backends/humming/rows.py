"""The formats of humming's kernels that are tuned: a line adds one."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from autotune.kernels.formats import (
    GROUP,
    WIDE_GROUP,
    Format,
    grouped_misfit,
    misfit,
    wide_grouped_misfit,
)
from autotune.problem.arithmetic import GROUPED_INT4, W4A8, Computes, Scales, Scheme


@dataclass(frozen=True)
class Row:
    """INT4 experts times activations of one kind.

    Attributes:
        name: of the backend.
        activations: humming's name of their dtype.
        group: values of K that share a bfloat16 scale; 0: an output channel has one.
        format: what the gate judges by.
        schemes: checkpoints whose experts it takes.
        spaces: folder under `search_spaces/`.
        exporter: its class.
    """

    name: str
    activations: str
    group: int
    format: Format
    schemes: tuple[Scheme, ...]
    spaces: str
    exporter: str = "HummingExporter"

    @property
    def activation_bits(self) -> int:
        """Bits of an activation, as the GEMM takes it."""
        return 16 if self.activations == "bfloat16" else 8

    @property
    def weight_bytes(self) -> float:
        """Bytes of a weight with its share of a group's scale."""
        return 0.5 + (2 / self.group if self.group else 0.0)

    @property
    def row_bytes(self) -> float:
        """Bytes of scale of an output channel."""
        return 0.0 if self.group else 2.0

    @property
    def computes(self) -> Computes:
        """What a model may need of it."""
        scale = f"every {self.group} values of K and no zero points" if self.group else "a channel"
        kind = "bfloat16 activations" if self.activation_bits == 16 else "INT8 activations by token"
        words = f"INT4 weights, a bfloat16 scale {scale}, times {kind}"
        return Computes(words, self.schemes, layout=self._misfit)

    def _misfit(self, n: int, k: int) -> str | None:
        # vLLM fills N up to a multiple of 256 and K to one of 128; the kernels count the padding in vectors.
        vector = 128 // self.activation_bits
        if n % 8 or k % vector:
            return (
                f"N={n} and K={k} are no multiples of 8 and {vector}, in which humming's padding is counted"
            )
        checks: dict[int, Callable[[int, int], str | None]] = {
            0: misfit,
            GROUP: grouped_misfit,
            WIDE_GROUP: partial(wide_grouped_misfit, WIDE_GROUP),
        }
        return checks[self.group](n, k)


_WIDE: Final = Scheme("int4", Scales.GROUP, (1, WIDE_GROUP))
_CHANNEL: Final = Scheme("int4", Scales.CHANNEL)

ROWS: Final = (
    Row("humming_w4a16", "bfloat16", GROUP, Format.GROUPED, (GROUPED_INT4,), "humming_w4a16"),
    Row("humming_w4a16_g128", "bfloat16", WIDE_GROUP, Format.GROUPED_128, (_WIDE,), "humming_w4a16"),
    Row("humming_w4a16_channel", "bfloat16", 0, Format.BF16, (_CHANNEL,), "humming_w4a16"),
    Row("humming_w4a8", "int8", 0, Format.INT8_BF16_SCALES, W4A8[:1], "humming_w4a8", "HummingInt8Exporter"),
)


def row_of(name: str) -> Row:
    """The row of a backend."""
    return next(row for row in ROWS if row.name == name)
