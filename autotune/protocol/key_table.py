"""Chooses the keys that a fused-MoE file must have, given that an engine takes the key nearest to the tokens.

SGLang 0.5.23 (`fused_moe_triton_config.py`) and vLLM 0.33.0 (`fused_moe.py`) select
`min(keys, key=abs(key - M))`; of two keys equally near the first in the file wins. There is no way back to
the engine's default: a file with the keys 1 to 8 serves M = 4096 with the config of 8. So a file holds, next
to what was tuned, the engine's own default wherever nothing was tuned.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Final, TypeVar

T = TypeVar("T")

MOST_TOKENS: Final = 16384
"""Beyond the chunk that either engine prefills at once."""

GUARDS: Final = (64, 512, 4096)
"""Tokens at which a file is looked at that was tuned for decoding: prefill must not have changed."""


def nearest(keys: Iterable[int], tokens: int) -> int:
    """The key that the engines select; a tie goes to the smaller, as keys are written ascending."""
    return min(sorted(keys), key=lambda key: abs(key - tokens))


def key_table(
    tuned: Mapping[int, T], default: Callable[[int], T], *, most: int = MOST_TOKENS
) -> dict[int, T]:
    """The file's table, ascending.

    It holds every tuned count; the default at each power of two that was not tuned, so that a tuned entry
    serves no more than the neighbourhood that ends half-way to the next power; and the default on both sides
    of each place where it changes. Keys between powers of two are left out where the nearest-key rule gives
    the same without them.

    Args:
        tuned: config by tokens.
        default: what the engine does at so many tokens without a file.
        most: tokens up to which the default is followed.
    """
    anchors = {1 << power for power in range(most.bit_length()) if 1 << power <= most}
    ends = sorted({*anchors, most})
    steps = [step for low, high in pairwise(ends) for step in _steps(default, low, high, 4)]
    keys = anchors.union(steps, (step + 1 for step in steps), tuned)
    full = {key: tuned[key] if key in tuned else default(key) for key in sorted(keys)}
    return _thinned(full, keep=anchors)


def _steps(default: Callable[[int], T], low: int, high: int, depth: int) -> Iterator[int]:
    """Each m in low..high-1 after which the default changes.

    An engine's rule has a handful of steps, so where both ends agree only a sixteenth of an octave is looked
    into: a change that is undone within less would be missed.
    """
    if high - low == 1:
        if default(low) != default(high):
            yield low
    elif depth > 0 or default(low) != default(high):
        middle = (low + high) // 2
        yield from _steps(default, low, middle, depth - 1)
        yield from _steps(default, middle, high, depth - 1)


def _thinned(table: Mapping[int, T], *, keep: set[int]) -> dict[int, T]:
    """The keys of `table` in `keep`, and those others without which a lookup would give something else."""
    # Two tables with keys among these can differ only from one half-way point of two keys to the next.
    middles = {(a + b) // 2 for a in table for b in table}
    points = sorted({*table, *middles, *(middle + 1 for middle in middles)})
    kept = set(keep)
    for m in points:
        wanted = nearest(table, m)
        if table[nearest(kept, m)] != table[wanted]:
            kept.add(wanted)
    # A key that was added may have taken over tokens below it that were right before.
    if any(table[nearest(kept, m)] != table[nearest(table, m)] for m in points):
        return _thinned(table, keep=kept)
    return {key: table[key] for key in sorted(kept)}


def looked_at(tuned: Iterable[int]) -> list[int]:
    """Tokens at which a file is previewed and verified: 1 to 8, what was tuned, and the guards."""
    return sorted({*range(1, 9), *tuned, *GUARDS})
