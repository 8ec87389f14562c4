"""Runs: their states, and those whose process was killed."""

import os
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from autotune.errors import UserError
from autotune.processes.process import Process
from autotune.store.records import RunState
from autotune.store.schema import Run
from autotune.store.store import Store
from tests.store.examples import M4, MI325X, OFFLINE, begin, trial


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


def test_a_run_whose_process_is_gone_is_never_shown_as_running(store: Store, run: int, path: Path) -> None:
    """Not even by a command that may not write so."""
    store.record_trial(run, trial())
    own(store, run, ended_process())
    with Store.open(path, read_only=True) as reader:
        shown = reader.run(run)
    assert (shown.state, shown.shown_state) == (RunState.INTERRUPTED, "interrupted")
    assert shown.ended_at == store.trials_of(run)[-1].created_at
    assert stored_states(store) == [RunState.RUNNING]


def stored_states(store: Store) -> list[RunState]:
    with store.reading() as session:
        return list(session.scalars(select(Run.state).order_by(Run.id)))


def test_beginning_a_run_writes_that_the_killed_ones_ended(store: Store, run: int) -> None:
    own(store, run, ended_process())
    begin(store)
    assert stored_states(store) == [RunState.INTERRUPTED, RunState.RUNNING]


def test_a_run_under_way_is_left_alone(store: Store, run: int) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        own(store, run, Process.of(child.pid))
        begin(store)
        assert store.run(run).shown_state == "running"


HERE = Process.current()
BOOT, START, NAMESPACE = (HERE.identity or "::").split(":")
HOST = socket.gethostname()


@pytest.mark.parametrize(
    ("owner", "shown"),
    [
        (Process(HOST, HERE.pid, f"{BOOT}:{START}:{NAMESPACE}"), "running"),
        # A later process has its pid.
        (Process(HOST, HERE.pid, f"{BOOT}:1:{NAMESPACE}"), "interrupted"),
        # The machine was started anew.
        (Process(HOST, HERE.pid, f"an earlier boot:{START}:{NAMESPACE}"), "interrupted"),
        # As versions up to 0.1.0 wrote it.
        (Process(HOST, HERE.pid, f"{BOOT}:{START}"), "running"),
        (Process(HOST, HERE.pid, f"{BOOT}:1"), "interrupted"),
        # A container has a name of its own, and here counts pids with its machine.
        (Process("container", HERE.pid, f"{BOOT}:{START}:{NAMESPACE}"), "running"),
        (Process("container", HERE.pid, f"{BOOT}:1:{NAMESPACE}"), "interrupted"),
        # Another container, another machine: nobody here knows.
        (Process(HOST, HERE.pid, f"{BOOT}:{START}:1"), "unknown"),
        (Process("another-host", HERE.pid, f"{BOOT}:{START}"), "unknown"),
        (Process("another-host", HERE.pid, f"another boot:{START}:{NAMESPACE}"), "unknown"),
    ],
)
def test_what_can_be_known_of_a_process(store: Store, run: int, owner: Process, shown: str) -> None:
    own(store, run, owner)
    assert store.run(run).shown_state == shown


def test_of_a_process_out_of_sight_its_last_sign_of_life_is_told(store: Store, run: int) -> None:
    store.record_trial(run, trial())
    own(store, run, Process("another-host", 1, "another boot:1:1"))
    assert store.run(run).seen_at == store.trials_of(run)[-1].created_at
    begin(store)
    assert stored_states(store)[0] is RunState.RUNNING


def test_a_time_without_a_zone_is_refused(store: Store, run: int) -> None:
    with pytest.raises(Exception, match="without a zone"), store.writing() as session:
        session.get_one(Run, run).started_at = datetime.now() + timedelta()


def test_a_second_driver_of_a_file_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = {"problems": [M4.key]}
    store.begin_run("autotune run", spec, 0, MI325X, alone=True)
    store.begin_run("autotune run", spec, 0, MI325X, alone=True)  # the same process, one after the other
    monkeypatch.setattr("os.getpid", lambda: 1)
    with pytest.raises(UserError, match=r"tunes .*/m4.c1/.* already .* PostgreSQL"):
        store.begin_run("autotune run", spec, 0, MI325X, alone=True)
    store.begin_run("autotune run", {"problems": ["another"]}, 0, MI325X, alone=True)
    store.begin_run("autotune run", spec, 0, OFFLINE, alone=True)
    store.begin_run("autotune confirm", spec, 0, MI325X)
