"""What a command reads before it answers is found by indices: no table that grows with trials is scanned."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from autotune.problem.layer import Stage
from autotune.report.show import winners_at_a_glance
from autotune.report.winners import summarise
from autotune.store.store import Store
from tests.store.examples import M4, MI325X, config, confirmation, trial, win

GROW = ("trials", "samples", "rounds", "finalists", "layers", "calibrations")
ON = {"backend": "triton", "environment_key": MI325X.key, "workload": "cold"}


def _asked(store: Store, read: Callable[[], Any]) -> list[tuple[str, Any]]:
    """The SELECTs, with their parameters, of what is read."""
    asked: list[tuple[str, Any]] = []

    def note(_: Any, __: Any, statement: str, parameters: Any, ___: Any, many: bool) -> None:
        if statement.startswith("SELECT"):
            asked.append((statement, parameters))

    event.listen(store._database.engine, "before_cursor_execute", note)
    read()
    event.remove(store._database.engine, "before_cursor_execute", note)
    return asked


@pytest.mark.parametrize(
    "read",
    [
        pytest.param(lambda s, r: s.trials(problem=M4, stage=Stage.STAGE1, **ON), id="resume"),
        pytest.param(
            lambda s, r: s.trials(problem=M4, stage=Stage.STAGE1, config=config(256), **ON), id="a config"
        ),
        pytest.param(lambda s, r: s.gpus_of(M4, **ON), id="where it was measured"),
        pytest.param(lambda s, r: s.trials_of(r), id="a run"),
        pytest.param(lambda s, r: s.trial_counts(r), id="a run's counts"),
        pytest.param(lambda s, r: s.calibration(r), id="a run's calibration"),
        pytest.param(lambda s, r: s.trials_of_others(r, [M4], after=0, **ON), id="other drivers"),
        pytest.param(lambda s, r: s.nearby_winners(M4, "triton"), id="seeds"),
        pytest.param(lambda s, r: winners_at_a_glance(s, newest=20), id="show"),
        pytest.param(lambda s, r: summarise(s, s.winners(backend="triton")), id="export"),
        pytest.param(lambda s, r: s.record_trial(r, trial(config=config(1))), id="a trial"),
        pytest.param(lambda s, r: win(s, r), id="a winner"),
    ],
)
def test_nothing_that_grows_is_scanned(store: Store, run: int, read: Callable[[Store, int], Any]) -> None:
    store.record_trial(run, trial())
    win(store, run)
    asked = _asked(store, lambda: read(store, run))
    assert asked
    with store.reading() as session:
        connection = session.connection()
        for statement, parameters in asked:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
            scanned = [row[3] for row in plan if row[3].startswith(tuple(f"SCAN {name}" for name in GROW))]
            assert scanned == [], statement


@pytest.mark.parametrize(
    ("read", "questions"),
    [
        pytest.param(lambda s: winners_at_a_glance(s), 10, id="show"),
        pytest.param(lambda s: s.verdicts_of(s.winners()), 7, id="export"),
        pytest.param(
            lambda s: s.record_export(Path("b"), "0" * 64, [w.id for w in s.winners()]), 7, id="kept"
        ),
    ],
)
def test_what_many_winners_have_in_common_is_asked_for_once(
    store: Store, run: int, read: Callable[[Store], Any], questions: int
) -> None:
    """However many there are, each with a problem of its own, there are as many questions."""
    counts = []
    for tokens in (1, 2, 3):
        win(store, run, replace(confirmation(), problem=replace(M4, verify_tokens=tokens)))
        with store.at_once():
            counts.append(len(_asked(store, lambda: read(store))))
    assert counts == [questions] * 3


def test_only_what_is_read_at_once_shares_a_transaction(store: Store, run: int) -> None:
    with store.at_once(), store.reading() as first:
        with store.at_once(), store.reading() as inner:
            assert inner is first
        with store.reading() as second:
            assert second is first
    with store.reading() as later:
        assert later is not first
