"""The chosen setting put to the test: once, in rounds on routings that did not choose it.

The best of several noisy times is biased low; what it gains in other rounds is not. A pair of rounds gives
one ratio of the mix's whole time, and the pairs are resampled.
"""

from collections.abc import Mapping, Sequence

from autotune.export.settings_table import Setting, SettingsTable
from autotune.measure.settings import MeasureSettings
from autotune.protocol.mix import Mix, Tested
from autotune.statistics import Interval, median_interval, pair_ratios
from autotune.text import counted, percent, percent_interval


def put_to_test(table: SettingsTable, setting: Setting, mix: Mix) -> Tested[Setting]:
    """The gain over the mix, and at each of its shapes and guards, with intervals; and whether that will do.

    It will where the mix's gain is surely above the run's least gain, and no guard's loss may be above the
    margin.
    """
    needed = sorted({*mix.weights, *mix.guards})
    times = {tokens: table.testing(setting, tokens) for tokens in needed}
    nothing = Interval(0.0, 0.0, 0.0)
    broken = [tokens for tokens, (mine, base) in times.items() if not mine or len(mine) != len(base)]
    if broken:
        return Tested(
            setting, nothing, {}, f"failed in a round at {counted(broken[0], 'token')}", unsafe=True
        )
    measuring = table.measuring
    gains = {tokens: _gain(mine, base, measuring) for tokens, (mine, base) in times.items()}
    mean = _gain(
        _of_mix({tokens: mine for tokens, (mine, _) in times.items()}, mix),
        _of_mix({tokens: base for tokens, (_, base) in times.items()}, mix),
        measuring,
    )
    for tokens in mix.guards:
        if gains[tokens].low < -mix.margin:
            within = f"not surely within {percent(mix.margin)} of the default at {counted(tokens, 'token')}"
            lost = f"{within}: {_text(gains[tokens])}"
            return Tested(setting, mean, gains, lost, unsafe=True)
    if mean.low <= measuring.min_gain:
        little = f"its gain over the mix is not surely above {percent(measuring.min_gain)}: {_text(mean)}"
        return Tested(setting, mean, gains, little)
    return Tested(setting, mean, gains, "")


def _text(gain: Interval) -> str:
    return percent_interval(gain.value, gain.low, gain.high, signed=True)


def _of_mix(times: Mapping[int, Sequence[float]], mix: Mix) -> list[float]:
    """The mix's time in each round: the shapes' rounds are independent, so any may stand beside any."""
    rounds = min(len(times[tokens]) for tokens in mix.weights)
    return [sum(share * times[tokens][i] for tokens, share in mix.weights.items()) for i in range(rounds)]


def _gain(mine: Sequence[float], base: Sequence[float], measuring: MeasureSettings) -> Interval:
    """(default - setting) / default with its interval."""
    ratio = median_interval(pair_ratios(mine, base), resamples=measuring.resamples, seed=measuring.seed)
    return Interval(1 - ratio.value, 1 - ratio.high, 1 - ratio.low)
