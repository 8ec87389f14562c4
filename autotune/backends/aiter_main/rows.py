"""One row a bucket: AITER rounds a batch up, so one choice serves every count of its bucket."""

from collections.abc import Mapping
from typing import TypeVar

from autotune.backends.aiter_main.csv import Generation, bucket
from autotune.protocol.mix import Decision, Mix, decide, even

Setting = TypeVar("Setting")


def choose_rows(
    times: Mapping[Setting, Mapping[int, float]], default: Setting, generation: Generation
) -> dict[int, Decision[Setting]]:
    """The choice for each bucket in which anything was measured.

    The row for 4 serves 3 and 4: it is the best over both, and loses at neither.

    Args:
        times: measured microseconds of the layer by setting and tokens.
        default: what AITER does without a row.

    Raises:
        UserError: the default was not measured at a count at which something else was.
    """
    counts: dict[int, set[int]] = {}
    for measured in times.values():
        for tokens in measured:
            counts.setdefault(bucket(tokens, generation), set()).add(tokens)
    return {
        rounded: decide(times, default, Mix.of(even(sorted(members)), guards=sorted(members)))
        for rounded, members in sorted(counts.items())
    }
