#!/usr/bin/env python
"""Our search beside its peers on recorded tables, at the recorded costs.

    python scripts/compare_searchers.py kimi.table.json.gz qwen.table.json.gz --held-back qwen --seeds 50 \\
        --json compare.json --plot compare.png --kernel-tuner .venv-kt/bin/python

Tables are ours or T4 files. Peers: exhaustive (the file's order), random (really run), plain Optuna TPE and
GP, and Kernel Tuner's searchers in its own simulation mode. `pip install 'moe-autotune[compare]'` brings all;
where Kernel Tuner's dependencies are unwelcome, it may live in an environment of its own, whose Python is
then given. A peer that is not installed is left out, and that is said.
Optuna's GP takes seconds an ask: 10 seeds and 100 asks. Ours begins with the shipped default, as it does in
earnest; nothing else is given to it.

`NAME/stage/mM` is one problem alone; `…/all` is all token counts (and both stages) at once: ours through the
driver, one compile measured at every token count; peers one problem after the other.
"""

import argparse
import hashlib
import importlib.util
import json
import multiprocessing
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import searchers
from bench.kept import KeptRuns, Key
from bench.scoring import JointRun, Recording, Run, Score, one_after_the_other, recordings, score, score_joint
from bench.t4 import read_t4

from autotune.errors import UserError
from autotune.replay.files import read_table
from autotune.replay.table import Table

OURS = "autotune"
KERNEL_TUNER = (
    "hybrid_vndx",
    "adaptive_tabu_greywolf",
    "genetic_algorithm",
    "simulated_annealing",
    "bayes_opt",
)
SLOW = ("optuna_gp", "bayes_opt")  # seconds an ask
SLOW_SEEDS, SLOW_ASKS = 10, 100
Runs = dict[tuple[str, str], dict[int, Run]]  # (problem, searcher) -> seed -> run

_tables: dict[str, Table] = {}
_problems: dict[str, Recording] = {}


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        scores = _compare(options)
    except UserError as error:
        print(f"compare_searchers: {error}", file=sys.stderr)
        return 2
    options.json.write_text(json.dumps([one.record() for one in scores], indent=1) + "\n")
    _print(scores)
    return 0


def _compare(options: argparse.Namespace) -> list[Score]:
    digests: dict[str, str] = {}
    for path in options.tables:
        label = path.name.split(".table")[0].split(".json")[0]
        _tables[label] = read_table(path) if ".table" in path.name else read_t4(path)
        digests[label] = hashlib.sha256(path.read_bytes()).hexdigest()
        only = set(options.tokens) if options.tokens else None
        _problems.update(
            {p.name: p for p in recordings(_tables[label], label) if only is None or p.tokens in only}
        )
    ours = searchers.source_digest()

    def made_from(key: Key) -> str:
        table = digests.get(key.problem.split("/")[0], "another table")
        return f"{table} {ours}" if key.searcher == OURS else table

    kept = KeptRuns(options.runs, made_from)
    wanted = options.searchers.split(",")
    started = time.monotonic()
    alone = [key for key in _jobs(options, wanted) if key not in kept]
    labels = {_everything(label): label for label in _tables}
    together = [
        key
        for name in labels
        for seed in range(options.seeds if OURS in wanted else 0)
        if (key := Key(name, OURS, seed, options.candidates)) not in kept
    ]
    with multiprocessing.get_context("fork").Pool(options.processes) as pool:
        for key, rows in pool.imap_unordered(_run, alone):
            kept.add(key, rows)
        for key, events in pool.imap_unordered(_run_jointly, together):
            kept.add(key, events)
    print(f"ours and Optuna: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    _kernel_tuner(options, [name for name in wanted if name in KERNEL_TUNER], kept)
    runs: Runs = defaultdict(dict)
    joint: dict[tuple[str, int], JointRun] = {}
    for key, rows in kept:
        if key.searcher not in wanted or key.seed >= options.seeds:
            continue
        if key.problem in labels and key.limit == options.candidates:
            joint[labels[key.problem], key.seed] = JointRun([(problem, row) for problem, row in rows])
        elif key.problem in _problems and key.limit == _limit(options, key.searcher):
            runs[key.problem, key.searcher][key.seed] = Run(rows)
    if options.plot:
        from bench.plot import plot_convergence

        plot_convergence(runs, _problems, options.plot)
    return [*_single(options, runs), *_together(options, runs, joint)]


def _limit(options: argparse.Namespace, searcher: str) -> int:
    return SLOW_ASKS if searcher in SLOW else int(options.evaluations)


def _seeds(options: argparse.Namespace, searcher: str) -> range:
    most = 1 if searcher == "exhaustive" else SLOW_SEEDS if searcher in SLOW else options.seeds
    return range(min(most, options.seeds))


def _jobs(options: argparse.Namespace, wanted: Sequence[str]) -> Iterator[Key]:
    for searcher in wanted:
        if searcher in KERNEL_TUNER:
            continue
        if searcher == "optuna_gp" and not all(map(importlib.util.find_spec, ("scipy", "torch"))):
            print("left out: optuna_gp needs scipy and torch", file=sys.stderr)
            continue
        for name in _problems:
            for seed in _seeds(options, searcher):
                yield Key(name, searcher, seed, _limit(options, searcher))


def _run(key: Key) -> tuple[Key, list[int]]:
    name, searcher, seed, evaluations = key.problem, key.searcher, key.seed, key.limit
    problem, table = _problems[name], _tables[name.split("/")[0]]
    if searcher == OURS:
        run = searchers.ours(table, problem, seed, evaluations)
    elif searcher == "exhaustive":
        run = searchers.exhaustive(problem)
    elif searcher == "random":
        run = searchers.uniform(problem, seed)
    elif searcher in ("optuna_tpe", "optuna_gp"):
        import optuna

        kind = optuna.samplers.TPESampler if searcher == "optuna_tpe" else optuna.samplers.GPSampler
        asks = evaluations if searcher == "optuna_gp" else 2 * evaluations
        run = searchers.optuna(table, problem, kind(seed=seed), evaluations, asks)
    else:
        raise UserError(f"unknown searcher {searcher!r}")
    return key, list(run.order)


def _run_jointly(key: Key) -> tuple[Key, list[tuple[int, int]]]:
    label = key.problem.split("/")[0]
    return key, list(searchers.ours_jointly(_tables[label], _of(label), key.seed, key.limit).events)


def _everything(label: str) -> str:
    """Names a table's problems together."""
    return f"{label}/" + "+".join(problem.name.removeprefix(f"{label}/") for problem in _of(label))


def _of(prefix: str) -> list[Recording]:
    return [problem for name, problem in _problems.items() if name.startswith(f"{prefix}/")]


def _kernel_tuner(options: argparse.Namespace, strategies: list[str], kept: KeptRuns) -> None:
    """Runs Kernel Tuner's searchers in their own environment."""
    python = options.kernel_tuner or (sys.executable if importlib.util.find_spec("kernel_tuner") else None)
    if strategies and python is None:
        print(
            f"left out: {', '.join(strategies)} need kernel-tuner, or --kernel-tuner PYTHON", file=sys.stderr
        )
        return
    for slow in (False, True):
        chosen = [name for name in strategies if (name in SLOW) == slow]
        if not chosen:
            continue
        started = time.monotonic()
        limit, seeds = _limit(options, chosen[0]), _seeds(options, chosen[0])
        todo = [
            problem
            for problem in _problems.values()
            if any(Key(problem.name, name, seed, limit) not in kept for name in chosen for seed in seeds)
        ]
        if not todo:
            continue
        job = {
            "problems": [_for_kernel_tuner(problem) for problem in todo],
            "strategies": chosen,
            "seeds": list(seeds),
            "evaluations": limit,
            "processes": options.processes,
        }
        peer = Path(__file__).with_name("kernel_tuner_peer.py")
        done = subprocess.run(
            [python, str(peer)],
            input=json.dumps(job),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise UserError(f"{python} could not run Kernel Tuner: {last}")
        for line in done.stdout.splitlines():
            answer = json.loads(line)
            if "error" in answer:
                print(f"{answer['strategy']} on {answer['problem']}: {answer['error']}", file=sys.stderr)
                continue
            kept.add(Key(answer["problem"], answer["strategy"], answer["seed"], limit), answer["order"])
        print(f"{', '.join(chosen)}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)


def _for_kernel_tuner(problem: Recording) -> dict[str, Any]:
    """A problem as `kernel_tuner_peer.py` takes it: words, switches and unset become their numbers."""
    space = _tables[problem.name.split("/")[0]].space(problem.tokens, problem.stage)
    codes = {
        p.name: {v: v for v in p.values}
        if all(type(v) is int for v in p.values)
        else {(type(v), v): number for number, v in enumerate(p.values)}
        for p in space.params
    }

    def code(name: str, value: Any) -> Any:
        known = codes[name]
        return known[value] if value in known else known[type(value), value]

    label, stage, _ = problem.name.split("/")
    return {
        "name": problem.name,
        "space": f"{label}/{stage}",
        "knobs": {p.name: [code(p.name, v) for v in p.values] for p in space.params},
        "configs": [[code(p.name, row.config[p.name]) for p in space.params] for row in problem.rows],
        "times": [None if us != us else us / 1e3 for us in problem.seen.tolist()],
    }


def _single(options: argparse.Namespace, runs: Runs) -> Iterator[Score]:
    for (name, searcher), found in sorted(runs.items()):
        back = any(part in name for part in options.held_back)
        yield score(_problems[name], searcher, list(found.values()), held_back=back)


def _together(
    options: argparse.Namespace, runs: Runs, joint: dict[tuple[str, int], JointRun]
) -> Iterator[Score]:
    """All token counts of a stage, and of a table, at once."""
    names = sorted({searcher for _, searcher in runs})
    for label, table in _tables.items():
        back = any(part in label for part in options.held_back)
        every = _of(label)
        for prefix in [*(f"{label}/{stage}" for stage in table.stages), label]:
            problems = _of(prefix)
            if len(problems) < 2:
                continue
            picked = [every.index(problem) for problem in problems]
            renamed = {old: new for new, old in enumerate(picked)}
            ours = [
                JointRun([(renamed[index], row) for index, row in run.events if index in renamed])
                for (of, _), run in sorted(joint.items())
                if of == label
            ]
            if ours:
                yield score_joint(f"{prefix}/all", problems, OURS, ours, held_back=back)
            for searcher in names:
                if searcher == OURS or any(not runs[p.name, searcher] for p in problems):
                    continue
                seeds = min(len(runs[p.name, searcher]) for p in problems)
                peers = [
                    _sequence(problems, [runs[p.name, searcher][s] for p in problems]) for s in range(seeds)
                ]
                yield score_joint(f"{prefix}/all", problems, searcher, peers, held_back=back)


def _sequence(problems: Sequence[Recording], found: Sequence[Run]) -> JointRun:
    """Peers stop each search as soon as it is within 1 %, which nobody can know: to their advantage."""
    cut = []
    for problem, run in zip(problems, found, strict=True):
        count, _, reached = run.to_optimum(problem)
        cut.append(Run(list(run.order)[:count] if reached else list(range(len(problem.rows)))))
    return one_after_the_other(cut)


def _print(scores: Sequence[Score]) -> None:
    print(f"{'table':40} {'searcher':24} {'to 1 %':>8} {'p90':>8} {'compiled':>8} {'GPU s':>8} {'at 50':>6}")
    for one in sorted(scores, key=lambda s: (s.table, s.evaluations_to_1pct_p50)):
        mark = " *" if one.held_back else ""
        print(
            f"{one.table + mark:40} {one.searcher:24} {one.evaluations_to_1pct_p50:8.0f}"
            f" {one.evaluations_to_1pct_p90:8.0f} {one.compiled_to_1pct_p50:8.0f}"
            f" {one.gpu_seconds_to_1pct_p50:8.1f} {one.fraction_at_50:6.3f}"
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("tables", nargs="+", type=Path, help="recorded tables, or T4 files")
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--plot", type=Path)
    parser.add_argument(
        "--runs",
        type=Path,
        action="append",
        default=[],
        help="a file of runs made before; what is run now is added to the last: a comparison in parts",
    )
    parser.add_argument("--held-back", nargs="*", default=[], help="parts of the names of held-back tables")
    parser.add_argument(
        "--searchers",
        default=",".join((OURS, "exhaustive", "random", "optuna_tpe", "optuna_gp", *KERNEL_TUNER)),
    )
    parser.add_argument("--kernel-tuner", help="a Python that has kernel-tuner")
    parser.add_argument("--evaluations", type=int, default=300, help="a problem; who needs more gave up")
    parser.add_argument("--candidates", type=int, default=250, help="a stage, of our joint search")
    parser.add_argument("--tokens", type=int, nargs="*", help="only these token counts")
    parser.add_argument("--processes", type=int, default=2)
    return parser


if __name__ == "__main__":
    sys.exit(main())
