"""Simulates runs and plans on 1 to 64 GPUs from recorded tables, with the real driver on the clock.

    OMP_NUM_THREADS=1 python scripts/fleet_simulation.py db/tables/*.json.gz --trials 100 --json out.json

Compiles and measurements cost what was recorded; the driver costs what it costs here, in CPU seconds of
its one thread. What no recording tells is stated: see `bench.fleet.Costs` and the options. Two questions:

run   one run over all token counts of a table shares its candidates among N GPUs: one driver for all.
plan  64 problems, each an entry of its own on one GPU: a driver a GPU, which starts once. The tables'
      problems are repeated with other seeds until there are 64.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from itertools import cycle, islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from bench.fleet import Costs, Simulated, makespan, simulate

from autotune.replay.files import read_table

GPUS = (1, 2, 4, 8, 16, 32, 64)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", nargs="+", type=Path)
    parser.add_argument("--trials", type=int, default=100, help="a stage and problem")
    parser.add_argument("--problems", type=int, default=64, help="of the plan")
    parser.add_argument("--only", choices=("run", "plan"))
    parser.add_argument("--json", type=Path)
    for name, value in asdict(Costs()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    options = parser.parse_args(arguments)
    costs = Costs(**{name: getattr(options, name) for name in asdict(Costs())})
    tables = [read_table(path) for path in options.tables]
    print(", ".join(f"{name} {value:g}" for name, value in asdict(costs).items()))
    results: dict[str, list[dict[str, float]]] = {"run": [], "plan": []}
    if options.only != "plan":
        table = tables[0]
        print(f"\nrun: {len(table.problems)} problems of {table.layer.key}, {options.trials} trials a stage")
        print(" GPUs  search s  with start and finals s  efficiency  driver")
        one = 0.0
        for gpus in GPUS:
            done = simulate(table, table.problems, gpus, options.trials, 0, costs)
            finals = makespan([costs.final_s] * len(table.problems), gpus)
            whole = costs.start_s + costs.entry_s + done.search_s + finals
            one = one or whole
            row = _row(gpus, done, whole, one)
            results["run"].append(row)
            print(
                f"{gpus:5} {done.search_s:9.1f} {whole:24.1f} {row['efficiency']:11.0%}"
                f" {row['driver_share']:7.0%}",
                flush=True,
            )
    if options.only != "run":
        named = [(table, problem) for table in tables for problem in table.problems]
        entries = []
        for number, (table, problem) in enumerate(islice(cycle(named), options.problems)):
            done = simulate(table, [problem], 1, options.trials, number // len(named), costs)
            entries.append((done, costs.entry_s + done.search_s + costs.final_s))
        seconds = [whole for _, whole in entries]
        driver = sum(done.driver_s for done, _ in entries) / sum(seconds)
        print(
            f"\nplan: {len(entries)} problems, {options.trials} trials a stage, {min(seconds):.0f} to"
            f" {max(seconds):.0f} s each, driver {driver:.0%} of that"
        )
        print(" GPUs  wall s  efficiency")
        alone = makespan(seconds, 1, costs.start_s)
        for gpus in GPUS:
            wall = makespan(seconds, gpus, costs.start_s)
            efficiency = alone / (gpus * wall)
            results["plan"].append({"gpus": gpus, "wall_s": wall, "efficiency": efficiency})
            print(f"{gpus:5} {wall:7.0f} {efficiency:11.0%}")
    if options.json:
        options.json.write_text(json.dumps({"costs": asdict(costs), **results}, indent=1))
    return 0


def _row(gpus: int, done: Simulated, whole: float, one: float) -> dict[str, float]:
    return {
        "gpus": gpus,
        "whole_s": whole,
        "efficiency": one / (gpus * whole),
        "driver_share": done.driver_s / done.search_s,
        **asdict(done),
    }


if __name__ == "__main__":
    sys.exit(main())
