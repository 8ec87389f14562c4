"""Two drivers on one PostgreSQL database: nothing is measured twice, and a dead one's work returns."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from autotune.problem.layer import Stage
from autotune.results import Status
from autotune.store.records import RunState, StoredTrial
from autotune.store.store import Store
from autotune.tuning.sharing import SharedWork
from tests.cli.helper import env
from tests.store import examples
from tests.store.postgres import postgres as postgres
from tests.store.postgres import shared_url as shared_url
from tests.tuning.shared_driver import PROBLEM

CONFIGS = 2 * 41


def _driver(url: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tests.tuning.shared_driver", url]
    return subprocess.Popen(command, env=env(), stdout=subprocess.PIPE, text=True, start_new_session=True)


def _tried(store: Store) -> dict[int, list[StoredTrial]]:
    """What each run tried in its search, without the races before a final."""
    return {
        run.id: [trial for trial in store.trials_of(run.id) if trial.origin != "race"] for run in store.runs()
    }


def _wait_for(store: Store, trials: int, runs: int) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        tried = _tried(store)
        if sum(len(of) >= trials for of in tried.values()) >= runs:
            return
        time.sleep(0.1)
    raise AssertionError(f"after two minutes there are {Counter({r: len(t) for r, t in tried.items()})}")


@pytest.mark.slow
@pytest.mark.fault
def test_two_drivers_share_the_work_and_the_final(shared_url: str) -> None:
    with Store.open(shared_url) as store:
        drivers = [_driver(shared_url) for _ in range(2)]
        assert [driver.wait(200) for driver in drivers] == [0, 0]
        tried = _tried(store)
        measured = Counter((t.stage, t.config) for trials in tried.values() for t in trials)
        assert max(measured.values()) == 1
        assert len(measured) == CONFIGS
        assert len(tried) == 2
        assert all(tried.values())
        (winner,) = store.winners(problem=PROBLEM)
        assert winner.config.stage1["us"] == winner.config.stage2["us"] == 8000
        with store.reading() as session:
            finals = session.connection().exec_driver_sql("SELECT count(*) FROM confirmations").scalar()
        assert finals == 1


@pytest.mark.slow
@pytest.mark.fault
def test_a_dead_drivers_work_returns(shared_url: str) -> None:
    with Store.open(shared_url) as store:
        first, second = _driver(shared_url), _driver(shared_url)
        _wait_for(store, trials=5, runs=2)
        os.killpg(first.pid, signal.SIGKILL)
        assert second.wait(200) == 0
        first.wait()
        tried = _tried(store)
        # Each once: what the dead one finished counts, and what it had claimed was done by the other.
        ok = Counter(
            (t.stage, t.config) for trials in tried.values() for t in trials if t.status is Status.OK
        )
        assert len(ok) == CONFIGS
        assert max(ok.values()) == 1
        assert {stage for stage, _ in ok} == set(Stage)
        assert len(store.winners(problem=PROBLEM)) == 1
        assert [run.state for run in store.runs()].count(RunState.FINISHED) == 1


def test_runs_that_ask_for_unlike_things_have_finals_of_their_own(shared_url: str) -> None:
    with Store.open(shared_url) as store:

        def driver(**asked: Any) -> SharedWork:
            backend = SimpleNamespace(name="triton")
            run = store.begin_run("autotune run", {"min_gain": 0.01, "workers": 1, **asked}, 0)
            current: Any = SimpleNamespace(
                store=store, id=run, backend=backend, environment=examples.MI325X, searches={}
            )
            return SharedWork(current, "cold")

        first, equal, other = driver(), driver(workers=8), driver(min_gain=0.5)
        assert first.take_final(examples.M4) is None
        assert other.take_final(examples.M4) is None, "though the first one's is under way"
        winner = examples.win(store, 1)
        decided = equal.take_final(examples.M4)
        assert decided is not None
        assert decided.id == winner
        assert other.take_final(examples.M4) is None, "nor is it its own now"
        first.final_ended(examples.M4)
        with driver() as later:  # which began when it was decided
            assert later.take_final(examples.M4) is None, "and waits for nobody"
