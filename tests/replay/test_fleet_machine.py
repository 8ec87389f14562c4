"""The replayed machine with several GPUs, which work at the same time; the driver passes time as well."""

from collections.abc import Iterator
from typing import Any

import pytest
from bench.fleet import Costs, FleetMachine, makespan, simulate

from autotune.problem.layer import Problem, Stage
from autotune.replay.table import Table

S1 = Stage.STAGE1
FREE = Costs(network_s=0.0)


def good(table: Table, count: int) -> list[Any]:
    return [row for row in table.stages[S1].rows if row.us(1) is not None][:count]


def still() -> float:
    """A clock of a driver that takes no time."""
    return 0.0


def test_gpus_work_at_the_same_time(table: Table) -> None:
    machine = FleetMachine(table, 2, FREE, still)
    rows = good(table, 3)
    problem = Problem(table.layer, 1)
    futures = [machine.evaluate(problem, S1, row.config, row.compiled) for row in rows]
    while not all(future.done() for future in futures):
        machine.wait([future for future in futures if not future.done()])
    a, b, c = (row.outcomes[1].seconds for row in rows)
    assert machine.now() == pytest.approx(max(a, b, min(a, b) + c))
    assert machine.device_s == pytest.approx(a + b + c)


def test_what_has_one_binary_stays_on_one_gpu(table: Table) -> None:
    machine = FleetMachine(table, 2, FREE, still)
    (row,) = good(table, 1)
    futures = [machine.evaluate(p, S1, row.config, row.compiled) for p in table.problems[:2]]
    while not all(future.done() for future in futures):
        machine.wait([future for future in futures if not future.done()])
    assert machine.now() == pytest.approx(row.outcomes[1].seconds + row.outcomes[2].seconds)


def test_another_nodes_gpu_costs_the_network(table: Table) -> None:
    machine = FleetMachine(table, 2, Costs(network_s=100.0, gpus_a_node=1), still)
    first, second = good(table, 2)
    problem = Problem(table.layer, 1)
    near = machine.evaluate(problem, S1, first.config, first.compiled)
    far = machine.evaluate(problem, S1, second.config, second.compiled)
    machine.wait([near])
    assert machine.now() == pytest.approx(first.outcomes[1].seconds)
    machine.wait([far])
    assert machine.now() == pytest.approx(second.outcomes[1].seconds + 100)


def test_the_drivers_own_work_passes_time(table: Table) -> None:
    def hands() -> Iterator[float]:
        yield 0.0
        yield 1000.0
        while True:
            yield 1000.0

    read = hands()
    machine = FleetMachine(table, 1, FREE, lambda: next(read))
    (row,) = good(table, 1)
    future = machine.evaluate(Problem(table.layer, 1), S1, row.config, row.compiled)
    machine.wait([future])
    assert machine.driver_s == 1000.0
    assert machine.now() == 1000.0  # the GPU was done meanwhile


def test_a_whole_search_is_simulated_and_more_gpus_are_no_slower(table: Table) -> None:
    alone, many = (simulate(table, table.problems[:2], gpus, 6, 0, FREE) for gpus in (1, 4))
    assert alone.evaluations == many.evaluations > 0
    # The driver's own seconds are real ones: they are all that may come on top.
    assert many.search_s <= alone.search_s + many.driver_s


def test_the_makespan_of_entries() -> None:
    assert makespan([5.0, 1.0, 1.0, 4.0], 2) == 6.0
