"""Measures the toy where there is no GPU. `autotune run` measures on GPUs only, so the library is called."""

from autotune.cli.progress import Progress
from autotune.machine.devices import DEVICES
from autotune.machine.targets import Target
from autotune.measure.settings import MeasureSettings
from autotune.problem.layer import Layer, Problem
from autotune.store.store import Store
from autotune.tuning.run import RunRequest, run

TINY = Layer("tiny", model_dim=128, inter_dim=64, experts=16, top_k=2, tp=1)

if __name__ == "__main__":  # workers import this file, too
    request = RunRequest(
        backend="toy",
        problems=[Problem(TINY, verify_tokens=4)],
        target=Target("cpu", DEVICES["mi325x"], live=True, why="there is no GPU"),
        trials=3,  # a stage: the default, the published one, and one more
        seed=0,
        sampler="tpe",
        workers=1,
        measuring=MeasureSettings(
            steps=2, window_s=0.02, warmup_s=0.02, min_samples=3, select_rounds=2, judge_rounds=4
        ),
    )
    with Store.open() as store:
        for winner in run(request, store, Progress()).best:
            print(f"{winner.problem.shape}: {winner.gain:.0%} faster than the default,")
            print(f"  stage1: {winner.config.stage1}; stage2: {winner.config.stage2}")
