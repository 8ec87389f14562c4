"""Runs Kernel Tuner's searchers on recorded problems, through its own simulation mode.

Run by `compare_searchers.py` with the Python of an environment that has kernel-tuner. Reads a job as JSON
from standard input:

    {"problems": [{"name", "space", "knobs": {name: [values]}, "configs": [[value]], "times": [ms or null]}],
     "strategies": [...], "seeds": [...], "evaluations": N, "processes": P}

and writes one JSON line a run: {"problem", "strategy", "seed", "order": [rows of configs], "seconds"}. The
order holds every config once, when it was first evaluated; looking one up again costs nothing.
"""

import contextlib
import io
import json
import multiprocessing
import random
import sys
import time
import warnings
from typing import Any

import numpy
from kernel_tuner import interface, util
from kernel_tuner.runners import simulation

_problems: list[dict[str, Any]] = []
_spaces: dict[str, Any] = {}
_Searchspace = interface.Searchspace


class _Order(simulation.SimulationRunner):  # type: ignore[misc]
    """The simulation runner, which also notes what was evaluated first when."""

    visited: list[str]

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        _Order.visited = []

    def run(self, parameter_space: Any, tuning_options: Any) -> Any:
        before = set(self.visited_results)
        elements = list(parameter_space)
        results = super().run(elements, tuning_options)
        for element in elements:
            key = ",".join(str(value) for value in element)
            if key in self.visited_results and key not in before:
                before.add(key)
                _Order.visited.append(key)
        return results


def run(job: tuple[int, str, int, int]) -> dict[str, Any]:
    """One search."""
    index, strategy, seed, evaluations = job
    problem = _problems[index]
    names = list(problem["knobs"])
    keys = [",".join(map(str, values)) for values in problem["configs"]]
    cache = {
        key: _entry(dict(zip(names, values, strict=True)), ms)
        for key, values, ms in zip(keys, problem["configs"], problem["times"], strict=True)
    }

    def searchspace(*_: Any, **options: Any) -> Any:
        # The space is what was recorded, and the same for every seed; made once, outside of any budget.
        label = json.dumps([problem["space"], options], sort_keys=True)
        if label not in _spaces:
            recorded = {"tune_params": problem["knobs"], "cache": cache}
            _spaces[label] = _Searchspace(None, None, None, from_cache=recorded, **options)
        return _spaces[label]

    interface.Searchspace = searchspace
    simulation.SimulationRunner = _Order
    util.process_cache, util.close_cache = lambda *_: cache, lambda *_: None
    random.seed(seed)
    numpy.random.seed(seed)
    started = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        interface.tune_kernel(
            "recorded",
            "recorded",
            (1,),
            [],
            problem["knobs"],
            strategy=strategy,
            strategy_options={"max_fevals": evaluations},
            simulation_mode=True,
            cache="recorded.json",
            lang="C",
            quiet=True,
        )
    position = {key: number for number, key in enumerate(keys)}
    return {
        "problem": problem["name"],
        "strategy": strategy,
        "seed": seed,
        "order": [position[key] for key in _Order.visited],
        "seconds": time.perf_counter() - started,
    }


def _entry(config: dict[str, Any], ms: float | None) -> dict[str, Any]:
    costs = dict.fromkeys(("compile_time", "verification_time", "benchmark_time"), 0.0)
    costs |= dict.fromkeys(("strategy_time", "framework_time"), 0.0)
    if ms is None:
        return {
            **config,
            "time": util.RuntimeFailedConfig(),
            "__error__": util.RuntimeFailedConfig(),
            **costs,
        }
    return {**config, "time": ms, "times": [ms], **costs}


def _guarded(job: tuple[int, str, int, int]) -> dict[str, Any]:
    try:
        return run(job)
    except Exception as error:  # noqa: BLE001 — a strategy that breaks is a finding, not the end
        name = f"{type(error).__name__}: {error}"
        return {"problem": _problems[job[0]]["name"], "strategy": job[1], "seed": job[2], "error": name[:300]}


def main() -> None:
    request = json.load(sys.stdin)
    _problems.extend(request["problems"])
    jobs = [
        (index, strategy, seed, request["evaluations"])
        for strategy in request["strategies"]
        for index in range(len(_problems))
        for seed in request["seeds"]
    ]
    with multiprocessing.get_context("fork").Pool(request["processes"]) as pool:
        for answer in pool.imap_unordered(_guarded, jobs):
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
