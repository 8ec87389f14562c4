"""A driver for `test_sharing`: `python -m tests.tuning.shared_driver URL`. Claims run out after 3 s."""

import sys

from autotune.cli.progress import Progress
from autotune.measure.settings import MeasureSettings
from autotune.problem.layer import Problem
from autotune.store import claims
from autotune.store.store import Store
from autotune.tuning import sharing
from autotune.tuning.run import RunRequest, run
from tests.live_stand_in import TARGET, TINY, Wide

PROBLEM = Problem(TINY, 2)


def request(seed: int = 0) -> RunRequest:
    return RunRequest(
        backend=Wide.name,
        problems=[PROBLEM],
        target=TARGET,
        trials=50,
        seed=seed,
        sampler="tpe",
        workers=1,
        measuring=MeasureSettings(steps=4, timeout_s=10.0, select_rounds=2, judge_rounds=8),
        command="autotune run",
    )


if __name__ == "__main__":
    claims.EXPIRY_S = 3.0  # type: ignore[misc]
    sharing.RENEW_S = 0.5  # type: ignore[misc]
    with Store.open(sys.argv[1]) as store:
        print(run(request(), store, Progress()).run)
