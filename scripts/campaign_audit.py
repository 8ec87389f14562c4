"""A process under fault, and what the faults have cost: lost, wrong, damaged, or told as a traceback."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from autotune.report.why import why
from autotune.store.store import Store

ROOT = Path(__file__).resolve().parent.parent
CHILD = [sys.executable, "-W", "ignore", str(ROOT / "scripts" / "campaign_child.py")]


@dataclass
class Count:
    """What a part's faults cost."""

    faults: int = 0
    stored: int = 0
    lost: int = 0
    wrong_winners: int = 0
    tracebacks: int = 0
    damaged: int = 0
    seconds: float = 0.0
    what: list[str] = field(default_factory=list)

    def note(self, kind: str, text: str) -> None:
        setattr(self, kind, getattr(self, kind) + 1)
        self.what.append(f"{kind}: {text}")
        print(f"  {kind}: {text}", flush=True)


class Child:
    """A process under fault, with its journal and its output."""

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        self.journal = folder / "journal"
        self._output = folder / f"output-{time.monotonic_ns()}"
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [*CHILD, str(self.journal), *arguments],
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", **environment},
                start_new_session=True,
            )

    def wait(self, seconds: float) -> int | None:
        """The exit code; None: it goes on."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> None:
        """Kills the driver, as the OOM killer does, and then what it has left."""
        self.process.kill()
        self.process.wait()
        self.sweep()

    def sweep(self) -> None:
        """Ends what a killed driver's session still runs."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return

    def descendants(self) -> list[int]:
        """Processes below it, but for multiprocessing's resource tracker."""
        parents: dict[int, list[int]] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                    tracker = b"resource_tracker" in (entry / "cmdline").read_bytes()
                except (OSError, IndexError):
                    continue  # it has ended
                if not tracker:
                    parents.setdefault(parent, []).append(int(entry.name))
        below, todo = [], [self.process.pid]
        while todo:
            children = parents.get(todo.pop(), [])
            below += children
            todo += children
        return below

    def said(self) -> str:
        return self._output.read_text(errors="replace")


def judge_output(count: Count, child: Child, moment: str) -> None:
    said = child.said()
    if "Traceback" in said:
        count.note("tracebacks", f"{moment}: {said[said.index('Traceback') :][-600:]}")


def audit(count: Count, database: Path, journal: Path, moment: str) -> None:
    """Whether the database is whole, and holds all that its writers were told was stored."""
    if not database.exists():
        if journal.exists() and journal.read_text().strip():
            count.note("lost", f"{moment}: the database is gone")
        return
    with closing(sqlite3.connect(database)) as connection:
        try:
            sound = connection.execute("PRAGMA integrity_check").fetchall()
            dangling = connection.execute("PRAGMA foreign_key_check").fetchall()
        except sqlite3.DatabaseError as error:
            count.note("damaged", f"{moment}: {error}")
            return
        if sound != [("ok",)] or dangling:
            count.note("damaged", f"{moment}: {sound[:3]} {dangling[:3]}")
            return
        made = connection.execute("SELECT name FROM sqlite_master WHERE name = 'winners'").fetchone()
        if not journal.exists() or not made:
            return
        samples = dict(connection.execute("SELECT trial_id, count(*) FROM samples GROUP BY trial_id"))
        trials = {row for (row,) in connection.execute("SELECT id FROM trials")}
        winners = {row for (row,) in connection.execute("SELECT id FROM winners")}
    told = [line.split() for line in journal.read_text().splitlines()]
    count.stored = max(count.stored, len(trials))
    for kind, row, taken in told:
        there = int(row) in (trials if kind == "trial" else winners)
        if not there or (kind == "trial" and samples.get(int(row), 0) != int(taken)):
            count.note("lost", f"{moment}: {kind} {row}")
    with Store.open(database) as store:
        for winner in store.winners():
            if why(store, winner).repeats is False:
                count.note("wrong_winners", f"{moment}: winner {winner.id}")
