"""A killed process loses nothing that was recorded."""

import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from autotune.store.records import RunState
from autotune.store.store import Store

WRITER = """
from autotune.results import Sample
from autotune.store.store import Store
from tests.store.examples import begin, trial

store = Store.open()
run = begin(store)
while True:
    print(store.record_trial(run, trial(), [Sample(41.5)] * 20), flush=True)
"""


@pytest.mark.fault
def test_a_writer_killed_at_work_loses_nothing_that_was_recorded(path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        recorded = [int(writer.stdout.readline()) for _ in range(50)]
        writer.send_signal(signal.SIGKILL)
        recorded += [int(line) for line in writer.stdout.read().split("\n")[:-1] if line]
    assert writer.returncode == -signal.SIGKILL

    with Store.open(path) as store:
        (run,) = store.runs()
        stored = [trial.id for trial in store.trials_of(run.id)]
        # One more may be there: committed, but killed before it could say so.
        assert stored in (recorded, [*recorded, recorded[-1] + 1])
        assert all(len(store.samples(id_)) == 20 for id_ in stored)
        with sqlite3.connect(path) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)

        assert run.state is RunState.INTERRUPTED
