"""What a command reads before it answers is found by indices: no table that grows with trials is scanned."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import event

from autotune.problem.layer import Stage
from autotune.report.show import winners_at_a_glance
from autotune.report.winners import summarise
from autotune.store.store import Store
from tests.store.examples import M4, MI325X, config, trial, win

GROW = ("trials", "samples", "rounds", "finalists", "layers", "calibrations")
ON = {"backend": "triton", "environment_key": MI325X.key, "workload": "cold"}


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
        pytest.param(lambda s, r: [summarise(s, w) for w in s.winners(backend="triton")], id="export"),
        pytest.param(lambda s, r: s.record_trial(r, trial(config=config(1))), id="a trial"),
        pytest.param(lambda s, r: win(s, r), id="a winner"),
    ],
)
def test_nothing_that_grows_is_scanned(store: Store, run: int, read: Callable[[Store, int], Any]) -> None:
    store.record_trial(run, trial())
    win(store, run)
    asked: list[tuple[str, Any]] = []

    def note(_: Any, __: Any, statement: str, parameters: Any, ___: Any, many: bool) -> None:
        if statement.startswith("SELECT"):
            asked.append((statement, parameters))

    event.listen(store._database.engine, "before_cursor_execute", note)
    read(store, run)
    event.remove(store._database.engine, "before_cursor_execute", note)
    assert asked
    with store.reading() as session:
        connection = session.connection()
        for statement, parameters in asked:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
            scanned = [row[3] for row in plan if row[3].startswith(tuple(f"SCAN {name}" for name in GROW))]
            assert scanned == [], statement
