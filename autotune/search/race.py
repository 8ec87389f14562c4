"""Before the final: the leaders of a search are measured again until their order is settled.

The fastest of hundreds of single windows is fast partly by luck. Whoever may be among the best gets further
windows, so that places in the final go to configs that are fast every time.
"""

from collections.abc import Callable, Sequence
from dataclasses import fields, replace

from autotune.measure.racing import Race
from autotune.results import Failure, Measurement
from autotune.space.config import Config
from autotune.store.records import TrialRecord

Again = Callable[[Config], Measurement | Failure | None]
"""Measures a config once more; None: there is nothing new to learn."""

# Two windows of one candidate differ by 0.1 to 3 % (H100, our kernels): who is further back is no contender.
_BAND = 1.05
_WINDOWS = 4
# A final's eight pairs, by the sum of their stages, reach to about the fourth of each.
_LEADERS = 4


def settle(
    ranked: Sequence[tuple[Config, float]], again: Again, program: Callable[[Config], str] = lambda c: c.key
) -> list[tuple[Config, float]]:
    """Races the leaders of `ranked`, which is sorted by microseconds.

    Args:
        program: names a config's machine code; of configs with equal code the first races.

    Returns:
        Configs with the mean of their windows' medians, microseconds, the fastest first.
    """
    leaders = distinct(ranked, program)
    if len(leaders) < 2:
        return leaders
    race = Race(finalists=_LEADERS, band=_BAND, windows=_WINDOWS)
    configs = {config.key: config for config, _ in leaders}
    for config, us in leaders:
        race.report(config.key, [us])
    while (key := race.next()) is not None:
        outcome = again(configs[key])
        if outcome is None:
            break
        if isinstance(outcome, Failure):
            race.drop(key)
        else:
            race.report(key, [sample.us for sample in outcome.samples])
    return [(configs[key], sum(race.interval(key)) / 2) for key in race.ranking()]


def distinct(
    ranked: Sequence[tuple[Config, float]], program: Callable[[Config], str]
) -> list[tuple[Config, float]]:
    """One config of each program, in order."""
    first: dict[str, tuple[Config, float]] = {}
    for config, us in ranked:
        first.setdefault(program(config), (config, us))
    return list(first.values())


def window_of(first: TrialRecord, outcome: Measurement | Failure) -> TrialRecord:
    """A further window of an earlier trial's config, as a trial of its own with origin `race`."""
    known = {field.name: getattr(first, field.name) for field in fields(TrialRecord)}
    trial = TrialRecord(**{**known, "origin": "race", "compile_s": 0.0, "merged_into": None})
    if isinstance(outcome, Failure):
        return replace(
            trial,
            status=outcome.status,
            time_us=None,
            reason=outcome.reason,
            gate_error=outcome.error,
            measure_s=outcome.seconds,
        )
    return replace(
        trial,
        time_us=outcome.us,
        gate_error=outcome.error,
        measure_s=outcome.seconds,
        contended=outcome.contended,
    )
