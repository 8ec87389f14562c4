"""Fills a database with made-up trials, and times what has to stay quick on it: show, export, resume.

    python scripts/ten_million.py big.db                        # an SQLite file, filled if it is not there
    python scripts/ten_million.py postgresql://… --trials 10000000    # a server, filled as its superuser

The trials are those of a team: 240 problems (8 token counts of 30 layers) on as many stacks as it takes, 400
trials a stage. No figure in it was measured. Rows are as long as real ones, and a final has five finalists in
16 rounds, two of which meet in 32 more; raw samples are left out.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any

from sqlalchemy import Connection, insert, text

from autotune.machine.devices import DEVICES
from autotune.machine.fingerprint import Fingerprint
from autotune.machine.targets import Kind
from autotune.measure.settings import MeasureSettings
from autotune.problem.layer import Layer, Problem, Stage
from autotune.problem.models import preset
from autotune.protocol.registry import load_backend
from autotune.results import Confirmation, Finalist, LayerConfig, Round, Status
from autotune.search.resume import known_results
from autotune.space.config import Config
from autotune.store.base import Base
from autotune.store.database import MissingDatabase
from autotune.store.records import RunState
from autotune.store.rows import environment_id, problem_id
from autotune.store.store import Store

STAGE_TRIALS = 400
PROBLEMS_A_RUN = 8
STACK = Fingerprint(
    device="NVIDIA H100 80GB HBM3", arch="sm_90", compute_units=132, power_cap_w=700, driver="made up",
    runtime="cuda 13.0", torch="2.11.0", triton="3.6.0", backend="triton", kernel_source="made up",
    tool_version="0.1.0",
)  # fmt: skip
WORKLOAD = MeasureSettings().key
TABLES = Base.metadata.tables
FACTS = {"vgprs": 128, "sgprs": 96, "spills": 0, "lds_bytes": 65536, "workgroups_per_cu": 2}
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
    """Makes one stack's rows through the store, and from these the other stacks' in SQL."""
    every = problems()
    space = {
        stage: load_backend("triton").space(every[0].layer, 4, stage, DEVICES["mi325x"]) for stage in Stage
    }
    rng = random.Random(0)
    configs = {stage: [config.key for config in space[stage].draw(rng, STAGE_TRIALS)] for stage in Stage}
    default = LayerConfig(*(space[stage].default for stage in Stage))
    others = [LayerConfig(*(Config.from_key(configs[stage][-n]) for stage in Stage)) for n in range(1, 5)]
    stacks = -(-trials // (len(every) * 2 * STAGE_TRIALS))
    with Store.open(place) as store:
        runs = []
        for first in range(0, len(every), PROBLEMS_A_RUN):
            chunk = every[first : first + PROBLEMS_A_RUN]
            run = store.begin_run("made up", {"problems": [problem.key for problem in chunk]}, 0, stack(0))
            runs.append((run, chunk))
            for problem in chunk:
                final = Confirmation(
                    problem,
                    (Finalist("default", default), *(Finalist("candidate", other) for other in others)),
                    (*(_round(n, 5) for n in range(16)), *(_round(n, 2) for n in range(32))),
                    (1e-3,) * 5, 1, 0.1, 0.08, 0.12,
                )  # fmt: skip
                stored = store.record_confirmation(
                    run, final, backend="triton", environment=stack(0), workload=WORKLOAD
                )
                store.record_winner(run, stored)
            store.end_run(run, RunState.FINISHED)
        with store.writing() as session:
            ids = {problem: problem_id(session, problem) for problem in every}
            environments = [environment_id(session, stack(number)) for number in range(stacks)]
            rows = _rows(runs, environments[0], ids, configs, {s: space[s].space.digest for s in Stage})
            session.execute(insert(TABLES["trials"]), rows)
        bulk = store.reading if store.shared else store.writing
        for number in range(1, stacks):
            with bulk() as session:
                connection = session.connection()
                if store.shared:  # the rows refer to each other as the first stack's do
                    connection.execute(text("SET LOCAL session_replication_role = replica"))
                for table in ("runs", "confirmations", "finalists", "rounds", "winners", "trials"):
                    _again(connection, table, number, environments[number], len(runs), len(every), len(rows))
                session.commit()
        with bulk() as session:
            session.execute(text("ANALYZE"))
            session.commit()


def _round(number: int, run: int) -> Round:
    """Times of the first `run` of five finalists."""
    stages = {"stage1": 60.0, "stage2": 40.0}
    us = [{"layer": 100.0 - 9 * bool(n) + number % 7 + n, **stages} if n < run else {} for n in range(5)]
    return Round(tuple(us))


def _rows(
    runs: Sequence[tuple[int, Sequence[Problem]]],
    environment: int,
    ids: dict[Problem, int],
    configs: dict[Stage, list[str]],
    digests: dict[Stage, str],
) -> list[dict[str, Any]]:
    rows = []
    for run, chunk in runs:
        tried = [(p, stage, config) for p in chunk for stage in Stage for config in configs[stage]]
        for number, (problem, stage, config) in enumerate(tried):
            rows.append(
                {
                    "run_id": run, "number": number, "environment_id": environment,
                    "problem_id": ids[problem],
                    "stage": stage, "backend": "triton", "space_digest": digests[stage], "workload": WORKLOAD,
                    "config": config, "origin": "joint", "status": Status.OK, "kind": Kind.MEASURED,
                    "figure_us": 20.0 + number % 97, "gate_error": 1.7e-3, "facts": FACTS,
                    "binary_hash": f"{run:032x}{number:032x}", "compile_s": 1.5, "measure_s": 0.05,
                    "host": "node1", "gpu": "GPU-0", "created_at": BEGAN + timedelta(seconds=number / 10),
                }
            )  # fmt: skip
    return rows


def _again(
    connection: Connection, name: str, number: int, environment: int, runs: int, finals: int, trials: int
) -> None:
    """A table's rows of the first stack once more, as those of another."""
    table = TABLES[name]
    step = {"runs": runs, "trials": trials}.get(name, finals)
    own = "confirmation_id" if name in ("finalists", "rounds") else "id"
    changed = {
        own: f"{own} + {number * step}",
        "run_id": f"run_id + {number * runs}",
        "environment_id": str(environment),
        "uid": f"uid || '-{number}'",
        "binary_hash": f"'{number:04x}' || substr(binary_hash, 5)",
    }
    if name == "winners":
        changed["confirmation_id"] = f"confirmation_id + {number * finals}"
    columns = [column.name for column in table.columns]
    values = ", ".join(changed.get(column, f'"{column}"') for column in columns)
    named = ", ".join(f'"{column}"' for column in columns)
    connection.execute(
        text(f"INSERT INTO {name} ({named}) SELECT {values} FROM {name} WHERE {own} <= {step}")
    )


def timed(name: str, act: Callable[[], None], times: int = 1) -> None:
    """Prints how long something takes, the median of some times."""
    took = []
    for _ in range(times):
        started, worked = time.perf_counter(), _cpu_s()
        act()
        took.append((time.perf_counter() - started, _cpu_s() - worked))
    wall, cpu = (median(each) for each in zip(*took, strict=True))
    print(f"{name:<44} {wall:6.2f} s, of which CPU {cpu:.2f} s", flush=True)


def _cpu_s() -> float:
    """Of this process and those that it waited for: on a busy machine the wall tells little."""
    return sum(os.times()[:4])


def commands(place: str) -> None:
    """`show` and `export` as a user gives them, and what a run reads before its first trial."""

    def autotune(*arguments: str) -> None:
        command = [sys.executable, "-m", "autotune", *arguments, "--db", place]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        if ran.returncode:
            print(f"  {ran.stderr.strip().splitlines()[-1]}")

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
            assert read == PROBLEMS_A_RUN * 2 * STAGE_TRIALS

    timed("python -m autotune --version (no database)", autotune_version, 5)
    timed("autotune show", lambda: autotune("show"), 5)
    timed("autotune show --json", lambda: autotune("show", "--json"), 5)
    with tempfile.TemporaryDirectory() as folder:
        timed("autotune export", lambda: autotune("export", "--out", f"{folder}/deploy"), 5)
    timed("resume", resume, 5)


def autotune_version() -> None:
    subprocess.run([sys.executable, "-m", "autotune", "--version"], capture_output=True, check=False)


def filled(place: str) -> bool:
    """Whether the trials are there already."""
    try:
        with Store.open(place, read_only=True) as store:
            return bool(store.runs())
    except MissingDatabase:
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("place", help="a file or a PostgreSQL URL")
    parser.add_argument("--trials", type=int, default=10_000_000)
    arguments = parser.parse_args()
    if not filled(arguments.place):
        timed("filling it", lambda: fill(arguments.place, arguments.trials))
    commands(arguments.place)


if __name__ == "__main__":
    main()
