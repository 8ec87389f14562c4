"""Ranges of rows, as humming looks a config up: `[above, up to, entry]`, and none may be missing.

Rows are slots, tokens * top_k. Without expert parallelism a layer sees whole tokens, so the range
(top_k * (M - 1), top_k * M] holds M tokens and nothing else.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

from autotune.errors import UserError

MOST_ROWS: Final = 1 << 30
"""The last range's end; humming's launcher fails in a gap, and past it."""

Range = tuple[int, int, Mapping[str, Any]]


def rows_of(tokens: int, top_k: int) -> tuple[int, int]:
    """The range that holds so many tokens and no other count."""
    return top_k * (tokens - 1), top_k * tokens


def overlaid(own: Sequence[Range], tuned: Mapping[tuple[int, int], Mapping[str, Any]]) -> list[Range]:
    """humming's own ranges with tuned ones in front: what was tuned where it was, its own choice elsewhere.

    Neighbours with one entry are joined.

    Args:
        own: all of (0, `MOST_ROWS`], ascending.
        tuned: entries by range; no two overlap.

    Raises:
        UserError: `own` leaves rows out.
    """
    require_whole(own)
    edges = sorted(
        {0, *(edge for low, high, _ in own for edge in (low, high)), *(e for t in tuned for e in t)}
    )
    joined: list[Range] = []
    for low, high in pairwise(edges):
        entry = next((entry for (above, to), entry in tuned.items() if above <= low and high <= to), None)
        if entry is None:
            entry = at(own, high)
        if joined and joined[-1][2] == entry:
            low = joined.pop()[0]
        joined.append((low, high, entry))
    return joined


def at(ranges: Sequence[Range], rows: int) -> Mapping[str, Any]:
    """The entry that humming's launcher takes for so many rows.

    Raises:
        UserError: there is none.
    """
    for low, high, entry in ranges:
        if low < rows <= high:
            return entry
    raise UserError(f"no range holds {rows} rows: export it again")


def require_whole(ranges: Sequence[Range]) -> None:
    """Makes sure that every number of rows is in exactly one range.

    Raises:
        UserError: one is not.
    """
    end = 0
    for low, high, _ in ranges:
        if low != end or high <= low:
            raise UserError(
                f"ranges of rows leave a gap or overlap at {end} rows, ({low}, {high}] is next: use"
                " humming-kernels 0.1.19"
            )
        end = high
    if end != MOST_ROWS:
        raise UserError(f"ranges of rows end at {end}, not at {MOST_ROWS}: use humming-kernels 0.1.19")
