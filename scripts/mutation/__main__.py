"""Changes the code and counts the changes that no test notices.

mutmut makes the mutants: a number one more, a comparison turned, an argument dropped or None, a string
changed, … Each is written into a copy of the tree, and the tests that execute its statement are run, those of
the module's name and the quickest first, in a process forked from one that has the libraries loaded. A test
counts only if it passes on the unchanged tree in such a process. Of `ALL` every mutant is tried, of `SAMPLED`
a seeded sample, whose share has its Wilson interval. A run that was stopped goes on where it was: every
outcome is a line of `runs.jsonl`, under the digest of the mutated file. Tests that were changed since, or
execute a file that was, are mapped again, and survivors tried again with `--again`.

    pip install mutmut pytest-cov && python scripts/mutation --work /tmp/mutation --jobs 2
"""

import argparse
import contextlib
import gc
import importlib
import importlib.metadata
import json
import os
import random
import signal
import time
from collections.abc import Mapping, Sequence
from math import sqrt
from pathlib import Path
from typing import Final

from covering import Covering
from mutants import ALL, ROOT, Mutant, every, sample, sampled_files
from trying import copy_tree, try_one

TESTS: Final = (
    *("tests/measure", "tests/export", "tests/verify", "tests/cli/test_verify.py"),
    *("tests/search/test_choose.py", "tests/tuning/test_decide.py", "tests/report/test_status.py"),
    *("tests/store/test_winners.py", "tests/store/test_confirmations.py", "tests/store/test_merge.py"),
    *("tests/backends/sglang", "tests/backends/vllm", "tests/backends/aiter_main/test_export.py"),
    *("tests/backends/test_registry.py", "tests/backends/test_third_party.py"),
)
# Loaded before the fork: what tests need and what costs seconds. Nothing of ours is.
PRELOADED: Final = (
    *("numpy", "torch", "triton", "optuna.samplers", "pebble", "typer.testing", "alembic.command"),
    *("sqlalchemy.orm", "sqlalchemy.dialects.sqlite", "pytest", "hypothesis.strategies"),
)


def wilson(hits: int, of: int) -> tuple[float, float]:
    """95 % interval of a share."""
    if not of:
        return 0.0, 1.0
    z, share = 1.96, hits / of
    centre = (share + z * z / (2 * of)) / (1 + z * z / of)
    half = z / (1 + z * z / of) * sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    return centre - half, centre + half


def report(title: str, tried: Sequence[Mutant], outcomes: Mapping[str, str], *, sampled: bool) -> None:
    """The share killed of those that are not equivalent, and who survived."""
    known = [mutant for mutant in tried if mutant.key in outcomes]
    alive = [mutant for mutant in known if outcomes[mutant.key] in ("survived", "untested")]
    equal = [mutant for mutant in alive if mutant.equivalent]
    counted = [mutant for mutant in known if mutant not in equal]
    survivors = [mutant for mutant in alive if mutant not in equal]
    killed = len(counted) - len(survivors)
    share = killed / len(counted) if counted else 0.0
    low, high = wilson(killed, len(counted))
    left = len(tried) - len(known)
    interval = f" (95 %: {low:.1%} to {high:.1%})" if sampled or left else ""
    print(f"\n{title}: {killed} of {len(counted)} killed, {share:.1%}{interval}; {left} not run")
    for path in dict.fromkeys(mutant.path for mutant in counted):
        here = [mutant for mutant in counted if mutant.path == path]
        print(f"  {path}: {sum(mutant not in survivors for mutant in here)} of {len(here)}")
    for mutant in survivors:
        print(f"  {outcomes[mutant.key]} {mutant.path}:{mutant.line}: {mutant.change}")
    for mutant in equal:
        print(f"  equivalent {mutant.path}:{mutant.line}: {mutant.change}: {mutant.equivalent}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--work", type=Path, default=ROOT / ".mutation", help="folder of the copy and the outcomes"
    )
    parser.add_argument("--sample", type=int, default=400, help="mutants of the sampled modules")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--part", choices=("all", "sample", "both"), default="both")
    parser.add_argument("--again", action="store_true", help="try survivors again")
    parser.add_argument("--report", action="store_true", help="print what is known, run nothing")
    parser.add_argument("--jobs", type=int, default=1, help="mutants at a time, each in a tree of its own")
    parser.add_argument("--tests", nargs="+", default=list(TESTS), help="test files and folders to map")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    whole = every(ALL) if args.part != "sample" else []
    drawn: list[Mutant] = []
    if args.part != "all":
        drawn, pool = sample([path for path in sampled_files() if path not in ALL], args.sample, args.seed)
        print(f"{len(drawn)} of {pool} mutants of the sampled modules, seed {args.seed}")
    tried = [*whole, *drawn]
    log = args.work / "runs.jsonl"
    if not args.report:
        _run(args, tried, log)
    outcomes = _outcomes(log)
    if args.part != "sample":
        report("all mutants", whole, outcomes, sampled=False)
    if args.part != "all":
        report("sampled mutants", drawn, outcomes, sampled=True)


def _outcomes(log: Path) -> dict[str, str]:
    entries = map(json.loads, log.read_text().splitlines() if log.exists() else ())
    return {entry["key"]: entry["outcome"] for entry in entries}


def _run(args: argparse.Namespace, tried: Sequence[Mutant], log: Path) -> None:
    trees = [copy_tree(args.work.resolve() / f"tree{job}") for job in range(args.jobs)]
    covering = Covering(trees[0], args.work)
    covering.update(args.tests, args.jobs)
    for name in PRELOADED:
        importlib.import_module(name)
    for plugin in importlib.metadata.entry_points(group="pytest11"):
        plugin.load()
    gc.collect()
    gc.freeze()  # pytest collects garbage many times at its end, each time all that is loaded here
    outcomes = _outcomes(log)
    again = ("survived", "untested") if args.again else ()
    todo = [m for m in tried if m.key not in outcomes or outcomes[m.key] in again]
    random.Random(args.seed).shuffle(todo)  # what is done when it is stopped is a sample of the whole
    children = []
    for job, tree in enumerate(trees):
        children.append(os.fork())
        if children[-1] == 0:
            _try_all(todo[job :: args.jobs], tree, covering, log)
            os._exit(0)
    try:
        for child in children:
            os.waitpid(child, 0)
    finally:
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGINT)


def _try_all(todo: Sequence[Mutant], tree: Path, covering: Covering, log: Path) -> None:
    sound: dict[str, bool] = {}
    with log.open("a") as lines:
        for number, mutant in enumerate(todo):
            started = time.monotonic()
            outcome, by = try_one(mutant, tree, covering, sound)
            took = round(time.monotonic() - started, 2)
            entry = {"key": mutant.key, "outcome": outcome, "seconds": took, "by": by}
            where = f"{mutant.path}:{mutant.line}"
            lines.write(json.dumps({**entry, "where": where, "change": mutant.change}) + "\n")
            lines.flush()
            told = f"{where}: {mutant.change[:90]}"
            print(f"{number + 1}/{len(todo)} {outcome} {took:.1f} s: {told}", flush=True)


if __name__ == "__main__":
    main()
