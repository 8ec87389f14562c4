"""One setting for every shape: where knobs are global to the process, what wins at 4 tokens serves 4,096 too.

Pure: measured times in, a decision out, with the table by which it was made.
"""

import json
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, TypeVar

from autotune.errors import UserError
from autotune.export.key_table import GUARDS
from autotune.measure.statistics import Interval

Setting = TypeVar("Setting", bound=Hashable)

GUARD_MARGIN: Final = 0.01
"""Greatest loss against the default at a guard shape."""


@dataclass(frozen=True)
class Mix:
    """What the server is expected to do.

    Attributes:
        weights: share of the layer's calls by tokens; they add up to one. Empty: not told.
        guards: tokens at which a setting may not lose more than `margin`, whatever their share.
        margin: a fraction of the default's time.
    """

    weights: Mapping[int, float]
    guards: tuple[int, ...] = GUARDS
    margin: float = GUARD_MARGIN

    @classmethod
    def of(
        cls, shares: Mapping[int, float], guards: Sequence[int] = GUARDS, margin: float = GUARD_MARGIN
    ) -> "Mix":
        """Shares need not add up to one.

        Raises:
            UserError: none is positive, or one is negative.
        """
        total = sum(shares.values())
        if total <= 0 or min(shares.values()) < 0 or min(shares) < 1:
            raise UserError("the mix needs token counts from 1 with positive shares, e.g. --mix 4=1,160=3")
        return cls({m: shares[m] / total for m in sorted(shares) if shares[m]}, tuple(guards), margin)


UNTOLD: Final = Mix({})
"""The user says nothing of the traffic."""


@dataclass(frozen=True)
class Candidate(Generic[Setting]):
    """A line of the decision table.

    Attributes:
        gains: (default - setting) / default by tokens, positive is faster; missing: not measured.
        mean: its gain of the mix's whole time; None: a shape of the mix was not measured.
        refused: why it may not be chosen; "": it may.
    """

    setting: Setting
    gains: Mapping[int, float]
    mean: float | None
    refused: str


@dataclass(frozen=True)
class Tested(Generic[Setting]):
    """The best setting in rounds that did not choose it.

    Attributes:
        mean: its gain of the mix's whole time, with its 95 % interval.
        gains: the same by tokens, of the mix's shapes and the guards.
        failed: why it may not be exported; "": it holds.
        unsafe: it failed at a guard, or altogether, whatever it gains.
    """

    setting: Setting
    mean: Interval
    gains: Mapping[int, Interval]
    failed: str
    unsafe: bool = False


@dataclass(frozen=True)
class Decision(Generic[Setting]):
    """The setting to export, and how it came out.

    Attributes:
        candidates: the best first; the default is one of them.
        tested: what became of the best in rounds that did not choose it; None: the default is the best.
    """

    setting: Setting
    mix: Mix
    candidates: tuple[Candidate[Setting], ...]
    tested: Tested[Setting] | None = None


def decide(
    times: Mapping[Setting, Mapping[int, float]], default: Setting, mix: Mix, *, min_gain: float = 0.0
) -> Decision[Setting]:
    """The setting with the least time over the mix, among those that lose nowhere they may not.

    The time is the shares' sum of the layer's times, so a shape counts by what it costs. A setting that was
    not measured at every shape of the mix and every guard is not chosen.

    Args:
        times: measured microseconds of the layer by setting and tokens; all under the same conditions.
        default: the setting in which every knob is unset.
        min_gain: least gain of the mix's time that the winner must have; else the default stays.

    Raises:
        UserError: the default itself was not measured at a shape.
    """
    needed = sorted({*mix.weights, *mix.guards})
    missing = [m for m in needed if m not in times.get(default, {})]
    if missing:
        raise UserError(
            f"the default was not measured at {_tokens(missing)}: measure the guard shapes as well, or name"
            " others with --guards"
        )
    lines = [_candidate(setting, times, default, mix, needed) for setting in times]
    ranked = sorted(
        lines, key=lambda line: (bool(line.refused), -(line.mean or 0.0), line.setting != default)
    )
    best = ranked[0]
    gained = best.mean is not None and best.mean > min_gain
    return Decision(best.setting if gained else default, mix, tuple(ranked))


def _candidate(
    setting: Setting,
    times: Mapping[Setting, Mapping[int, float]],
    default: Setting,
    mix: Mix,
    needed: Sequence[int],
) -> Candidate[Setting]:
    mine, base = times[setting], times[default]
    gains = {m: 1 - mine[m] / base[m] for m in sorted(mine) if m in base}
    absent = [m for m in needed if m not in mine]
    if absent:
        return Candidate(setting, gains, None, f"not measured at {_tokens(absent)}")
    total = sum(share * base[m] for m, share in mix.weights.items())
    mean = 1 - sum(share * mine[m] for m, share in mix.weights.items()) / total
    lost = [m for m in mix.guards if gains[m] < -mix.margin]
    refused = f"loses {-gains[lost[0]]:.1%} at {lost[0]} tokens" if lost else ""
    return Candidate(setting, gains, mean, refused)


def _tokens(counts: Sequence[int]) -> str:
    return f"{', '.join(map(str, counts))} tokens"


def parse_mix(text: str) -> dict[int, float]:
    """Shares from `4=1,160=3`.

    Raises:
        UserError: not of that form.
    """
    shares: dict[int, float] = {}
    for part in text.split(","):
        tokens, _, share = part.strip().partition("=")
        try:
            shares[int(tokens)] = float(share or 1)
        except ValueError:
            raise UserError(
                f"--mix {text!r}: {part!r} is not of the form tokens=share, e.g. 4=1,160=3"
            ) from None
    return shares


def recorded_mix(path: Path) -> dict[int, float]:
    """Shares from a log of shapes: JSON lines with `tokens`, and `count` where a line stands for several.

    AITER writes one with `MOE_SHAPE_LOG_PATH`, each shape once a process: without counts every shape weighs
    the same.

    Raises:
        UserError: the file cannot be read, or has no such line.
    """
    counts: Counter[int] = Counter()
    try:
        with path.open(encoding="utf-8") as lines:
            for line in filter(str.strip, lines):
                shape = json.loads(line)
                counts[int(shape["tokens"])] += int(shape.get("count", 1))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is no log of shapes ({error!r}): give JSON lines with tokens") from error
    if not counts:
        raise UserError(f"{path} has no line: record shapes with MOE_SHAPE_LOG_PATH first")
    return {tokens: float(count) for tokens, count in counts.items()}


def even(tokens: Iterable[int]) -> dict[int, float]:
    """The same share for each count."""
    return dict.fromkeys(tokens, 1.0)


def parse_guards(text: str) -> tuple[int, ...]:
    """Token counts from `64,512,4096`; nothing from `none`.

    Raises:
        UserError: not of that form.
    """
    parts = [] if text.strip() == "none" else [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UserError(f"--guards {text!r} are no token counts: give e.g. 64,512,4096, or none")
    return tuple(sorted({int(part) for part in parts}))


def make_mix(text: str | None, log: Path | None, guards: str, margin: float) -> Mix:
    """The mix that a user describes; without weights where they say nothing of the traffic.

    Raises:
        UserError: it cannot be.
    """
    if text is not None and log is not None:
        raise UserError("--mix and --shape-log both say what the traffic is: give one of them")
    shapes = parse_guards(guards)
    if text is not None:
        return Mix.of(parse_mix(text), shapes, margin)
    return Mix.of(recorded_mix(log), shapes, margin) if log is not None else Mix({}, shapes, margin)
