"""A run on two stand-in GPUs for `test_fleet`: `python -m tests.tuning.fleet_driver DATABASE`."""

import sys
from dataclasses import replace

from autotune.cli.progress import Progress
from autotune.processes import interrupt
from autotune.store.store import Store
from autotune.tuning.run import run
from tests.live_stand_in import WideFleet
from tests.tuning.shared_driver import request

if __name__ == "__main__":
    interrupt.install()
    with Store.open(sys.argv[1]) as store:
        try:
            run(replace(request(), backend=WideFleet.name, devices=(0, 1)), store, Progress())
        except KeyboardInterrupt:
            sys.exit(interrupt.exit_code())
