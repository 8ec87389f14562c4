"""Fills a database with made-up trials, and times what has to stay quick on it: show, export, resume.

    python scripts/ten_million.py big.db                        # an SQLite file, made if it is not there
    python scripts/ten_million.py postgresql://… --trials 10000000

The trials are those of a team: 240 problems (8 token counts of 30 layers) on as many stacks as it takes, 400
trials a stage. No figure in it was measured. Rows are as long as real ones; a final has 4 rounds, and raw
samples are left out.
"""

import argparse
import hashlib
import io
import itertools
import json
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import text

from autotune.machine.devices import DEVICES
from autotune.machine.fingerprint import Fingerprint
from autotune.machine.targets import Kind
from autotune.measure.settings import MeasureSettings
from autotune.problem.layer import Layer, Problem, Stage
from autotune.problem.models import preset
from autotune.protocol.registry import load_backend
from autotune.results import Confirmation, Finalist, LayerConfig, Round
from autotune.search.resume import known_results
from autotune.store.location import locate
from autotune.store.records import RunState
from autotune.store.store import Store

STAGE_TRIALS = 400
PROBLEMS_A_RUN = 8
STACK = Fingerprint(
    device="NVIDIA H100 80GB HBM3", arch="sm_90", compute_units=132, power_cap_w=700, driver="made up",
    runtime="cuda 13.0", torch="2.11.0", triton="3.6.0", backend="triton", kernel_source="made up",
    tool_version="0.1.0",
)  # fmt: skip
WORKLOAD = MeasureSettings().key
COLUMNS = (
    "run_id", "number", "environment_id", "problem_id", "stage", "backend", "space_digest", "workload",
    "config", "origin", "status", "kind", "figure_us", "gate_error", "reason", "facts", "binary_hash",
    "compile_s", "measure_s", "merged_into", "contended", "host", "gpu", "created_at",
)  # fmt: skip
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def layers() -> list[Layer]:
    """The default model's layer, and 29 that have fewer experts."""
    model = Layer.of(preset("kimi-k2.5-w4a8"), 8)
    return [replace(model, model=f"made-up-{n}", experts=384 - n) if n else model for n in range(30)]


def problems() -> list[Problem]:
    return [Problem(layer, tokens) for layer in layers() for tokens in range(1, 9)]


def stack(number: int) -> Fingerprint:
    """Of drivers, the last is today's."""
    return replace(STACK, driver=f"made up {number}")


def fill(place: str, trials: int) -> None:
    """Makes the runs, finals and winners through the store, then the trials in bulk."""
    every = problems()
    backend = load_backend("triton")
    device = DEVICES["mi325x"]
    layer = every[0].layer
    spaces = {stage: backend.space(layer, 4, stage, device) for stage in Stage}
    import random

    rng = random.Random(0)
    configs = {stage: [c.key for c in space.draw(rng, STAGE_TRIALS)] for stage, space in spaces.items()}
    digests = {stage: space.space.digest for stage, space in spaces.items()}
    stacks = -(-trials // (len(every) * 2 * STAGE_TRIALS))
    default = LayerConfig(*(spaces[stage].default for stage in Stage))
    other = LayerConfig(*(next(spaces[stage].draw(rng, 1).__iter__()) for stage in Stage))
    runs: list[tuple[int, int, Sequence[Problem]]] = []
    with Store.open(place) as store:
        for number in range(stacks):
            for first in range(0, len(every), PROBLEMS_A_RUN):
                chunk = every[first : first + PROBLEMS_A_RUN]
                run = store.begin_run("made up", {"problems": [p.key for p in chunk]}, 0, stack(number))
                for problem in chunk:
                    final = Confirmation(
                        problem,
                        (Finalist("default", default), Finalist("candidate", other)),
                        tuple(Round(({"layer": 100.0 + n}, {"layer": 90.0 + n})) for n in range(4)),
                        (1e-3, 1e-3), 1, 0.1, 0.08, 0.12,
                    )  # fmt: skip
                    stored = store.record_confirmation(
                        run, final, backend="triton", environment=stack(number), workload=WORKLOAD
                    )
                    store.record_winner(run, stored)
                store.end_run(run, RunState.FINISHED)
                runs.append((run, number, chunk))
        with store.reading() as session:
            environments = dict(session.execute(text("SELECT key, id FROM environments")).all())
            ids = dict(session.execute(text("SELECT key, id FROM problems")).all())
    rows = _rows(runs, {n: environments[stack(n).key] for n in range(stacks)}, ids, configs, digests)
    location = locate(place)
    if location.path is not None:
        _into_file(location.path, rows)
    else:
        _into_server(place, rows)


def _rows(
    runs: Iterable[tuple[int, int, Sequence[Problem]]],
    environments: dict[int, int],
    ids: dict[str, int],
    configs: dict[Stage, list[str]],
    digests: dict[Stage, str],
) -> Iterator[tuple[Any, ...]]:
    facts = json.dumps({"vgprs": 128, "sgprs": 96, "spills": 0, "lds_bytes": 65536, "workgroups_per_cu": 2})
    for run, stack_number, chunk in runs:
        number = itertools.count()
        began = BEGAN + timedelta(hours=run)
        for problem in chunk:
            for stage in Stage:
                for index, config in enumerate(configs[stage]):
                    at = next(number)
                    created = (began + timedelta(seconds=at / 10)).strftime("%Y-%m-%d %H:%M:%S.%f")
                    yield (
                        run, at, environments[stack_number], ids[problem.key], stage.value, "triton",
                        digests[stage], WORKLOAD, config, "joint" if index else "default", "ok", "measured",
                        20.0 + index % 97, 1.7e-3, None, facts,
                        hashlib.sha256(f"{run} {at}".encode()).hexdigest(), 1.5, 0.05, None, None,
                        "node1", "GPU-0", created,
                    )  # fmt: skip


def _into_file(path: Path, rows: Iterator[tuple[Any, ...]]) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        indices = connection.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name = 'trials' AND sql NOTNULL"
        ).fetchall()
        for name, _ in indices:
            connection.execute(f"DROP INDEX {name}")
        marks = ", ".join("?" * len(COLUMNS))
        statement = f"INSERT INTO trials ({', '.join(COLUMNS)}) VALUES ({marks})"
        while chunk := list(itertools.islice(rows, 100_000)):
            connection.executemany(statement, chunk)
            connection.commit()
        for _, sql in indices:
            connection.execute(sql)
        connection.execute("ANALYZE")
    connection.close()


def _into_server(url: str, rows: Iterator[tuple[Any, ...]]) -> None:
    import psycopg

    with psycopg.connect(url) as connection:
        while chunk := list(itertools.islice(rows, 100_000)):
            with connection.cursor().copy(f"COPY trials ({', '.join(COLUMNS)}) FROM STDIN") as copy:
                for row in chunk:
                    copy.write_row((*row[:-1], row[-1] + "+00"))
            connection.commit()
        connection.autocommit = True
        connection.execute("ANALYZE")


def timed(name: str, act: Any) -> float:
    started = time.perf_counter()
    act()
    seconds = time.perf_counter() - started
    print(f"{name:<50} {seconds:6.2f} s", flush=True)
    return seconds


def commands(place: str) -> None:
    """`show` and `export` as a user gives them, and what a run reads before its first trial."""

    def autotune(*arguments: str) -> None:
        command = [sys.executable, "-m", "autotune", *arguments, "--db", place]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        if ran.returncode:
            print(io.StringIO(ran.stderr).readlines()[-1:])

    def resume() -> None:
        """Of a run over 8 problems, as `tuning.searches.resume` reads them."""
        with Store.open(place) as store:
            last = store.winners(problem=problems()[0], kind=Kind.MEASURED)[-1]
            read = 0
            for problem in problems()[:PROBLEMS_A_RUN]:
                for stage in Stage:
                    stored = store.trials(
                        problem=problem, stage=stage, backend="triton", workload=WORKLOAD,
                        environment_key=last.environment.key,
                    )  # fmt: skip
                    read += len(known_results(stored, allow_spills=False))
                store.nearby_winners(problem, "triton")
            print(f"  {read} results of {PROBLEMS_A_RUN} problems")

    timed("python -m autotune --version (no database)", lambda: autotune_version())
    timed("autotune show", lambda: autotune("show"))
    with tempfile.TemporaryDirectory() as folder:
        timed("autotune export", lambda: autotune("export", "--out", f"{folder}/deploy"))
    timed("resume", resume)


def autotune_version() -> None:
    subprocess.run([sys.executable, "-m", "autotune", "--version"], capture_output=True, check=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("place", help="a file or a PostgreSQL URL")
    parser.add_argument("--trials", type=int, default=10_000_000)
    arguments = parser.parse_args()
    location = locate(arguments.place)
    there = location.path.exists() if location.path is not None else False
    if not there:
        timed("filling it", lambda: fill(arguments.place, arguments.trials))
    commands(arguments.place)


if __name__ == "__main__":
    main()
