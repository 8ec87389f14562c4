"""A table of times: every finalist beside the default in each round, and nothing decided.

Knobs that are global to the process are chosen over a traffic mix, which may be told only at the export. So
their final is left open: what is kept is each setting's rounds at each shape. The first rounds are there to
choose by, the others to test the choice, both on routings that nothing else has seen.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from autotune.measure.confirm import RunRound, run_rounds
from autotune.measure.settings import MeasureSettings
from autotune.problem.layer import Problem
from autotune.results import Confirmation, Failure, Finalist, Round

TABLE_SELECT_SEED = 4_000_037
TABLE_JUDGE_SEED = 5_000_011
"""Offsets of the seeds of the table's routings; see `autotune.measure.confirm` for the others."""


def time_all(
    problem: Problem,
    finalists: Sequence[Finalist],
    gate: Callable[[int], "float | Failure"],
    run: RunRound,
    settings: MeasureSettings,
    twins: Mapping[int, int],
) -> Confirmation:
    """Times all finalists in `select_rounds`, then in `judge_rounds` on other routings.

    Args:
        gate, run: see `autotune.measure.confirm.confirm`; only `layer` is looked at.
        twins: finalists that are the same program as an earlier one, whose times they share.

    Returns:
        The rounds, those to choose by first. Its winner and gain are the default's, as nothing is decided.
    """
    errors: list[float | None] = []
    notes: list[str] = []

    def fails(index: int, failure: Failure) -> None:
        notes.append(f"{finalists[index].label} was not timed: {failure.status}: {failure.reason}")

    for index in range(len(finalists)):
        if index in twins:
            errors.append(errors[twins[index]])
            notes.append(
                f"{finalists[index].label} is the same program as {finalists[twins[index]].label} here"
            )
            continue
        checked = gate(index)
        errors.append(None if isinstance(checked, Failure) else checked)
        if isinstance(checked, Failure):
            fails(index, checked)
    rounds: list[Round] = []
    for count, seed in (
        (settings.select_rounds, TABLE_SELECT_SEED),
        (settings.judge_rounds, TABLE_JUDGE_SEED),
    ):
        if errors[0] is None:  # nothing can be compared
            break
        field = [index for index, error in enumerate(errors) if error is not None and index not in twins]
        done, failed = run_rounds(run, field, len(finalists), count, settings.seed + seed)
        rounds += done
        for index, failure in failed.items():
            fails(index, failure)
            for other in (index, *(twin for twin, of in twins.items() if of == index)):
                errors[other] = None
    shared = [
        replace(paired, us=tuple(paired.us[twins.get(index, index)] for index in range(len(finalists))))
        for paired in rounds
    ]
    notes.append("a table of settings: nothing is decided here")
    return Confirmation(
        problem, tuple(finalists), tuple(shared), tuple(errors), 0, 0.0, 0.0, 0.0, tuple(notes)
    )
