"""The null test: the default against configs that are just as fast, through the whole decision.

A tool that picks the best of many noisy times finds winners where there are none. Run again, with
`scripts/null_test.py` on a GPU besides, after anything that changes how winners are picked.
"""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest

from autotune.cli.progress import Progress
from autotune.machine.targets import Kind
from autotune.measure import confirm as confirming
from autotune.measure.settings import MeasureSettings
from autotune.problem.layer import Problem, Stage
from autotune.replay.files import read_table
from autotune.replay.table import Table
from autotune.results import Confirmation, Finalist, LayerConfig, Measurement, Round, Sample
from autotune.search.layers import LayerSearch
from autotune.search.study import StageSearch
from autotune.space.config import Config
from autotune.store.store import Store
from autotune.tuning.context import RunRequest, Tuning
from autotune.tuning.finals import confirm_all
from tests.live_stand_in import TARGET
from tests.store.examples import M4, MI325X, trial
from tests.tuning.test_decide import Finals

pytestmark = pytest.mark.slow
RUNS = 100
SETTINGS = MeasureSettings(resamples=2000)
TABLES = Path(__file__).parents[2] / "db" / "tables"


class Noise:
    """What an H100 added to the times of our kernels, as a recording has it.

    Attributes:
        windows: samples of a window over their median, window by window: what they share stays together.
        between: a later measurement of a config over its first, centred: windows of one config differ, and
            the card drifts between them.
    """

    def __init__(self, table: Table) -> None:
        self.windows: list[list[float]] = []
        ratios = []
        for row in (row for stage in table.stages.values() for row in stage.rows):
            for tokens, outcome in row.outcomes.items():
                if isinstance(outcome, Measurement):
                    self.windows.append([sample.us / outcome.us for sample in outcome.samples])
                    if tokens in row.settled:
                        ratios.append(row.settled[tokens] / outcome.us)
        # The first windows of the best are lucky ones: their median is selection, the rest is noise.
        self.between = [ratio / median(ratios) for ratio in ratios]

    def window(self, rng: random.Random, us: float) -> list[float]:
        """Samples of a window of a kernel that takes `us`."""
        shift = us * rng.choice(self.between)
        return [shift * sample for sample in rng.choice(self.windows)]


class Judge:
    """Every config takes as long as the default; the noise is recorded, and the card drifts as it goes."""

    kind = Kind.MEASURED
    workload = "cold"
    fingerprint = MI325X

    def __init__(self, noise: Noise, seed: int) -> None:
        self.rng, self._noise = random.Random(seed), noise
        self._clock = 0
        # From one end of a final to the other as much as two windows of one config are apart.
        self._drift = self.rng.choice(noise.between) - 1

    def us(self) -> float:
        return 22.0 * (1 + self._drift * self._clock / 200)

    def measured(self) -> Measurement:
        self._clock += 1
        return Measurement(tuple(Sample(us) for us in self._noise.window(self.rng, self.us())), 1e-3, 0.1)

    def again(self, problem: Problem, stage: Stage, config: Config) -> Measurement:
        return self.measured()

    def race(
        self, problem: Problem, configs: Sequence[LayerConfig], rounds: int, seed: int
    ) -> Sequence[Round]:
        return [
            Round(tuple({"layer": self.measured().us, "spaced": self.measured().us} for _ in configs))
            for _ in range(rounds)
        ]

    def confirm(self, problem: Problem, finalists: Sequence[Finalist]) -> Confirmation:
        def run(index: int, seed: int) -> dict[str, float]:
            routing = 1 + 0.02 * random.Random(seed).gauss(0, 1)  # shared by all who run on it
            return {"layer": self.measured().us * routing}

        return confirming.confirm(problem, finalists, lambda index: 1e-3, run, SETTINGS)


@pytest.fixture(scope="module", params=sorted(path.name for path in TABLES.glob("*kimi*.table.json.gz")))
def noise(request: pytest.FixtureRequest) -> Noise:
    return Noise(read_table(TABLES / request.param))


def false_winner(store: Store, folder: Path, noise: Noise, seed: int, *, layers: int) -> bool:
    """One decision: 16 configs a stage of equal speed, paired, confirmed, stored.

    Args:
        layers: so many pairs were tried as layers, and race; 0: the stages' windows are settled instead.
    """
    backend, judge = Finals(folder), Judge(noise, seed)
    environment = replace(MI325X, kernel_source=f"null {seed}")
    request = RunRequest(
        backend.name, [M4], TARGET, trials=16, seed=seed, sampler="random", workers=1, measuring=SETTINGS
    )
    run = store.begin_run("null", {}, seed, environment)
    current = Tuning(request, store, Progress(), backend, environment, run)
    for stage in Stage:
        space = current.space(M4, stage)
        search = StageSearch(space, sampler="random", seed=seed, budget=16)
        for config in space:
            us = judge.measured().us
            search.observe(config, us)
            found = trial(stage=stage, backend=backend.name, config=config, time_us=us, binary_hash=None)
            store.record_trial(run, replace(found, environment=environment))
        current.searches[M4, stage] = search
    if layers:
        stages = {stage: current.searches[M4, stage] for stage in Stage}
        current.layers[M4] = LayerSearch(current.default(M4), stages, budget=layers)
        for _ in range(layers):
            ask = current.layers[M4].ask()
            if ask is not None:
                current.layers[M4].tell(ask.config, judge.measured().us / judge.measured().us)
        assert current.layers[M4].tried > layers / 2
    (winner,) = confirm_all(current, judge)
    return not winner.kept_default


@pytest.mark.parametrize("layers", [0, 60], ids=["stages settled", "layers raced"])
def test_of_100_decisions_between_equals_at_most_5_find_a_winner(
    own_database: Path, tmp_path: Path, noise: Noise, layers: int
) -> None:
    with Store.open() as store:
        false = [s for s in range(RUNS) if false_winner(store, tmp_path, noise, s, layers=layers)]
    assert len(false) <= RUNS * 0.05, f"seeds {false} found winners where there are none"


def test_the_noise_is_large_enough_to_mislead(noise: Noise) -> None:
    """The fastest of 16 windows of equals is often 1 % and more ahead of their middle."""
    lucky = 0
    for seed in range(40):
        judge = Judge(noise, seed)
        windows = [judge.measured().us for _ in range(16)]
        lucky += min(windows) < 0.99 * median(windows)
    assert lucky > 10
