"""The replayed machine's costs are the recorded ones."""

from concurrent.futures import Future
from typing import Any

import pytest

from autotune.machine.targets import Kind
from autotune.problem.layer import Problem, Stage
from autotune.replay.machine import ReplayMachine
from autotune.replay.table import Table
from autotune.results import Compiled

S1 = Stage.STAGE1


def good(table: Table, count: int) -> list[Any]:
    rows = [row for row in table.stages[S1].rows if row.us(1) is not None]
    return rows[:count]


def test_compiles_run_side_by_side(table: Table) -> None:
    rows = good(table, 3)
    machine = ReplayMachine(table, compile_processes=2)
    futures = [machine.submit(table.layer, 1, S1, row.config) for row in rows]
    while not all(future.done() for future in futures):
        machine.wait([future for future in futures if not future.done()])
    a, b, c = (row.compiled.seconds for row in rows)
    assert machine.now() == pytest.approx(max(a, b, min(a, b) + c))
    assert machine.compile_s == pytest.approx(a + b + c)


def test_one_compile_is_paid_once(table: Table) -> None:
    machine = ReplayMachine(table)
    (row,) = good(table, 1)
    assert machine.submit(table.layer, 1, S1, row.config) is machine.submit(table.layer, 4, S1, row.config)
    assert machine.compile_s == row.compiled.seconds


def test_the_gpu_serves_one_at_a_time_while_compiles_go_on(table: Table) -> None:
    first, second = good(table, 2)
    machine = ReplayMachine(table, compile_processes=1)
    compiling = machine.submit(table.layer, 1, S1, second.config)
    evaluating = [machine.evaluate(p, S1, first.config, first.compiled) for p in table.problems[:2]]
    pending: list[Future[Any]] = [compiling, *evaluating]
    while pending:
        machine.wait(pending)
        pending = [future for future in pending if not future.done()]
    device = first.outcomes[1].seconds + first.outcomes[2].seconds
    assert machine.device_s == pytest.approx(device)
    assert machine.now() == pytest.approx(max(device, second.compiled.seconds))


def test_outcomes_are_the_recorded_ones_and_replayed(table: Table) -> None:
    (row,) = good(table, 1)
    machine = ReplayMachine(table)
    problem = Problem(table.layer, 1)
    future = machine.evaluate(problem, S1, row.config, row.compiled)
    machine.wait([future])
    assert future.result() == row.outcomes[1]
    assert isinstance(row.compiled, Compiled)
    assert machine.kind is Kind.REPLAYED
    assert machine.workload != table.workload


def test_waiting_for_what_never_comes_is_an_error(table: Table) -> None:
    with pytest.raises(RuntimeError, match="nothing is under way"):
        ReplayMachine(table).wait([Future()])
