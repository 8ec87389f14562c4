"""Contenders of a problem with what is known of their times: from a confirmation, or from estimates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import Any

from autotune.measure.confirm import ratios_of, times_of
from autotune.measure.settings import MeasureSettings
from autotune.results import Confirmation, LayerConfig, Round
from autotune.statistics import Interval, median_interval
from autotune.store.records import StoredConfirmation, WinnerRecord
from autotune.store.store import Store


@dataclass(frozen=True)
class Contender:
    """A layer config in the final, or in a short list.

    Attributes:
        label: `default`, `published`, `winner` or `candidate`.
        times: microseconds of each pair of rounds, by what was timed; a single one for an estimate.
        ratios: of the layer to the default, of each pair of rounds; empty: not timed together with it.
        error: the numeric gate's; None: it failed, or nothing ran.
        decided: its rounds are those that decided; else those that only chose who is put to the test.
        rounds: how many.
        recorded: its gain over the default, where it is on record.
        left_out: why it was not timed to the end; "": it was.
        number: its place among the finalists, or in the short list.
    """

    label: str
    config: LayerConfig
    times: Mapping[str, Sequence[float]]
    ratios: Sequence[float]
    error: float | None
    decided: bool
    rounds: int
    recorded: Interval | None = None
    left_out: str = ""
    number: int = 0

    @cached_property
    def median_us(self) -> Mapping[str, float]:
        """Microseconds by what was timed."""
        return {what: median(times) for what, times in self.times.items()}

    # Intervals are found by resampling, which takes long: only where one is shown.
    @cached_property
    def us(self) -> Mapping[str, Interval]:
        """The same with their intervals; low equals high equals value for an estimate, which has none."""
        return {what: _interval(times) for what, times in self.times.items()}

    @cached_property
    def gain(self) -> Interval | None:
        """Of the layer over the default; None: not timed together with it."""
        if self.recorded is not None or not self.ratios:
            return self.recorded
        ratio = _interval(self.ratios)
        return Interval(1 - ratio.value, 1 - ratio.high, 1 - ratio.low)

    @property
    def name(self) -> str:
        """The label; of candidates, which are several, with the number."""
        return f"candidate {self.number}" if self.label == "candidate" else self.label


@dataclass(frozen=True)
class WinnerFinal:
    """Who was compared before a winner was named.

    Attributes:
        contenders: the default first, then the published config and the winner, then the others.
        confirmation: None: it was a short list by estimate.
        planned: how many rounds were to decide; None: not known.
    """

    contenders: Sequence[Contender] = ()
    confirmation: StoredConfirmation | None = None
    planned: int | None = None

    @cached_property
    def ties(self) -> list[Contender]:
        """See `tied`; found by resampling."""
        return tied(self.contenders, self.confirmation, self.planned)


def final_of(store: Store, winner: WinnerRecord) -> WinnerFinal:
    """The final, or the short list, that a winner is of."""
    return finals_of(store, [winner])[0]


def finals_of(store: Store, winners: Sequence[WinnerRecord]) -> list[WinnerFinal]:
    """The same of each, what confirmed ones need asked for at once."""
    confirmed = store.confirmations({w.confirmation for w in winners if w.confirmation is not None})
    specs = {run.id: run.spec for run in store.runs({stored.run for stored in confirmed.values()})}
    finals = []
    for winner in winners:
        if winner.confirmation is None:
            finals.append(WinnerFinal(_estimated(store, winner)))
            continue
        stored = confirmed[winner.confirmation]
        # The rounds that decided and no others: those that chose the challenger favour it.
        planned = _judge_rounds(specs[stored.run])
        finals.append(WinnerFinal(of_confirmation(stored, planned), stored, planned))
    return finals


def _judge_rounds(spec: Mapping[str, Any]) -> int | None:
    """How many rounds were to decide, as the run's record says; None: it does not."""
    settings = spec.get("measuring") or spec.get("settings") or {}
    rounds = settings.get("judge_rounds")
    return rounds if isinstance(rounds, int) else None


def deciding(rounds: Sequence[Round], planned: int | None) -> list[Round]:
    """The rounds that decided: the last ones, in which only the chosen ones met the default.

    Args:
        planned: how many there were to be; None: not known.
    """
    field = [bool(us) for us in rounds[-1].us] if rounds else []
    same = 0
    while same < len(rounds) and [bool(us) for us in rounds[-1 - same].us] == field:
        same += 1
    count = same if planned is None else min(same, planned)
    return list(rounds[len(rounds) - count + count % 2 :])


def of_confirmation(stored: StoredConfirmation, planned: int | None = None) -> list[Contender]:
    """All finalists of a confirmation."""
    confirmation = stored.confirmation
    last = deciding(confirmation.rounds, planned)
    first = list(confirmation.rounds[: len(confirmation.rounds) - len(last)])
    listed = []
    for index, finalist in enumerate(confirmation.finalists):
        decided = any(paired.us[index] for paired in last)
        rounds = last if decided else first[len(first) % 2 :]
        label = "winner" if index == confirmation.winner and index else finalist.label
        listed.append(
            Contender(
                label,
                finalist.config,
                _times(rounds, index),
                ratios_of(rounds, index, 0, "layer") if index else (),
                confirmation.errors[index],
                decided,
                sum(bool(paired.us[index]) for paired in rounds),
                _on_record(confirmation, index),
                _left_out(confirmation, index),
                index,
            )
        )
    order = {"default": 0, "published": 1, "winner": 2}
    return sorted(
        listed,
        key=lambda contender: (order.get(contender.label, 3), not contender.decided, _layer_us(contender)),
    )


def tied(
    listed: Sequence[Contender], confirmation: StoredConfirmation | None, planned: int | None
) -> list[Contender]:
    """Those that are as fast as the chosen one, as far as can be told; it itself is left out.

    Of estimates: whose sum is printed alike, since a formula that does not see a knob ranks by nothing there.
    In a final: who ran beside it in the rounds that chose, at a ratio whose 95% interval holds 1.

    Args:
        planned: see `deciding`.
    """
    chosen = next((contender for contender in listed if contender.label == "winner"), None)
    chosen = chosen or next((contender for contender in listed if contender.label == "default"), None)
    if chosen is None or "layer" not in chosen.times:
        return []
    others = [contender for contender in listed if contender is not chosen and "layer" in contender.times]
    if confirmation is None:
        best = f"{chosen.median_us['layer']:.2f}"
        return [contender for contender in others if f"{contender.median_us['layer']:.2f}" == best]
    finalists = confirmation.confirmation.finalists
    rounds = confirmation.confirmation.rounds
    first = list(rounds[: len(rounds) - len(deciding(rounds, planned))])
    first = first[len(first) % 2 :]
    place = next(index for index, contender in enumerate(finalists) if contender.config == chosen.config)
    ties = []
    for contender in others:
        index = next(index for index, finalist in enumerate(finalists) if finalist.config == contender.config)
        if index == 0 or chosen.label == "default" or not _both_ran(first, place, index):
            continue  # that it beat the default is what the final decided; a kept default needs no equal
        ratios = ratios_of(first, index, place, "layer")
        if min(ratios) <= 1 <= max(ratios):  # no resample's median is beyond them
            ratio = _interval(ratios)
            ties += [contender] if ratio.low <= 1 <= ratio.high else []
    return ties


def _both_ran(rounds: Sequence[Round], first: int, second: int) -> bool:
    return any(all("layer" in r.us[i] for r in pair for i in (first, second)) for pair in _pairs(rounds))


def _left_out(confirmation: Confirmation, index: int) -> str:
    """Why a finalist was not timed, or not to the end, as the confirmation's notes tell; "": it was."""
    if confirmation.errors[index] is not None:
        return ""
    name = f"{confirmation.finalists[index].label} {index} "
    notes = [note for note in confirmation.left_out if note.startswith(name)]
    return notes[0].removeprefix(name).removeprefix("was not timed: ") if notes else "not timed"


def _layer_us(contender: Contender) -> float:
    return contender.median_us.get("layer", float("inf"))


def _times(rounds: Sequence[Round], index: int) -> dict[str, list[float]]:
    times = {what: times_of(rounds, index, what) for what in ("layer", "stage1", "stage2")}
    return {what: values for what, values in times.items() if values}


def _interval(values: Sequence[float]) -> Interval:
    settings = MeasureSettings()
    return median_interval(values, resamples=settings.resamples, seed=settings.seed)


def _pairs(rounds: Sequence[Round]) -> list[tuple[Round, Round]]:
    return list(zip(rounds[0::2], rounds[1::2], strict=True))


def _on_record(confirmation: Confirmation, index: int) -> Interval | None:
    """The winner's gain over the default, as it was decided; None: of another, or of the default itself."""
    if index == 0 or index != confirmation.winner:
        return None
    return Interval(confirmation.gain, confirmation.gain_low, confirmation.gain_high)


def _estimated(store: Store, winner: WinnerRecord) -> list[Contender]:
    """The entries of a short list: the default, the best, the others."""
    listed = []
    for entry in store.short_list(winner):
        times = _estimates(store, entry)
        kept = entry.config == winner.default
        label = "default" if kept else "winner" if entry.rank == 0 else "candidate"
        gain = None if kept else Interval(entry.gain, entry.gain, entry.gain)
        listed.append(Contender(label, entry.config, times, (), None, False, 0, gain, number=entry.rank))
    order = {"default": 0, "winner": 1}
    return sorted(listed, key=lambda contender: order.get(contender.label, 2))


def _estimates(store: Store, entry: WinnerRecord) -> dict[str, tuple[float]]:
    """Estimates of an entry's stages and their sum."""
    us: dict[str, float] = {}
    if entry.stage1_trial is not None and entry.stage2_trial is not None:
        stages = {"stage1": entry.stage1_trial, "stage2": entry.stage2_trial}
        for stage, trial in stages.items():
            time = store.trial(trial).time_us
            if time is not None:
                us[stage] = time
    if len(us) == 2:
        us = {"layer": sum(us.values()), **us}
    return {what: (value,) for what, value in us.items()}
