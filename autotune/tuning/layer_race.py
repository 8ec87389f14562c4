"""Between search and final: the best layers run again, on routings that the search has not seen.

The least of hundreds of noisy times is too good to be true, and may suit the search's routings alone. So the
leaders race, beside the default, on routings of the race's own; the confirmation's are others again. They run
twice: as they are, and after a kernel that does nothing. In a graph of layers alone, programmatic dependent
launch lets a layer begin while the one before it ends; in serving an attention stands between them. Who gains
nothing then is out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from autotune.measure.confirm import decide_again
from autotune.measure.settings import MeasureSettings
from autotune.problem.layer import Problem
from autotune.protocol.runtime import What
from autotune.results import Confirmation, Finalist, LayerConfig, Round
from autotune.search.layers import LayerSearch
from autotune.search.study import EARLIER
from autotune.text import counted, percent
from autotune.tuning.context import Judge, Tuning
from autotune.tuning.searches import observe_layers

RACERS = 10
_HEATS = ((RACERS, 4), (5, 4))
"""So many run so many rounds, even: every pair of rounds has routings of its own."""
FINALISTS = 4


@dataclass(frozen=True)
class Racer:
    """A layer in the race.

    Attributes:
        expected: its time over the default's in the search; None: the search had not tried it.
        ratio, spaced: the same in the race, as it is and after a kernel that does nothing; None: not timed.
    """

    config: LayerConfig
    label: str
    expected: float | None
    ratio: float
    spaced: float | None

    @property
    def vanishes(self) -> bool:
        """Whether its gain does, where layers cannot overlap."""
        return self.spaced is not None and self.ratio < 1 <= self.spaced


@dataclass(frozen=True)
class LayerRace:
    """How a race ended.

    Attributes:
        racers: who ran, the fastest first.
        tried: layers that the search had timed.
    """

    default: LayerConfig
    racers: Sequence[Racer]
    tried: int
    settings: MeasureSettings

    def finalists(self, published: LayerConfig | None) -> list[Finalist]:
        """The default, the published config, the fastest racers, and an earlier winner however it ran."""
        chosen = {self.default: "default"}
        if published is not None:
            chosen.setdefault(published, "published")
        lasting = [racer for racer in self.racers if not racer.vanishes]
        for racer in lasting[:FINALISTS]:
            chosen.setdefault(racer.config, "candidate")
        for racer in lasting:
            if racer.label == EARLIER:
                chosen.setdefault(racer.config, "candidate")
        return [Finalist(label, config) for config, label in chosen.items()]

    def notes(self, confirmation: Confirmation) -> list[str]:
        """What was expected of whom the final put to the test, and who was left out for gaining nothing."""
        said = decide_again(confirmation, self.settings)
        of = {racer.config: racer for racer in self.racers}
        racer = of.get(confirmation.finalists[said.challenger].config) if said.challenger else None
        notes = []
        if racer is not None and said.ratio is not None:
            steps = [
                f"the least of {counted(self.tried, 'layer')} {percent(1 - racer.expected)}"
                if racer.expected is not None
                else "not tried in the search",
                f"on unseen routings {percent(1 - racer.ratio)}",
            ]
            if racer.spaced is not None:
                steps.append(f"after a kernel that does nothing {percent(1 - racer.spaced)}")
            notes.append(f"gain expected: {', '.join(steps)}; confirmed {percent(1 - said.ratio.value)}")
        lost = sum(racer.vanishes for racer in self.racers)
        if lost:
            notes.append(
                f"{counted(lost, 'layer')} left out: what they gain vanishes after a kernel that does nothing"
            )
        return notes


def race_layers(current: Tuning, judge: Judge, problem: Problem, search: LayerSearch) -> LayerRace | None:
    """Races the best layers of a search, and earlier winners on this stack; None: nothing could be timed."""
    observe_layers(current, problem, search)  # other drivers may have tried some
    expected = dict(search.results)
    field = dict.fromkeys(list(expected)[:RACERS], "candidate")
    earlier = current.store.winners(
        problem=problem,
        backend=current.backend.name,
        environment_key=current.environment.key,
        kind=judge.kind,
    )
    for winner in earlier:
        if not winner.kept_default and search.could(winner.config):
            field[winner.config] = EARLIER
    times: dict[LayerConfig, list[dict[str, float]]] = {config: [] for config in field}
    running, seed = list(field), 0
    for count, rounds in _HEATS:
        kept = set(running[:count]) | {config for config in running if field[config] == EARLIER}
        running = [config for config in running if config in kept]
        taken = judge.race(problem, [search.default, *running], rounds, seed)
        seed += rounds // 2
        for place, config in enumerate(running, 1):
            times[config] += [_ratios(round_, place) for round_ in taken]
        running = sorted(
            (config for config in running if all(times[config])),
            key=lambda config: _of(times[config], What.LAYER) or 9,
        )
    racers = [
        Racer(config, field[config], expected.get(config), ratio, _of(times[config], What.SPACED))
        for config in running
        if (ratio := _of(times[config], What.LAYER)) is not None
    ]
    if not racers:
        return None
    return LayerRace(search.default, racers, len(expected), current.request.measuring)


def _ratios(round_: Round, place: int) -> dict[str, float]:
    base, own = round_.us[0], round_.us[place]
    return {what: own[what] / base[what] for what in own.keys() & base.keys()}


def _of(ratios: Sequence[dict[str, float]], what: What) -> float | None:
    there = [ratio[what] for ratio in ratios if what in ratio]
    return median(there) if there else None
