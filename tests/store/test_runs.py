"""Runs: their states, and those whose process was killed."""

import os
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from autotune.store.process import Process
from autotune.store.records import RunState
from autotune.store.schema import Run
from autotune.store.store import Store
from tests.store.examples import MI325X, begin, trial


def test_a_run_comes_back_as_it_was_begun(store: Store) -> None:
    before = datetime.now(UTC)
    run = store.run(store.begin_run("autotune run", {"shape": ["m4"], "trials": None}, 3, MI325X))
    assert (run.command, run.spec, run.seed) == ("autotune run", {"shape": ["m4"], "trials": None}, 3)
    assert run.environment == MI325X
    assert (run.state, run.ended_at) == (RunState.RUNNING, None)
    assert (run.host, run.pid) == (socket.gethostname(), os.getpid())
    assert before <= run.started_at <= datetime.now(UTC)


def test_a_run_may_need_no_environment(store: Store) -> None:
    assert store.run(store.begin_run("autotune compare", {}, 0)).environment is None


@pytest.mark.parametrize("state", [RunState.FINISHED, RunState.INTERRUPTED, RunState.FAILED])
def test_a_run_ends_in_a_state_at_a_time(store: Store, run: int, state: RunState) -> None:
    store.end_run(run, state)
    ended = store.run(run)
    assert ended.state is state
    assert ended.ended_at is not None
    assert ended.started_at <= ended.ended_at


def test_runs_are_listed_oldest_first(store: Store) -> None:
    assert [begin(store), begin(store)] == [run.id for run in store.runs()]


def test_a_run_that_does_not_exist_is_a_lookup_error(store: Store) -> None:
    with pytest.raises(LookupError, match="runs has no row 99"):
        store.run(99)


def own(store: Store, run: int, owner: Process) -> None:
    """Makes the run another process's."""
    with store.writing() as session:
        row = session.get_one(Run, run)
        row.host, row.pid, row.process = owner.host, owner.pid, owner.identity


def ended_process() -> Process:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        return Process.of(child.pid)


def test_a_run_whose_process_is_gone_is_marked_at_its_last_sign_of_life(store: Store, run: int) -> None:
    store.record_trial(run, trial())
    own(store, run, ended_process())
    (marked,) = store.interrupt_dead_runs()
    assert marked == store.run(run)
    assert marked.state is RunState.INTERRUPTED
    assert marked.ended_at == store.trials_of(run)[-1].created_at
    assert store.interrupt_dead_runs() == []


def test_beginning_a_run_marks_the_killed_ones(store: Store, run: int) -> None:
    own(store, run, ended_process())
    begin(store)
    assert [each.state for each in store.runs()] == [RunState.INTERRUPTED, RunState.RUNNING]


def test_a_run_under_way_is_left_alone(store: Store, run: int) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        own(store, run, Process.of(child.pid))
        assert store.interrupt_dead_runs() == []


def test_a_later_process_of_equal_pid_is_another(store: Store, run: int) -> None:
    own(store, run, Process(socket.gethostname(), os.getpid(), "an earlier boot:1"))
    assert len(store.interrupt_dead_runs()) == 1


def test_nothing_is_known_of_another_hosts_processes(store: Store, run: int) -> None:
    own(store, run, Process("another-host", 1, "another boot:1"))
    assert store.interrupt_dead_runs() == []


def test_a_time_without_a_zone_is_refused(store: Store, run: int) -> None:
    with pytest.raises(Exception, match="without a zone"), store.writing() as session:
        session.get_one(Run, run).started_at = datetime.now() + timedelta()
