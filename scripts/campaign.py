#!/usr/bin/env python
"""A campaign of faults: what they cost, counted.

    python scripts/campaign.py                      # everything; about an hour and a half on 2 cores
    python scripts/campaign.py --parts disk,copied --moments 5

Parts:
    replayed, offline   the driver is killed at random moments, and the same command goes on until it ends
    workers             processes of a live run are killed, stopped and slowed; the right winner is known
    disk                the file system of the database fills at random moments (needs root: a small tmpfs)
    clock               the clock is set back by a day
    two                 two drivers of unlike problems on one database
    copied              the database is copied while it is written, file by file and by `db copy`
    export              a bundle is exported again and again and the exporter killed
    inputs              generated inputs over every parser (see campaign_inputs.py)

Counted: trials that were stored and are gone, winners that their own stored rounds do not bear out (or, where
the truth is known, that are not it), tracebacks, damaged databases or bundles. Anything but zero is a defect,
and is printed with its moment; the seed repeats the moments. Live runs use the CPU stand-in of the tests, so
no GPU is needed.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import campaign_inputs
from campaign_audit import ROOT, Child, Count, audit, judge_output

from autotune.protocol.bundle import Bundle
from autotune.results import LayerConfig
from autotune.space.config import Config
from autotune.store.store import Store

TABLE = ROOT / "db" / "tables" / "h100-kimi-k2.5-w4a8-tp8.table.json.gz"
REPLAYED = ["run", "--target", f"replay:{TABLE}", "--shape", "m4", "--trials", "40"]
OFFLINE = ["run", "--target", "offline:mi325x", "--shape", "m4", "--trials", "4"]
FASTEST = Config({"us": 8000, "fault": "none"})  # of the stand-in, among what is right
ENDED_WELL = (0, 2)  # done, or an error that one sentence explains


@contextmanager
def folder(parent: Path | None = None) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="campaign-", dir=parent) as name:
        yield Path(name)


def killed_drivers(count: Count, rng: random.Random, moments: int, command: list[str], kind: str) -> None:
    """Kills the driver within the time that a whole run takes; its database goes on until a run ends."""
    with folder() as place:
        start = time.monotonic()
        child = Child(place, "cli", *command, "--db", str(place / "a.db"))
        if child.wait(900) != 0:
            child.kill()
            raise SystemExit(f"{kind}: a run without a fault does not end well:\n{child.said()[-2000:]}")
        whole = time.monotonic() - start
    while count.faults < moments:
        with folder() as place:
            database = place / "a.db"
            while count.faults < moments:
                delay = rng.uniform(0.0, whole)
                child = Child(place, "cli", *command, "--db", str(database))
                ended = child.wait(delay)
                if ended is None:
                    child.kill()
                    count.faults += 1
                moment = f"{kind}, killed after {delay:.2f} s"
                judge_output(count, child, moment)
                audit(count, database, child.journal, moment)
                if ended is not None:
                    if ended != 0:
                        count.note("tracebacks", f"{moment}: exit {ended}: {child.said()[-300:]}")
                    break


def replayed(count: Count, rng: random.Random, moments: int) -> None:
    killed_drivers(count, rng, moments, REPLAYED, "replayed")


def offline(count: Count, rng: random.Random, moments: int) -> None:
    killed_drivers(count, rng, moments, OFFLINE, "offline")


def workers(count: Count, rng: random.Random, moments: int) -> None:
    """A live run whose workers are killed, stopped or slowed: the fastest that is right must win."""
    while count.faults < moments:
        with folder() as place:
            database = place / "a.db"
            child = Child(place, "live", str(database), str(count.faults))
            what = rng.choice(["killed", "stopped", "slowed"])
            hurt = 0
            while child.wait(rng.uniform(0.5, 6.0)) is None:
                below = child.descendants()
                if below and hurt < 2:
                    hurt += 1
                    _hurt(rng.choice(below), what)
            count.faults += hurt
            moment = f"workers {what}, seed {count.faults}"
            judge_output(count, child, moment)
            if child.process.returncode == 2:  # who died twice ends the run with a sentence: it goes on
                child = Child(place, "live", str(database), "0")
                while child.wait(5.0) is None:
                    pass
                judge_output(count, child, moment)
            audit(count, database, child.journal, moment)
            with Store.open(database) as store:
                chosen = [winner.config for winner in store.winners()]
                ends = [
                    f"{trial.stage} {trial.status}: {trial.reason}"
                    for run in store.runs()
                    for trial in store.trials_of(run.id)
                    if trial.config == FASTEST and trial.reason
                ]
                finals = [w.confirmation for w in store.winners() if w.confirmation is not None]
                ends += [end for final in finals for end in store.confirmation(final).confirmation.left_out]
            # Whom both kills met has died twice, in a fresh worker the second time: it is taken for its own.
            twice = any("second death" in end for end in ends)
            if chosen != [LayerConfig(FASTEST, FASTEST)] and not twice:
                count.note("wrong_winners", f"{moment}: {chosen}; {ends}; {child.said()[-400:]}")
            child.sweep()


def _hurt(process: int, what: str) -> None:
    try:
        if what == "killed":
            os.kill(process, signal.SIGKILL)
        elif what == "stopped":
            os.kill(process, signal.SIGSTOP)
        else:
            for _ in range(20):
                os.kill(process, signal.SIGSTOP)
                time.sleep(0.1)
                os.kill(process, signal.SIGCONT)
                time.sleep(0.05)
    except ProcessLookupError:
        return  # it has ended by itself


def disk(count: Count, rng: random.Random, moments: int) -> None:
    """Fills the database's file system at a random moment, and goes on when there is room again."""
    while count.faults < moments:
        with folder() as place:
            small = place / "disk"
            small.mkdir()
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(small)], check=True)
            try:
                delay = rng.uniform(0.0, 12.0)
                child = Child(place, "cli", *REPLAYED, "--db", str(small / "a.db"))
                ended = child.wait(delay)
                _fill(small / "ballast")
                ended = child.wait(300) if ended is None else ended
                moment = f"disk full after {delay:.2f} s"
                if ended not in ENDED_WELL:
                    count.note("tracebacks", f"{moment}: exit {ended}: {child.said()[-300:]}")
                judge_output(count, child, moment)
                (small / "ballast").unlink()
                audit(count, small / "a.db", child.journal, moment)
                again = Child(place, "cli", *REPLAYED, "--db", str(small / "a.db"))
                if again.wait(300) != 0:
                    count.note("damaged", f"{moment}: it does not go on: {again.said()[-300:]}")
                audit(count, small / "a.db", again.journal, f"{moment}, gone on")
                count.faults += 1
            finally:
                subprocess.run(["umount", str(small)], check=False)


def _fill(file: Path) -> None:
    with file.open("wb", buffering=0) as ballast:
        try:
            while True:
                ballast.write(bytes(4096))
        except OSError:
            return  # full, as is meant


def clock(count: Count, rng: random.Random, moments: int) -> None:
    for _ in range(moments):
        with folder() as place:
            readings = rng.randrange(1, 90)
            arguments = ("cli", *REPLAYED, "--db", str(place / "a.db"))
            child = Child(place, *arguments, CAMPAIGN_CLOCK=str(readings))
            moment = f"clock set back at reading {readings}"
            if child.wait(300) != 0:
                count.note("tracebacks", f"{moment}: {child.said()[-300:]}")
            judge_output(count, child, moment)
            audit(count, place / "a.db", child.journal, moment)
            for command in (["history"], ["show"], ["report", "--out", str(place / "report.html")]):
                looked = Child(place, "cli", *command, "--db", str(place / "a.db"))
                if looked.wait(120) != 0:
                    count.note("tracebacks", f"{moment}: {command[0]}: {looked.said()[-300:]}")
            count.faults += 1


def two(count: Count, rng: random.Random, moments: int) -> None:
    for _ in range(moments):
        with folder() as place:
            children = [
                Child(place, "cli", *REPLAYED, "--shape", shape, "--db", str(place / "a.db"))
                for shape in ("m1", "m4")  # of equal problems the second would be refused
            ]
            for child in children:
                if child.wait(600) != 0:
                    count.note("tracebacks", f"two drivers: {child.said()[-300:]}")
                judge_output(count, child, "two drivers")
            audit(count, place / "a.db", children[0].journal, "two drivers")
            count.faults += 1
    del rng


def copied(count: Count, rng: random.Random, moments: int) -> None:
    """Copies of a database that is being written: by `db copy`, and of its one file by hand."""
    while count.faults < moments:
        with folder() as place:
            database = place / "a.db"
            child = Child(place, "cli", *REPLAYED, "--db", str(database))
            while child.wait(rng.uniform(0.5, 3.0)) is None and count.faults < moments:
                if not database.exists():
                    continue
                count.faults += 1
                before = child.journal.read_bytes() if child.journal.exists() else b""
                plain, whole = place / f"plain{count.faults}.db", place / f"whole{count.faults}.db"
                shutil.copyfile(database, plain)
                _reads(count, plain, place)
                copier = Child(place, "cli", "db", "copy", str(whole), "--db", str(database))
                if copier.wait(120) != 0:
                    count.note("tracebacks", f"db copy: {copier.said()[-300:]}")
                    continue
                told = place / "told"
                told.write_bytes(before)
                audit(count, whole, told, "db copy while written")
            child.wait(300)
            audit(count, database, child.journal, "after copies")


def _reads(count: Count, database: Path, place: Path) -> None:
    reader = Child(place, "cli", "history", "--db", str(database))
    if reader.wait(120) not in ENDED_WELL:
        count.note("tracebacks", f"history of a plain copy: {reader.said()[-300:]}")
    judge_output(count, reader, "history of a plain copy")


def export(count: Count, rng: random.Random, moments: int) -> None:
    with folder() as place:
        database, out = place / "a.db", place / "deploy"
        child = Child(place, "cli", *OFFLINE, "--db", str(database))
        if child.wait(900) != 0:
            raise SystemExit(child.said())
        arguments = ("cli", "export", "--out", str(out), "--allow-estimates", "--db", str(database))
        start = time.monotonic()
        Child(place, *arguments).wait(120)
        whole = time.monotonic() - start
        for _ in range(moments):
            delay = rng.uniform(0.3 * whole, 1.1 * whole)
            exporter = Child(place, *arguments)
            if exporter.wait(delay) is None:
                exporter.kill()
            count.faults += 1
            judge_output(count, exporter, f"export killed after {delay:.2f} s")
            if Bundle.read(out).changed():
                count.note("damaged", f"export killed after {delay:.2f} s: {sorted(out.rglob('*'))}")


def inputs(count: Count, rng: random.Random, moments: int) -> None:
    for parser, text in campaign_inputs.failures(moments, rng.randrange(2**31)):
        count.note("tracebacks", f"{parser}: {text}")
    count.faults = moments


PARTS: dict[str, tuple[Callable[[Count, random.Random, int], None], int]] = {
    "replayed": (replayed, 50),
    "offline": (offline, 50),
    "workers": (workers, 30),
    "disk": (disk, 20),
    "clock": (clock, 10),
    "two": (two, 5),
    "copied": (copied, 30),
    "export": (export, 50),
    "inputs": (inputs, 10_000),
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--moments", type=int, help="faults a part; default: each part's own number")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write what was found as JSON")
    options = parser.parse_args()
    counts: dict[str, Count] = {}
    for name in options.parts.split(","):
        run, usual = PARTS[name]
        count = counts[name] = Count()
        start = time.monotonic()
        moments = usual if options.moments is None else options.moments
        run(count, random.Random(f"{options.seed}/{name}"), moments)
        count.seconds = round(time.monotonic() - start, 1)
        if options.out:
            options.out.write_text(json.dumps({part: asdict(c) for part, c in counts.items()}, indent=2))
    heads = ("faults", "lost", "wrong winners", "tracebacks", "damaged", "seconds")
    print(f"\n{'part':10}" + "".join(f"{head:>15}" for head in heads))
    for name, count in counts.items():
        print(f"{name:10}" + "".join(f"{getattr(count, head.replace(' ', '_')):15g}" for head in heads))
    return int(any(count.what for count in counts.values()))


if __name__ == "__main__":
    sys.exit(main())
