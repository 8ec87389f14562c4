"""`autotune run --plan`: works through many problems, a process a GPU, on the GPUs that are free."""

import json
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import typer

from autotune.cli.output import print_json
from autotune.cli.place import PlaceProcess, Request, last_line
from autotune.errors import UserError
from autotune.machine.fingerprint import Fingerprint
from autotune.machine.probe import probe
from autotune.machine.targets import Kind, Target, offline_fingerprint
from autotune.machine.visible import environment_of, known_of
from autotune.processes import interrupt
from autotune.protocol.registry import load_backend
from autotune.store.database import MissingDatabase
from autotune.store.records import RunRecord
from autotune.store.store import Store
from autotune.text import counted, duration, why
from autotune.tuning.plan import Entry, expected_seconds

_LOOK_S = 0.3


@dataclass
class PlanRun:
    """A plan under way.

    Attributes:
        target: what all entries are tuned for.
        gpus: indices among those visible; empty: the target needs none.
        cores: compile processes of all entries together.
        db: as `--db` takes it.
        out: folder of the bundles and the report.
        ahead: processes that were started before it was known what they will do.
    """

    entries: Sequence[Entry]
    target: Target
    gpus: Sequence[int]
    cores: int
    db: str | None
    out: Path
    say: Callable[[str], None]
    ahead: list[PlaceProcess] = field(default_factory=list)
    _workers: list[PlaceProcess] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _ended: bool = False

    @property
    def places(self) -> list[Sequence[int]]:
        """The GPUs of each process: one each, or more where there are fewer entries."""
        if not self.gpus:
            return [()]
        count = min(len(self.entries), len(self.gpus))
        return [self.gpus[index::count] for index in range(count)]

    def arguments(self, entry: Entry, place: Sequence[int]) -> list[str]:
        """Of `autotune`, where only a place's GPUs are visible."""
        devices = ["--devices", "all"] if len(place) > 1 else []
        workers = ["--workers", str(max(1, self.cores // len(self.places)))]
        return [*entry.arguments, *devices, *workers, *self._db()]

    def done(self) -> list[Entry]:
        """Entries that a run has finished already, on today's stack."""
        runs = self.runs()
        if not runs:
            return []
        stack = _today(self.target)
        return [entry for entry in self.entries if entry.was_done(runs, stack | self._kernels(entry))]

    def _kernels(self, entry: Entry) -> dict[str, str]:
        """What the backend's kernels are today; empty: a recording's, or not here, as its run will say."""
        if self.target.table is None:
            with suppress(UserError):
                return {"kernel_source": load_backend(entry.backend).source_digest()}
        return {}

    def require_kernels(self) -> None:
        """Refuses the plan, before a night of it, where an entry's kernels are not here.

        Raises:
            UserError: they are not.
        """
        for entry in self.entries if self.target.table is None else ():
            try:
                load_backend(entry.backend).source_digest()
            except UserError as error:
                raise UserError(f"entry {entry.name}: {error}") from error

    def runs(self) -> list[RunRecord]:
        """All that ran before; none where there is no database yet, which is not made for that."""
        with suppress(MissingDatabase), Store.open(self.db, read_only=True) as store:
            return store.runs()
        return []

    def work(self) -> dict[str, str]:
        """Runs what is left; why entries failed, by their names.

        Raises:
            KeyboardInterrupt: the user stopped it; the entries' own processes have stored what they had.
        """
        while len(self.ahead) > len(self.places):
            self.ahead.pop().kill()
        done = self.done()
        for entry in done:
            self.say(f"{entry.name}: done before")
        waiting: SimpleQueue[Entry] = SimpleQueue()
        for entry in self.entries:
            if entry not in done:
                waiting.put(entry)
        failed: dict[str, str] = {}
        threads = [threading.Thread(target=self._serve, args=(p, waiting, failed)) for p in self.places]
        try:
            with interrupt.held_back():
                for thread in threads:
                    thread.start()
                while any(thread.is_alive() for thread in threads):
                    interrupt.look()
                    threads[0].join(_LOOK_S) if threads[0].is_alive() else threading.Event().wait(_LOOK_S)
        except BaseException:
            self._end()
            for thread in threads:
                thread.join()
            raise
        return failed

    def write(self) -> list[str]:
        """A bundle folder an engine and one report; sentences on what was written, or why not."""
        layers: dict[str, dict[str, Entry]] = {}
        for entry in self.entries:
            layers.setdefault(entry.backend, {}).setdefault(" ".join(entry.layer), entry)
        commands: dict[Path, list[str]] = {}
        allow = ["--allow-estimates"] if self.target.kind is Kind.ESTIMATE else []
        for backend, entries in layers.items():
            for entry in entries.values():
                folder = self.out / _file_name(backend)
                if len(entries) > 1:
                    folder /= _file_name(
                        "-".join(part.removeprefix("--") for part in entry.layer) or "default"
                    )
                commands[folder] = ["export", "--backend", backend, *entry.layer, *allow]
        commands[self.out / "report.html"] = ["report"]
        with ThreadPoolExecutor(self.cores) as beside:
            return list(beside.map(self._also, commands.values(), commands))

    def _also(self, arguments: Sequence[str], place: Path) -> str:
        command = [sys.executable, "-m", "autotune", *arguments, "--out", str(place), *self._db()]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        if ran.returncode:
            return f"{place} was not written: {last_line(ran.stderr)}"
        return f"wrote {place}"

    def _db(self) -> list[str]:
        return ["--db", self.db] if self.db else []

    def _serve(self, place: Sequence[int], waiting: "SimpleQueue[Entry]", failed: dict[str, str]) -> None:
        """A thread: gives its GPUs one entry after the other, and with them the process that has them."""
        worker: PlaceProcess | None = None
        try:
            while not self._ended:
                try:
                    entry = waiting.get_nowait()
                except Empty:
                    return
                on = f" on GPU {', '.join(map(str, place))}" if place else ""
                self.say(f"{entry.name}: begins{on}")
                if worker is None or not worker.lives:
                    worker = self._start(place)
                reason = self._one(entry, place, worker) if worker else "it was stopped"
                if reason is not None and not self._ended:
                    failed[entry.name] = reason
                    self.say(f"{entry.name}: failed, {reason}")
        finally:
            if worker is not None:
                worker.end()

    def _start(self, place: Sequence[int]) -> PlaceProcess | None:
        """A process for a place, from the thread that ends with it; None: the plan was stopped."""
        with self._lock:
            if self._ended:
                return None
            self._workers.append(self.ahead.pop() if self.ahead else PlaceProcess())
            return self._workers[-1]

    def _one(self, entry: Entry, place: Sequence[int], worker: PlaceProcess) -> str | None:
        """Why an entry failed; None: it did not."""
        shown = (environment_of(*place), known_of(place)) if place else ()
        answer = worker.run(Request(self.arguments(entry, place), *shown))
        if isinstance(answer, str):
            return answer
        if answer.code:
            return last_line(answer.errors)
        result: dict[str, Any] = json.loads(answer.output)
        winners = counted(len(result["winners"]), "winner")
        self.say(f"{entry.name}: {winners}, run {result['run']}")
        return None

    def _end(self) -> None:
        with self._lock:
            self._ended = True
        for worker in self._workers:
            worker.interrupt()
        for worker in self._workers:
            worker.end()


def print_plan(plan: PlanRun, *, as_json: bool) -> None:
    """What a plan would do, for how long, on which GPUs; nothing is run."""
    done, runs, places = plan.done(), plan.runs(), plan.places
    left = [entry for entry in plan.entries if entry not in done]
    expected = {entry.name: expected_seconds(entry, plan.target.name, runs) for entry in left}
    known = [seconds for seconds in expected.values() if seconds is not None]
    total = _makespan(known, len(places)) if len(known) == len(left) else None
    devices = [f"GPU {index} ({plan.target.device.name})" for index in plan.gpus]
    if as_json:
        entries = [
            {
                "name": entry.name,
                "command": shlex.join(["autotune", *entry.arguments]),
                "backend": entry.backend,
                "weight": entry.weight,
                "problems": len(entry.problems),
                "done": entry in done,
                "expected_s": expected.get(entry.name),
            }
            for entry in plan.entries
        ]
        target = plan.target.name
        print_json(
            {
                "entries": entries,
                "target": target,
                "gpus": devices,
                "beside": len(places),
                "expected_s": total,
            }
        )
        return
    for entry in plan.entries:
        seconds = expected.get(entry.name)
        long = "time not known yet" if seconds is None else f"about {duration(seconds)}"
        state = "done before" if entry in done else long
        problems = counted(len(entry.problems), "problem")
        typer.echo(f"{entry.name}, weight {entry.weight:g}: {problems} of {entry.backend}, {state}")
    on = f"{len(places)} at a time on {', '.join(devices)}" if devices else "one after the other"
    typer.echo(f"{plan.target.why} The entries run {on}.")
    if left:
        unknown = len(left) - len(known)
        how = (
            "not known yet, as runs of this kind are missing here"
            if unknown
            else f"about {duration(total or 0.0)}"
        )
        typer.echo(f"Time in all: {how}. Nothing was run; leave out --dry-run to run it.")
    else:
        typer.echo("Nothing is left to run.")


def _makespan(seconds: Sequence[float], places: int) -> float:
    """When the last of some entries ends, each begun on the place that is free first."""
    ends = [0.0] * places
    for each in seconds:
        first = min(range(places), key=ends.__getitem__)
        ends[first] += each
    return max(ends)


def _today(target: Target) -> dict[str, Any]:
    """Fields of the stack that a run for the target has now, without what differs between backends."""
    if target.live:
        stack = probe("autotune.measure.machine:this_stack")
    elif target.table is None:
        stack = asdict(offline_fingerprint(target, backend="", kernel_source=""))
    else:  # a recording's stack is its own
        return {}
    others = ("backend", "kernel_source", "tool_version")
    return {f.name: stack[f.name] for f in fields(Fingerprint) if f.name in stack and f.name not in others}


def _file_name(text: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in text)


def run_plan(plan: PlanRun, *, as_json: bool, quiet: bool) -> None:
    """Works through a plan and writes what came of it.

    Raises:
        UserError: kernels are not here, or the folder cannot be made; or an entry failed, and the others are
            done.
    """
    plan.require_kernels()
    try:  # before a night's work, not after it
        plan.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {plan.out} ({why(error)}): name another --out") from error
    failed = plan.work()
    written = plan.write()
    if as_json:
        print_json({"entries": len(plan.entries), "failed": failed, "written": written})
    elif not quiet:
        typer.echo("\n".join(written))
    if failed:
        names = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
        others = ": the others are done" if len(failed) < len(plan.entries) else ""
        raise UserError(f"{counted(len(failed), 'entry')} of the plan failed ({names}){others}")
