"""The one process environment for a server that sees every shape, chosen from the confirmations.

Per-shape winners of a backend whose knobs are environment variables contradict each other. What is exported
is a setting that was measured, as a whole, at every shape of the mix and at every guard.
"""

from collections.abc import Sequence
from statistics import median
from typing import Any

from autotune.export.formats import environment_of
from autotune.export.mix import Decision, Mix, decide, even
from autotune.results import LayerConfig
from autotune.store.records import WinnerRecord
from autotune.store.store import Store

Setting = tuple[tuple[str, str], ...]
"""Variables by name."""


def setting_of(backend: str, config: LayerConfig) -> Setting:
    """The variables of a layer config."""
    return tuple(sorted(environment_of(backend, config).items()))


def is_global(winners: Sequence[WinnerRecord]) -> bool:
    """Whether the winners' knobs are environment variables."""
    return any(
        setting_of(winner.backend, winner.config) != setting_of(winner.backend, winner.default)
        for winner in winners
    )


def measured_times(store: Store, winners: Sequence[WinnerRecord]) -> dict[Setting, dict[int, float]]:
    """Median microseconds of the layer by setting and tokens, from the winners' confirmations.

    Two finalists with one setting at one shape, e.g. of unlike block sizes, count with the faster.
    """
    times: dict[Setting, dict[int, float]] = {}
    for winner in winners:
        if winner.confirmation is None:
            continue
        confirmation = store.confirmation(winner.confirmation).confirmation
        for index, finalist in enumerate(confirmation.finalists):
            if confirmation.errors[index] is None:
                continue  # it failed the numeric gate and was not timed
            rounds = [one.us[index]["layer"] for one in confirmation.rounds if one.us[index]]
            if rounds:
                own = times.setdefault(setting_of(winner.backend, finalist.config), {})
                tokens = winner.problem.tokens
                own[tokens] = min(own.get(tokens, float("inf")), median(rounds))
    return times


def choose(store: Store, winners: Sequence[WinnerRecord], mix: Mix) -> Decision[Setting]:
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
    default = setting_of(winners[0].backend, winners[0].default)
    return decide(measured_times(store, winners), default, mix)


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
