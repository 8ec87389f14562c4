"""The search of one stage of one problem: what to try next, given all that is known.

Optuna's study lives in memory and is rebuilt from the store; the store is the truth. Around its asks stand
three rules: the shipped default comes first, seeds next; a config is never given out twice; and a
suggestion that is illegal or known already is replaced by an untried legal neighbour of the best.
"""

import random
from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from autotune.search.joint import Expected, JointModel
from autotune.search.samplers import JOINT, make_sampler
from autotune.space.config import Config, Value
from autotune.space.space import BoundSpace

optuna.logging.set_verbosity(optuna.logging.WARNING)

_LEAST_RESULTS = 30  # before a search may be stopped
_QUIET = 3  # asks in a row at which the model must see too little to gain: its fits differ
_PATIENCE = 60  # results without gain after which a sampler without a model is stopped
_STALE = 1.2  # what the model expects is asked anew when there are so many times more results
_DOUBT = 0.1  # of a guess without a model
_NEAR_BEST = 5  # neighbours are taken of this many of the best


@dataclass(frozen=True)
class Ask:
    """A config to try.

    Attributes:
        origin: `default`, `asked`, a seed's label, `sweep`, `neighbour`, `shared` or the sampler's name.
    """

    config: Config
    origin: str


class StageSearch:
    """Ask/tell over the legal configs of one space.

    Args:
        sampler: see `samplers.sampler_names`.
        space: or a part of one. The default, what was asked for and published seeds are tried though they
            lie outside; the sampler hears of what is inside.
        budget: configs; a space that fits is swept whole.
        seeds: to try after the default.
        stop_when: ends when less gain than this fraction of the best's time is to be expected; None: never.
        model: what the sampler `joint` shares with the stage's searches at other token counts; None: alone.
        tokens: that the layer sees, for the model.
    """

    def __init__(
        self,
        space: BoundSpace,
        *,
        sampler: str,
        seed: int,
        budget: int,
        seeds: Iterable[Ask] = (),
        stop_when: float | None = None,
        model: JointModel | None = None,
        tokens: int = 1,
    ) -> None:
        self.space = space
        self._queue = deque([Ask(space.default, "default"), *_fitting(space, seeds)])
        self._outside = {ask.config for ask in self._queue if not space.is_legal(ask.config)}
        size = space.size + len(self._outside)
        self.budget = min(budget, size)
        self.sweeps = size <= budget
        self._sampler_name = sampler
        self._rng = random.Random(seed)
        self._distributions: dict[str, BaseDistribution] = {
            param.name: CategoricalDistribution([_choice(value) for value in param.values])
            for param in space.params
        }
        self._study = optuna.create_study(sampler=make_sampler(sampler, seed))
        self._model = (model or JointModel(seed)) if sampler == JOINT else None
        self._output = self._model.join(space, tokens) if self._model else 0
        self._running: dict[Config, int] = {}
        self.stopped: str | None = None
        """Why it ended before its budget, and what it left untried; None: it did not."""
        self._stop_when = stop_when
        self._since_gain = 0  # results since one was better than the best by more than `stop_when`
        self._quiet = 0  # asks in a row at which the model saw too little to gain
        self._void = 0  # trials that the study has on record beyond the configs that this search has
        self._known: dict[Config, float | None] = {}
        self._guessed: dict[Config, Expected] = {}
        self._guessed_at = 0
        self._sweep = iter(space) if self.sweeps else None

    @property
    def asked(self) -> int:
        """Configs given out or observed so far."""
        return len(self._known) + len(self._running)

    @property
    def told(self) -> int:
        """Configs of which it is known what became of them."""
        return len(self._known)

    @property
    def done(self) -> bool:
        """The budget is spent, nothing untried is left, or it was stopped."""
        return self.asked >= self.budget or self.stopped is not None

    @property
    def results(self) -> list[tuple[Config, float]]:
        """Every config with a time, the fastest first."""
        ok = [(us, config.key, config) for config, us in self._known.items() if us is not None]
        return [(config, us) for us, _, config in sorted(ok)]

    @property
    def best(self) -> tuple[Config, float] | None:
        """The fastest config told of, with its microseconds."""
        results = self.results
        return results[0] if results else None

    @property
    def expected_improvement(self) -> float | None:
        """What its last proposal was expected to gain, as a fraction; None: no model, or no say yet."""
        return self._model.expected_improvement(self._output) if self._model else None

    def knows(self, config: Config) -> bool:
        """Whether `config` was given out or observed."""
        return config in self._known or config in self._running

    def was_told(self, config: Config) -> bool:
        """Whether it is known what became of `config`."""
        return config in self._known

    def time(self, config: Config) -> float | None:
        """Microseconds of a config, as told; None: it has none."""
        return self._known.get(config)

    def expected(self, configs: Collection[Config]) -> dict[Config, Expected]:
        """The time of each: as told, or as the model expects; without either, that of the slowest leader."""
        if len(self._known) > _STALE * self._guessed_at:
            self._guessed, self._guessed_at = {}, len(self._known)
        new = [c for c in configs if self.time(c) is None and c not in self._guessed]
        if new:
            said = self._model.expected(self._output, new) if self._model else None
            slowest = Expected(self.results[:_NEAR_BEST][-1][1], _DOUBT)
            self._guessed |= said or dict.fromkeys(new, slowest)
        return {
            config: self._guessed[config] if (us := self.time(config)) is None else Expected(us)
            for config in configs
        }

    def ask(self) -> Ask | None:
        """The next config to try; None when the search is done."""
        while self._queue:
            ask = self._queue.popleft()
            if not self.knows(ask.config) and not self.done:
                return self._give(ask)
        if self.done:
            return None
        if self._sweep is not None:
            config = next(c for c in self._sweep if not self.knows(c))
            return self._give(Ask(config, "sweep"))
        self._consider_stopping()
        return None if self.done else self._suggest()

    def join(self, config: Config, *, required: bool = False) -> bool:
        """Takes on a config that another search asks for, since one binary serves both.

        Args:
            required: the other search's time is worth nothing without this one's: budget or not.

        Returns:
            Whether this search takes part: the config is legal here, not known yet, and budget is left.
        """
        if self.knows(config) or not self.space.is_legal(config) or (self.done and not required):
            return False
        # What is queued has its place in the budget: the default is tried whatever others ask for.
        if (
            not required
            and self.asked + sum(not self.knows(ask.config) for ask in self._queue) >= self.budget
        ):
            return False
        self._give(Ask(config, "shared"))
        return True

    def queue(self, ask: Ask) -> None:
        """Puts a config on the list of those to try before anything is suggested; an illegal one is not."""
        if self.space.is_legal(ask.config):
            self._queue.append(ask)

    def tell(self, config: Config, us: float | None) -> None:
        """What became of a config that `ask` gave: its microseconds, or None when there are none."""
        best = self.best
        gained = us is not None and (best is None or us < best[1] * (1 - (self._stop_when or 0.0)))
        self._since_gain = 0 if gained else self._since_gain + 1
        number = self._running.pop(config)
        if config in self._outside:
            self._known[config] = us
            return
        # A failure is pruned, not failed: samplers learn to keep away from what was pruned.
        if us is None:
            self._study.tell(number, state=TrialState.PRUNED)
        else:
            self._study.tell(number, us)
        self._known[config] = us
        if self._model:
            self._model.tell(self._output, config, us)

    def observe(self, config: Config, us: float | None) -> bool:
        """A result that this search did not ask for: stored earlier, or measured for another problem.

        Returns:
            Whether it counts: it is new, and of the part that is searched or to be tried anyhow.
        """
        if self.knows(config):
            return False
        if config in self._outside:
            self._known[config], self._void = us, self._void - 1
            return True
        if self.space.whole is not self.space and not self.space.is_legal(config):
            return False
        state = TrialState.PRUNED if us is None else TrialState.COMPLETE
        self._study.add_trial(self._frozen(config, state, us))
        self._known[config] = us
        if self._model:
            self._model.tell(self._output, config, us)
        return True

    def _consider_stopping(self) -> None:
        """Stops, with the reason, when further gain is unlikely: by the model, or by a long lack of it."""
        if self._stop_when is None or len(self._known) < _LEAST_RESULTS:
            return
        left = f"{self.space.size - self.asked:,} of {self.space.size:,} legal configs were not tried"
        if self._model:
            gain = self._model.expected_gain(self._output, self.knows)
            self._quiet = self._quiet + 1 if gain is not None and gain < self._stop_when else 0
            if self._quiet >= _QUIET and gain is not None:
                reason = f"no untried config is expected to gain more than {gain:.2%}"
                self.stopped = f"{reason} (--stop-when {self._stop_when:g}); {left}"
        elif self._since_gain >= _PATIENCE:
            reason = f"the last {self._since_gain} results gained nothing"
            self.stopped = f"{reason} (--stop-when {self._stop_when:g}); {left}"

    def _give(self, ask: Ask) -> Ask:
        if ask.config in self._outside:
            self._running[ask.config] = -1
            self._void -= 1
            return ask
        # Not by way of `ask`: a sampler would work out a suggestion, only for it to be overruled.
        self._study.add_trial(self._frozen(ask.config, TrialState.RUNNING))
        self._running[ask.config] = len(self._known) + len(self._running) + self._void
        if self._model:
            self._model.start(ask.config)
        return ask

    def _suggest(self) -> Ask:
        if self._model:
            config = self._model.propose(self._output, self.knows)
            if config is not None:
                return self._give(Ask(config, JOINT))
            return self._give(Ask(self._substitute(), "neighbour"))
        trial = self._study.ask(self._distributions)
        config = Config({name: _value(choice) for name, choice in trial.params.items()})
        if not self.knows(config) and self.space.is_legal(config):
            self._running[config] = trial.number
            return Ask(config, self._sampler_name)
        self._study.tell(trial.number, state=TrialState.FAIL)
        self._void += 1
        return self._give(Ask(self._substitute(), "neighbour"))

    def _substitute(self) -> Config:
        """An untried legal neighbour of one of the best; any untried legal config when there is none."""
        for config, _ in self.results[:_NEAR_BEST]:
            untried = [near for near in self.space.neighbours(config) if not self.knows(near)]
            if untried:
                return self._rng.choice(untried)
        for _ in range(1000):
            config = self.space.sample(self._rng)
            if not self.knows(config):
                return config
        return next(config for config in self.space if not self.knows(config))

    def _frozen(self, config: Config, state: TrialState, us: float | None = None) -> FrozenTrial:
        return create_trial(
            state=state,
            params=_choices(config),
            distributions=self._distributions,
            value=us,
        )


EARLIER = "earlier"
"""Origin of what won before, at near shapes or on other stacks."""


def _fitting(space: BoundSpace, seeds: Iterable[Ask]) -> list[Ask]:
    """Seeds as configs of the space: a winner of another device may lack a knob, or have one too many.

    Where a part is searched, earlier winners outside of it are left out.
    """
    fitted = []
    params = {param.name: param for param in space.whole.params}
    for seed in seeds:
        known = {
            name: value
            for name, value in seed.config.items()
            if name in params and params[name].offers(value)
        }
        config = space.complete(known)
        if (space if seed.origin == EARLIER else space.whole).is_legal(config):
            fitted.append(Ask(config, seed.origin))
    return fitted


# Optuna takes None as a choice, but its storages sort choices by text: a word is safer.
_UNSET_CHOICE = "unset"


def _choice(value: Value) -> int | str | bool:
    return _UNSET_CHOICE if value is None else value


def _value(choice: int | str | bool) -> Value:
    return None if choice == _UNSET_CHOICE else choice


def _choices(config: Config) -> dict[str, int | str | bool]:
    return {name: _choice(value) for name, value in config.items()}
