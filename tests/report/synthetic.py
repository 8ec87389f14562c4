"""A made-up database of many trials: every status, every shape, a winner, a kept default and none."""

import random
from dataclasses import replace

from autotune.problem.layer import Problem, Stage
from autotune.results import Confirmation, Finalist, LayerConfig, Round, Sample, StaticFacts, Status
from autotune.space.config import Config
from autotune.store.records import RunState
from autotune.store.store import Store
from tests.store.examples import LAYER, MI325X, trial

DEVICE = replace(MI325X, device="Made-up MI325X", driver="<b>none & made up</b>")
_REASONS = {
    Status.CONSTRAINT: "needs 66560 bytes of LDS, mi325x has 65536 per workgroup",
    Status.COMPILE_ERROR: "error: <unknown>: no such tile & no such warp",
    Status.COMPILE_TIMEOUT: "the compile took longer than 60 s",
    Status.RUNTIME_ERROR: "the worker died: exit code -9",
    Status.TIMEOUT: "no answer within 60 s",
    Status.INCORRECT: "the output is off by 3.1e-01",
}


def fill(store: Store, *, trials: int = 400, shapes: int = 8, seed: int = 0) -> int:
    """Writes a run; returns its id. Equal arguments make equal times."""
    rng = random.Random(seed)
    problems = [Problem(LAYER, tokens) for tokens in range(1, shapes + 1)]
    spec = {
        "trials": trials // (2 * shapes),
        "problems": [problem.key for problem in problems],
        "measuring": {"select_rounds": 2, "judge_rounds": 8, "min_gain": 0.01},
    }
    run = store.begin_run("autotune run --shape all", spec, seed, DEVICE)
    for problem in problems:
        best = {}
        for stage in Stage:
            configs = _configs(rng, trials // (2 * shapes))
            best[stage] = (configs[0], _fastest(configs, problem, stage))
            for number, config in enumerate(configs):
                _try(store, run, rng, problem, stage, config, number)
        if problem.verify_tokens != 3:  # this one ends without a final
            _confirm(
                store, run, rng, problem, *(LayerConfig(*pair) for pair in zip(*best.values(), strict=True))
            )
    store.end_run(run, RunState.FINISHED)
    return run


def _configs(rng: random.Random, count: int) -> list[Config]:
    made = {}
    default = Config({"tile_k": 256, "tile_n": 64, "num_warps": 4, "split_k": 1, "hint": None})
    made[default.key] = default
    while len(made) < count:
        config = Config(
            {
                "tile_k": rng.choice([64, 128, 256, 512]),
                "tile_n": rng.choice([16, 32, 64, 128]),
                "num_warps": rng.choice([1, 2, 4, 8]),
                "split_k": rng.choice([1, 2, 4, 7]),
                "hint": rng.choice([None, True, "a<b"]),
            }
        )
        made[config.key] = config
    return list(made.values())


def _us(config: Config, problem: Problem, stage: Stage) -> float:
    """Microseconds by a formula without meaning."""
    knob = {name: value for name, value in config.items() if isinstance(value, int)}
    slow = abs(knob["tile_k"] - 256) / 512 + abs(knob["tile_n"] - 32) / 128 + abs(knob["num_warps"] - 4) / 16
    return (
        10
        * problem.tokens**0.7
        * (1.4 if stage is Stage.STAGE1 else 1)
        * (1 + slow)
        * (1 + knob["split_k"] / 50)
    )


def _fastest(configs: list[Config], problem: Problem, stage: Stage) -> Config:
    # Those with split_k 7 fail, so none of them can win.
    return min(
        (one for one in configs if one["split_k"] != 7),
        key=lambda config: (_us(config, problem, stage), config.key),
    )


def _try(
    store: Store, run: int, rng: random.Random, problem: Problem, stage: Stage, config: Config, number: int
) -> None:
    us = _us(config, problem, stage)
    fails = number > 0 and config["split_k"] == 7 and rng.random() < 0.9
    status = rng.choice(list(_REASONS)) if fails else Status.OK
    ok = status is Status.OK
    store.record_trial(
        run,
        trial(
            problem=problem,
            stage=stage,
            environment=DEVICE,
            config=config,
            origin="default" if number == 0 else rng.choice(["joint", "neighbour"]),
            status=status,
            time_us=us if ok else None,
            gate_error=1.7e-3 if ok else 0.31 if status is Status.INCORRECT else None,
            reason=_REASONS.get(status),
            facts=StaticFacts(vgprs=64 + number % 64, lds_bytes=1024 * (1 + number % 32), waits=number % 90),
            binary_hash=f"{number:064x}",
        ),
        [Sample(us * (1 + rng.gauss(0, 0.002)), 2100, number % 50 == 1) for _ in range(3)] if ok else [],
    )


def _confirm(
    store: Store, run: int, rng: random.Random, problem: Problem, default: LayerConfig, best: LayerConfig
) -> None:
    finalists = (Finalist("default", default), Finalist("published", default), Finalist("candidate", best))

    def timed(config: LayerConfig) -> dict[str, float]:
        stages = {str(s): _us(config.of(s), problem, s) * (1 + rng.gauss(0, 0.002)) for s in Stage}
        return {"layer": sum(stages.values()) + 5, **stages}

    rounds = [Round(tuple(timed(finalist.config) for finalist in finalists)) for _ in range(10)]
    kept = problem.verify_tokens == 2
    confirmed = Confirmation(
        problem=problem,
        finalists=finalists,
        rounds=tuple(rounds),
        errors=(9.1e-3, 9.1e-3, 9.2e-3),
        winner=0 if kept else 2,
        gain=0.0 if kept else 0.11,
        gain_low=0.0 if kept else 0.10,
        gain_high=0.0 if kept else 0.12,
        notes=("kept default: the gain is not surely above 1.0%",) if kept else (),
    )
    stored = store.record_confirmation(run, confirmed, backend="triton", environment=DEVICE, workload="cold")
    store.record_winner(run, stored)
