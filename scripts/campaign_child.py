"""An autotune process of `campaign.py` that notes down what it has stored, for the campaign to look for.

    python scripts/campaign_child.py JOURNAL cli ARGUMENTS…       the command line
    python scripts/campaign_child.py JOURNAL live DATABASE SEED   a live run on the CPU stand-in of the tests

A line of the journal is written after the store has said that a trial or a winner is committed, and before
the search hears of it. `CAMPAIGN_CLOCK=N` sets the clock back by a day at its N-th reading.
"""

import os
import sys
from datetime import datetime, timedelta
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

DATED = ("confirmations", "exports", "runs", "shortlists", "trials", "verdicts", "winners")


def note_what_is_stored(journal: Path) -> None:
    """Makes the store write each committed row's id into the journal."""
    from autotune.store.store import Store

    file = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for method, kind in (("record_trial", "trial"), ("record_winner", "winner")):
        record = getattr(Store, method)

        def noted(*args: Any, _record: Any = record, _kind: str = kind, **kwargs: Any) -> Any:
            row = _record(*args, **kwargs)
            samples = args[3] if _kind == "trial" and len(args) > 3 else kwargs.get("samples", ())
            os.write(file, f"{_kind} {row} {len(samples)}\n".encode())
            return row

        setattr(Store, method, wraps(record)(noted))


def set_the_clock_back(readings: int) -> None:
    """Lets the store's clock jump back by a day at its `readings`-th reading."""
    left = readings

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            nonlocal left
            left -= 1
            return datetime.now(tz) - (timedelta() if left > 0 else timedelta(days=1))

    for name in DATED:
        import_module(f"autotune.store.{name}").datetime = Clock  # type: ignore[attr-defined]


def live(database: str, seed: int) -> None:
    """A whole run on the stand-in: the fastest right config is known."""
    from autotune.cli.progress import Progress
    from autotune.errors import UserError
    from autotune.measure.settings import MeasureSettings
    from autotune.problem.layer import Problem
    from autotune.store.store import Store
    from autotune.tuning.run import RunRequest, run
    from tests.live_stand_in import TARGET, TINY, StandIn

    request = RunRequest(
        backend=StandIn.name,
        problems=[Problem(TINY, 2)],
        target=TARGET,
        trials=20,
        seed=seed,
        sampler="tpe",
        workers=1,
        measuring=MeasureSettings(cold=2.0, steps=4, timeout_s=5.0, select_rounds=2, judge_rounds=8),
    )
    try:
        with Store.open(Path(database)) as store:
            run(request, store, Progress())
    except UserError as error:  # as the command line tells it
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def main() -> None:
    journal, what, *rest = sys.argv[1:]
    note_what_is_stored(Path(journal))
    if readings := os.environ.get("CAMPAIGN_CLOCK"):
        set_the_clock_back(int(readings))
    if what == "live":
        live(rest[0], int(rest[1]))
    else:
        sys.argv = ["autotune", *rest]
        from autotune.__main__ import main as command_line

        command_line()


if __name__ == "__main__":
    main()
