"""Gives a search that begins again the results of earlier trials."""

from collections.abc import Iterable

from autotune.protocol.backend import remedy
from autotune.results import Status
from autotune.space.config import Config
from autotune.store.records import TrialRecord

# What a busy machine, a short limit or another tenant of the GPU brings about says nothing for ever.
_TRY_AGAIN = (Status.COMPILE_TIMEOUT, Status.TIMEOUT, Status.RUNTIME_ERROR)


def known_results(trials: Iterable[TrialRecord], *, allow_spills: bool) -> dict[Config, float | None]:
    """Configs that need not be tried again, with their microseconds; None: none are to be had.

    The first time of a config counts. A config that was ever found incorrect has none, whatever it had
    before. Spills are judged anew, since whether they are allowed may have changed.

    Args:
        trials: comparable ones, oldest first.
    """
    known: dict[Config, float | None] = {}
    incorrect = set()
    for trial in trials:
        if trial.status is Status.INCORRECT:
            incorrect.add(trial.config)
        spills_refused = bool(trial.facts.spills) and not allow_spills
        if trial.status is Status.OK:
            known.setdefault(trial.config, None if spills_refused else trial.time_us)
        elif trial.status is Status.CONSTRAINT and trial.facts.spills and allow_spills:
            continue  # refused for its spills, perhaps: it is compiled and judged again
        elif trial.status not in _TRY_AGAIN and not _environments(trial):
            known.setdefault(trial.config, None)
    return known | dict.fromkeys(incorrect)


def _environments(trial: TrialRecord) -> bool:
    """Whether it failed for what was missing on the machine: what earlier versions stored."""
    return trial.status is Status.COMPILE_ERROR and remedy(trial.reason or "") is not None
