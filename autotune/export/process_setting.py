"""The one setting of the process for a server that sees every shape, chosen from tables that a run stored.

Per-shape winners of a backend whose knobs are environment variables contradict each other. What is exported
is a setting that was timed, as a whole, at every shape of the mix and at every guard. The best of several
noisy times is biased low; what it gains in other rounds is not. So it is chosen by some rounds and put to the
test once, in others. A pair of rounds gives one ratio of the mix's whole time, and the pairs are resampled.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from autotune.errors import UserError
from autotune.export.shape_log import ShapeLog
from autotune.measure.settings import MeasureSettings
from autotune.problem.layer import Layer
from autotune.protocol.backend import Backend, program_key
from autotune.protocol.mix import Mix, MixDecision, Tested, decide, even
from autotune.protocol.process_knobs import ProcessKnobs, Setting, setting_text
from autotune.results import Confirmation, LayerConfig
from autotune.statistics import Interval, median_interval, pair_ratios
from autotune.store.records import WinnerRecord
from autotune.store.store import Store
from autotune.text import counted, percent, percent_interval

Program = Callable[[int, LayerConfig], Hashable]
"""Names what the engine launches for a layer config at so many tokens; equal names are one program."""


def program_of(backend: Backend, layer: Layer) -> Program:
    """By the keys of what is compiled: a tile written out is the same as an unset one that comes to it."""

    def program(tokens: int, config: LayerConfig) -> Hashable:
        return program_key(backend, layer, tokens, config)

    return program


@dataclass(frozen=True)
class TimedShape:
    """The table of one number of tokens.

    Attributes:
        run: whose settings its labels name.
        measuring: the conditions; they tell which rounds were there to choose by.
    """

    run: int
    table: Confirmation
    measuring: MeasureSettings

    def places(self, program: Program) -> dict[Hashable, int]:
        """Places among the finalists of the programs that were timed."""
        places: dict[Hashable, int] = {}
        for place, error in enumerate(self.table.errors):
            if error is not None:
                name = program(self.table.problem.tokens, self.table.finalists[place].config)
                places.setdefault(name, place)
        return places

    def times(self, place: int, *, choosing: bool) -> list[float]:
        """Microseconds of the layer, in the order of the rounds."""
        rounds = self.measuring.select_rounds
        part = self.table.rounds[:rounds] if choosing else self.table.rounds[rounds:]
        return [timed.us[place]["layer"] for timed in part if timed.us[place]]


class SettingsTable:
    """What settings of the whole process cost at each number of tokens, in paired rounds.

    Args:
        shapes: of several for one number of tokens the last counts.
        program: see `program_of`.
    """

    def __init__(self, shapes: Sequence[TimedShape], knobs: ProcessKnobs, program: Program) -> None:
        self._knobs, self._program = knobs, program
        self._shapes = {shape.table.problem.tokens: shape for shape in shapes}
        self._places = {tokens: shape.places(program) for tokens, shape in self._shapes.items()}
        self.settings: tuple[Setting, ...] = tuple(dict.fromkeys([(), *_settings(shapes, knobs)]))

    @classmethod
    def read(
        cls, store: Store, winners: Sequence[WinnerRecord], knobs: ProcessKnobs, backend: Backend
    ) -> "SettingsTable":
        """The tables of the runs that the winners come from, all of one stack, oldest first."""
        shapes = []
        for run in sorted({winner.run for winner in winners}):
            for stored in store.tables(run):
                measuring = MeasureSettings(**store.run(run).spec["measuring"])
                shapes.append(TimedShape(run, stored.confirmation, measuring))
        return cls(shapes, knobs, program_of(backend, winners[0].problem.layer))

    @property
    def tokens(self) -> list[int]:
        """Where the default was timed."""
        return sorted(tokens for tokens, shape in self._shapes.items() if shape.table.errors[0] is not None)

    @property
    def measuring(self) -> MeasureSettings:
        """The conditions of the newest table."""
        return list(self._shapes.values())[-1].measuring

    def choosing(self) -> dict[Setting, dict[int, float]]:
        """Median microseconds of the layer in the rounds to choose by, by setting and tokens."""
        medians: dict[Setting, dict[int, float]] = {}
        for setting in self.settings:
            medians[setting] = {}
            for tokens in self.tokens:
                place = self._place(setting, tokens)
                times = [] if place is None else self._shapes[tokens].times(place, choosing=True)
                if times:
                    medians[setting][tokens] = median(times)
        return medians

    def testing(self, setting: Setting, tokens: int) -> tuple[list[float], list[float]]:
        """A setting's and the default's microseconds in the rounds to test by, in order; empty: it failed."""
        shape, place = self._shapes[tokens], self._place(setting, tokens)
        if place is None:
            return [], []
        return shape.times(place, choosing=False), shape.times(0, choosing=False)

    def _place(self, setting: Setting, tokens: int) -> int | None:
        """Where a setting stands among the finalists; None: it was not timed there, or failed."""
        shape = self._shapes[tokens]
        default = shape.table.finalists[0].config
        return self._places[tokens].get(self._program(tokens, self._knobs.overlay(default, dict(setting))))


def _settings(shapes: Sequence[TimedShape], knobs: ProcessKnobs) -> list[Setting]:
    """The settings behind the finalists.

    A variable that repeats a shape's default does not show there: a setting is what its label has at all
    shapes.
    """
    named: dict[tuple[int, str], dict[str, str]] = {}
    for shape in shapes:
        default, *others = shape.table.finalists
        for finalist in others:
            shown = named.setdefault((shape.run, finalist.label), {})
            shown.update(knobs.variables(finalist.config, default.config))
    return [tuple(sorted(variables.items())) for variables in named.values()]


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
        failed = f"failed in a round at {counted(broken[0], 'token')}"
        return Tested(setting, nothing, {}, failed, unsafe=True)
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
            lost = f"{within}: {gain_text(gains[tokens])}"
            return Tested(setting, mean, gains, lost, unsafe=True)
    if mean.low <= measuring.min_gain:
        little = f"its gain over the mix is not surely above {percent(measuring.min_gain)}: {gain_text(mean)}"
        return Tested(setting, mean, gains, little)
    return Tested(setting, mean, gains, "")


def gain_text(gain: Interval) -> str:
    """A gain with its interval, for people."""
    return percent_interval(gain.value, gain.low, gain.high, signed=True)


def _of_mix(times: Mapping[int, Sequence[float]], mix: Mix) -> list[float]:
    """The mix's time in each round: the shapes' rounds are independent, so any may stand beside any."""
    rounds = min(len(times[tokens]) for tokens in mix.weights)
    return [sum(share * times[tokens][i] for tokens, share in mix.weights.items()) for i in range(rounds)]


def _gain(mine: Sequence[float], base: Sequence[float], measuring: MeasureSettings) -> Interval:
    """(default - setting) / default with its interval."""
    ratio = median_interval(pair_ratios(mine, base), resamples=measuring.resamples, seed=measuring.seed)
    return Interval(1 - ratio.value, 1 - ratio.high, 1 - ratio.low)


def decide_setting(
    store: Store,
    winners: Sequence[WinnerRecord],
    knobs: ProcessKnobs,
    backend: Backend,
    mix: Mix,
    log: ShapeLog | None,
) -> MixDecision[Setting] | None:
    """The setting for all shapes; None: there is but one estimate.

    Raises:
        UserError: no run has timed settings at every shape, and not every shape kept the default.
    """
    if any(winner.confirmation is None for winner in winners):
        if len(winners) == 1:
            return None
        raise UserError(
            "a setting for several shapes is chosen from confirmations, and estimates have none: run on the"
            " GPU, or export one shape"
        )
    table = SettingsTable.read(store, winners, knobs, backend)
    if table.tokens:
        notes: Sequence[str] = ()
        if log is not None:
            shares, notes = log.traffic(winners[0].problem.layer, table.tokens, knobs.bucket)
            mix = Mix.of(shares, mix.guards, mix.margin)
        tuned = [winner.problem.tokens for winner in winners]
        return replace(choose(table, mix, tuned), notes=tuple(notes))
    if all(winner.kept_default for winner in winners):
        return MixDecision((), mix, ())
    raise UserError(
        "the winners' runs have timed no setting of the whole process at every shape and guard, and one"
        f" serves them all: repeat autotune run --backend {winners[0].backend}, which then says why"
    )


def choose(table: SettingsTable, mix: Mix, tuned: Sequence[int]) -> MixDecision[Setting]:
    """The setting to export: the best by the rounds to choose by, if it holds in the rounds to test by.

    What loses at a guard there is left out and the next best is tested, until one is safe: only of that one
    the gain counts.

    Args:
        mix: without weights, every tuned shape weighs the same.
        tuned: token counts of the winners.

    Raises:
        UserError: a shape of the mix or a guard was not timed.
    """
    tokens = table.tokens
    if not mix.weights:
        mix = Mix.of(even(tuned), mix.guards, mix.margin)
    missing = sorted({*mix.weights, *mix.guards}.difference(tokens))
    if missing:
        what = "guards" if set(missing) <= set(mix.guards) else "shapes"
        raise UserError(
            f"the {what} {', '.join(map(str, missing))} were not timed, so what a setting of the whole"
            " process does there is not known: repeat autotune run with these --guards and all shapes at"
            " once, or name others here with --guards and --mix"
        )
    decision = decide(table.choosing(), (), mix)
    lines = list(decision.candidates)
    for place, line in enumerate(lines):
        if line.refused or line.setting == ():
            break
        tested = put_to_test(table, line.setting, mix)
        decision = replace(decision, setting=() if tested.failed else line.setting, tested=tested)
        if not tested.unsafe:  # its gain was tested, once and of no other
            break
        lines[place] = replace(line, refused=tested.failed)
    return replace(decision, candidates=tuple(lines))


def deployed(
    winners: Sequence[WinnerRecord], knobs: ProcessKnobs, decision: MixDecision[Setting]
) -> list[WinnerRecord]:
    """The winners with what the setting makes of their shapes in place of their own configs and gains."""
    changed = []
    for winner in winners:
        config = knobs.overlay(winner.default, dict(decision.setting))
        gain = decision.tested.gains.get(winner.problem.tokens) if decision.tested else None
        if config == winner.default or gain is None:
            changed.append(replace(winner, config=config, gain=0.0, gain_low=0.0, gain_high=0.0))
        else:
            changed.append(
                replace(winner, config=config, gain=gain.value, gain_low=gain.low, gain_high=gain.high)
            )
    return changed


def decision_json(decision: MixDecision[Setting]) -> dict[str, Any]:
    """The decision for the manifest."""
    tested = decision.tested
    return {
        "mix": {str(tokens): share for tokens, share in decision.mix.weights.items()},
        "guards": list(decision.mix.guards),
        "margin": decision.mix.margin,
        "notes": list(decision.notes),
        "candidates": [
            {
                "variables": dict(line.setting),
                "gain_of_mix": line.mean,
                "gains": {str(tokens): gain for tokens, gain in line.gains.items()},
                "refused": line.refused,
                "chosen": line.setting == decision.setting,
            }
            for line in decision.candidates
        ],
        "tested": tested
        and {
            "variables": dict(tested.setting),
            "gain_of_mix": tested.mean.value,
            "gain_95": [tested.mean.low, tested.mean.high],
            "gains_95": {str(tokens): [gain.low, gain.high] for tokens, gain in tested.gains.items()},
            "failed": tested.failed,
        },
    }


def decision_lines(decision: MixDecision[Setting]) -> Iterator[str]:
    """The decision table: a line a setting, gains over the default by tokens; then the test of the best."""
    if not decision.candidates:
        yield "Every shape kept the default, so every knob stays unset."
        return
    mix = ", ".join(f"{tokens}: {share:.0%}" for tokens, share in decision.mix.weights.items())
    guards = ", ".join(map(str, decision.mix.guards))
    margin = percent(decision.mix.margin)
    guarded = (
        f"guards {guards} may lose up to {margin}" if guards else "no guards: nothing is known of prefill"
    )
    yield f"One setting for every shape, over the mix {mix}; {guarded}."
    for note in decision.notes:
        yield f"  {note}"
    columns = sorted({*decision.mix.weights, *decision.mix.guards})
    yield "  " + "".join(f"{m:>9}" for m in columns) + f"{'mix':>9}  setting"
    for line in decision.candidates:
        cells = [percent(line.gains[m], signed=True) if m in line.gains else "-" for m in columns]
        mean = "-" if line.mean is None else percent(line.mean, signed=True)
        name = setting_text(line.setting)
        mark = "chosen: " if line.setting == decision.setting else ""
        why = f" (refused: {line.refused})" if line.refused else ""
        yield "  " + "".join(f"{cell:>9}" for cell in cells) + f"{mean:>9}  {mark}{name}{why}"
    if decision.tested:
        tested = decision.tested
        end = f"kept default: {tested.failed}" if tested.failed else "confirmed"
        setting, gain = setting_text(tested.setting), gain_text(tested.mean)
        yield f"  Tested on other routings: {setting}: mix {gain}; {end}"
        for tokens, interval in tested.gains.items():
            yield f"    {tokens:>6} tokens {gain_text(interval)}"
