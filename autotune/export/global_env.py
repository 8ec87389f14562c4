"""The one process environment for a server that sees every shape, chosen from the confirmations.

Per-shape winners of a backend whose knobs are environment variables contradict each other. What is exported
is a setting that was measured, as a whole, at every shape of the mix and at every guard.
"""

from collections.abc import Hashable, Mapping, Sequence
from statistics import median
from typing import Any, TypeVar

from autotune.errors import UserError
from autotune.export.env_knobs import EnvKnobs
from autotune.export.mix import Decision, Mix, decide, even
from autotune.results import Confirmation, LayerConfig
from autotune.store.records import WinnerRecord
from autotune.store.store import Store

Setting = tuple[tuple[str, str], ...]
"""Variables by name; none at all is the engine as it ships."""


Shape = TypeVar("Shape", bound=Hashable)


def shared_finalists(
    knobs: EnvKnobs, defaults: Mapping[Shape, LayerConfig], best: Mapping[Shape, Sequence[LayerConfig]]
) -> dict[Shape, list[LayerConfig]]:
    """What a final must time at each shape, so that a setting for all of them can be chosen.

    Every setting that is among the best of some shape is timed at every shape, the guards included: as the
    config that the engine would run there under it.

    Args:
        defaults: the engine's default by shape, for all shapes and guards.
        best: candidates by shape; guards need none.
    """
    settings: dict[Setting, None] = {}
    for shape, configs in best.items():
        for config in configs:
            if knobs.deployable(config, defaults[shape]):
                settings[tuple(sorted(knobs.variables(config, defaults[shape]).items()))] = None
    return {
        shape: list(dict.fromkeys([default, *(knobs.overlay(default, dict(s)) for s in settings)]))
        for shape, default in defaults.items()
    }


def measured_times(
    store: Store, winners: Sequence[WinnerRecord], knobs: EnvKnobs
) -> dict[Setting, dict[int, float]]:
    """Median microseconds of the layer by setting and tokens, from the winners' confirmations.

    Under one setting the engine runs different configs at different shapes, since its own rule decides what
    is unset. So a setting counts as measured at a shape where the config that it makes of that shape's
    default was a finalist.
    """
    shapes = []
    settings: dict[Setting, None] = {(): None}
    for winner in winners:
        if winner.confirmation is None:
            raise UserError(
                "a setting for several shapes is chosen from confirmations, and estimates have none: run on"
                " the card, or export one shape"
            )
        times = _times(store.confirmation(winner.confirmation).confirmation)
        shapes.append((winner, times))
        for config in times:
            if knobs.deployable(config, winner.default):
                settings[tuple(sorted(knobs.variables(config, winner.default).items()))] = None
    measured: dict[Setting, dict[int, float]] = {setting: {} for setting in settings}
    for setting in settings:
        for winner, times in shapes:
            config = knobs.overlay(winner.default, dict(setting))
            if config in times:
                measured[setting][winner.problem.tokens] = times[config]
    return measured


def _times(confirmation: Confirmation) -> dict[LayerConfig, float]:
    """Median microseconds of each finalist that passed the numeric gate and was timed."""
    times = {}
    for index, finalist in enumerate(confirmation.finalists):
        rounds = [one.us[index]["layer"] for one in confirmation.rounds if one.us[index]]
        if confirmation.errors[index] is not None and rounds:
            times[finalist.config] = median(rounds)
    return times


def choose(store: Store, winners: Sequence[WinnerRecord], knobs: EnvKnobs, mix: Mix) -> Decision[Setting]:
    """The setting to export.

    Args:
        mix: without weights, every tuned shape that is no guard weighs the same.

    Raises:
        UserError: a shape of the mix or a guard was not measured.
    """
    if not mix.weights:
        tokens = [winner.problem.tokens for winner in winners]
        decoding = [m for m in tokens if m not in mix.guards] or tokens
        mix = Mix.of(even(decoding), mix.guards, mix.margin)
    return decide(measured_times(store, winners, knobs), (), mix)


def decision_json(decision: Decision[Setting]) -> dict[str, Any]:
    """The decision for the manifest."""
    return {
        "mix": {str(tokens): share for tokens, share in decision.mix.weights.items()},
        "guards": list(decision.mix.guards),
        "margin": decision.mix.margin,
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
    }
