"""One setting for every shape: where knobs are global to the process, what wins at 4 tokens serves 4,096 too.

Pure: measured times in, a decision out, with the table by which it was made.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, TypeVar

from autotune.errors import UserError
from autotune.problem.layer import MOST_TOKENS
from autotune.protocol.key_table import GUARDS
from autotune.quantities import LARGEST, SMALLEST, not_negative, parse_number, parse_whole, positive
from autotune.statistics import Interval
from autotune.text import counted, percent

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
            UserError: there is none, or one is no finite number above zero.
        """
        if not shares or min(shares) < 1:
            raise UserError("the mix needs token counts from 1, e.g. --mix 4=1,160=3")
        checked = {m: positive(shares[m], f"the mix's share of {m} tokens") for m in sorted(shares)}
        total = sum(checked.values())
        return cls({m: share / total for m, share in checked.items()}, tuple(guards), margin)


UNTOLD: Final = Mix({})
"""The user says nothing of the traffic."""


@dataclass(frozen=True)
class MixCandidate(Generic[Setting]):
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
class MixDecision(Generic[Setting]):
    """The setting to export, and how it came out.

    Attributes:
        candidates: the best first; the default is one of them.
        tested: what became of the best in rounds that did not choose it; None: the default is the best.
        notes: how the mix came from a recorded log.
    """

    setting: Setting
    mix: Mix
    candidates: tuple[MixCandidate[Setting], ...]
    tested: Tested[Setting] | None = None
    notes: tuple[str, ...] = ()


def decide(
    times: Mapping[Setting, Mapping[int, float]], default: Setting, mix: Mix, *, min_gain: float = 0.0
) -> MixDecision[Setting]:
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
    return MixDecision(best.setting if gained else default, mix, tuple(ranked))


def _candidate(
    setting: Setting,
    times: Mapping[Setting, Mapping[int, float]],
    default: Setting,
    mix: Mix,
    needed: Sequence[int],
) -> MixCandidate[Setting]:
    mine, base = times[setting], times[default]
    gains = {m: 1 - mine[m] / base[m] for m in sorted(mine) if m in base}
    absent = [m for m in needed if m not in mine]
    if absent:
        return MixCandidate(setting, gains, None, f"not measured at {_tokens(absent)}")
    total = sum(share * base[m] for m, share in mix.weights.items())
    mean = 1 - sum(share * mine[m] for m, share in mix.weights.items()) / total
    lost = [m for m in mix.guards if gains[m] < -mix.margin]
    refused = f"loses {percent(-gains[lost[0]])} at {counted(lost[0], 'token')}" if lost else ""
    return MixCandidate(setting, gains, mean, refused)


def _tokens(counts: Sequence[int]) -> str:
    return f"{', '.join(map(str, counts))} tokens"


def parse_mix(text: str) -> dict[int, float]:
    """Shares from `4=1,160=3`; `4,160` is `4=1,160=1`.

    Raises:
        UserError: a part is not of that form, or its share is no finite number above zero; names the part.
    """
    shares: dict[int, float] = {}
    for part in text.split(","):
        count, equals, share_text = part.strip().partition("=")
        tokens, share = parse_whole(count), parse_number(share_text) if equals else 1.0
        wrong = ""
        if not tokens:
            wrong = "has no token count"
        elif share is None or not SMALLEST <= share <= LARGEST:
            wrong = "has no finite share above zero"
        elif tokens in shares:
            wrong = "has a token count that was there before"
        if wrong or not tokens or share is None:
            raise UserError(f"--mix {text!r}: {part.strip()!r} {wrong}: give tokens=share, e.g. 4=1,160=3")
        shares[tokens] = share
    return shares


def even(tokens: Iterable[int]) -> dict[int, float]:
    """The same share for each count."""
    return dict.fromkeys(tokens, 1.0)


def parse_guards(text: str) -> tuple[int, ...]:
    """Token counts from `64,512,4096`; nothing from `none`.

    Raises:
        UserError: not of that form; names the part.
    """
    if text.strip() == "none":
        return ()
    guards = set()
    for part in text.split(","):
        tokens = parse_whole(part)
        if not tokens or tokens > MOST_TOKENS:
            raise UserError(
                f"--guards {text[:40]!r}: {part.strip()[:40]!r} is not a token count: give some of 1 to"
                f" {MOST_TOKENS}, e.g. 64,512,4096, or none"
            )
        guards.add(tokens)
    return tuple(sorted(guards))


def make_mix(text: str | None, log: Path | None, guards: str, margin: float) -> Mix:
    """The mix that a user describes; without weights where they say nothing of the traffic, or have a log.

    Raises:
        UserError: it cannot be.
    """
    if text is not None and log is not None:
        raise UserError("--mix and --shape-log both say what the traffic is: give one of them")
    shapes, margin = parse_guards(guards), not_negative(margin, "--margin")
    return Mix({}, shapes, margin) if text is None else Mix.of(parse_mix(text), shapes, margin)
