"""Changes the code and counts the changes that no test notices.

mutmut makes the mutants: a number one more, a comparison turned, an argument dropped or None, a string
changed, … Each is written into a copy of the tree, and the tests that execute its statement are run, those of
the module's name and the quickest first, in a process forked from one that has the libraries loaded. A test
counts only if it passes on the unchanged tree in such a process. Of `ALL` every mutant is tried, of `SAMPLED`
a seeded sample, whose share has its Wilson interval. A run that was stopped goes on where it was: every
outcome is a line of `runs.jsonl`, under the digest of the mutated file. Tests that were changed since, or
execute a file that was, are mapped again, and survivors tried again with `--again`.

    pip install mutmut pytest-cov && python scripts/mutation.py --work /tmp/mutation --jobs 2
"""

import argparse
import ast
import contextlib
import gc
import hashlib
import importlib
import importlib.metadata
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import types
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatch
from math import sqrt
from pathlib import Path
from typing import Any, Final

import coverage
import libcst
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation.file_mutation import MutationVisitor, deep_replace
from mutmut.mutation.mutators import mutation_operators
from mutmut.mutation.pragma_handling import IgnoredCode

ROOT: Final = Path(__file__).resolve().parents[1]
ALL: Final = (
    *("autotune/statistics.py", "autotune/measure/confirm.py"),
    *("autotune/search/choose.py", "autotune/store/winners.py"),
)
SAMPLED: Final = (
    *("autotune/measure", "autotune/export", "autotune/verify"),
    *("autotune/engines/export.py", "autotune/engines/verify.py", "autotune/engines/diagnose.py"),
    *(f"autotune/backends/*/{name}.py" for name in ("export", "verify")),
)
TESTS: Final = (
    *("tests/measure", "tests/export", "tests/verify", "tests/cli/test_verify.py"),
    *("tests/search/test_choose.py", "tests/tuning/test_decide.py", "tests/report/test_status.py"),
    *("tests/store/test_winners.py", "tests/store/test_confirmations.py", "tests/store/test_merge.py"),
    *("tests/backends/sglang", "tests/backends/vllm", "tests/backends/aiter_main/test_export.py"),
    *("tests/backends/test_registry.py", "tests/backends/test_third_party.py"),
)
# They take tens of seconds each, and what they execute of these modules quicker ones do too.
SLOW: Final = (
    *(
        f"tests/measure/test_{name}.py"
        for name in ("beside", "commands", "faults", "gate_paths", "lock", "pool")
    ),
    "tests/verify/test_fused_moe.py",
)
# Loaded before the fork: what tests need and what costs seconds. Nothing of ours is.
PRELOADED: Final = (
    *("numpy", "torch", "triton", "optuna.samplers", "pebble", "typer.testing", "alembic.command"),
    *("sqlalchemy.orm", "sqlalchemy.dialects.sqlite", "pytest", "hypothesis.strategies"),
)
_ENOUGH_S: Final = 60.0
"""Of tests that execute a mutant's statement: what none of them notices by then counts as survived."""
_STATISTICS: Final = "autotune/statistics.py"
_MEASURE: Final = "autotune/measure"
EQUIVALENT: Final = (
    (_STATISTICS, r".* \| 10_000 -> 10001", "how many resamples there are by default is no promise"),
    (_STATISTICS, r".*seed.* \| 0 -> 1", "any seed serves as the default, and none is promised"),
    (
        *("autotune/measure/confirm.py", r".* \| len\(lasting\) < 2 or not selecting -> .*"),
        "of several who lasted there always were rounds that selected, and of one the least is that one",
    ),
    (
        *(_STATISTICS, r".* \| np\.asarray\(\w+, np\.float64\) -> np\.asarray\(\w+, (None)?\)"),
        "numpy makes float64 of Python floats by itself",
    ),
    ("*", r'.* \| "utf-8" -> "UTF-8"', "a codec's name has no case"),
    ("*", r"log\.\w+\(.*", "how something is logged is no promise"),
    (
        *(
            "*",
            r".*zip\(.*strict=True.* \| (True -> False|zip\(.*, strict=True\) -> zip\(.*, (strict=None)?\))",
        ),
        "an assertion: whoever calls sees to equal lengths",
    ),
    (
        *(f"{_MEASURE}/table.py", r"TABLE_\w+_SEED = .*"),
        "which routings they are is no promise, only that they are nobody else's",
    ),
    (
        *(f"{_MEASURE}/machine.py", r"return 1 << (16|30) \| .*"),
        "what the host's processor says of its cache and memory, as a stand-in, means nothing",
    ),
    (
        f"{_MEASURE}/sensors.py",
        r'_fields_ = .* \| "memory" -> .*',
        "it stands there for the structure's size",
    ),
    (
        *(f"{_MEASURE}/sensors.py", r'location = .*"location_id", 0.* \| 0 -> 1'),
        "the bits below the device's number are not looked at",
    ),
    (
        f"{_MEASURE}/lock.py",
        r".*os\.pread\(file, 1 << 16, 0\).* \| 16 -> 17",
        "a note is far shorter than either",
    ),
    (
        *("autotune/backends/aiter/verify.py", r".*text\.count\(.* \| .*, 0, .* -> .*, None, .*"),
        "None is the start of a text, too",
    ),
    (
        *(f"{_MEASURE}/process.py", r"RECOVER_TIMEOUT_S = .*"),
        "how long a worker may take to say whether it is sound is no promise",
    ),
    (
        *(f"{_MEASURE}/sensors.py", r'return next\(.*"hwmon/hwmon\*".* \| "hwmon" -> .*'),
        "where there is none, a folder of any name is not there",
    ),
    (f"{_MEASURE}/ring.py", r".*reshape\(-1, .* \| 1 -> 2", "numpy takes any negative number for the rest"),
    (f"{_MEASURE}/quiet.py", r"self\._since = 0\.0 \| .*", "it is set before it is read"),
    (
        f"{_MEASURE}/pool.py",
        r".*thread_name_prefix.* \| .*measure.*",
        "what a thread is called is no promise",
    ),
)
"""Mutants that survive and change nothing that is promised: file, pattern of `LINE | CHANGE`, reason."""


@dataclass(frozen=True)
class Mutant:
    """One change.

    Attributes:
        line: where it is, from 1.
        source: that line before.
        change: what it replaces and by what.
        text: the whole mutated file.
    """

    path: str
    line: int
    source: str
    change: str
    text: str

    @property
    def key(self) -> str:
        return hashlib.sha256(f"{self.path}\n{self.text}".encode()).hexdigest()[:16]

    @property
    def equivalent(self) -> str | None:
        """Why no test can notice it; None: one could."""
        reasons = (
            why
            for path, change, why in EQUIVALENT
            if fnmatch(self.path, path) and re.fullmatch(change, f"{self.source} | {self.change}")
        )
        return next(reasons, None)


class Visitor(MutationVisitor):
    """mutmut's, decorated functions included: it leaves them to itself for reasons of how it runs mutants."""

    def _skip_node_and_children(self, node: libcst.CSTNode) -> bool:
        return not isinstance(node, libcst.FunctionDef) and super()._skip_node_and_children(node)


class Source:
    """A file and what mutmut makes of it; a mutant's text is rendered when it is asked for."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._code = (ROOT / path).read_text()
        wrapper = MetadataWrapper(libcst.parse_module(self._code))
        visitor = Visitor(mutation_operators, IgnoredCode(set(), set(), set()))
        self._module = wrapper.visit(visitor)
        self._mutations = visitor.mutations
        self._positions = wrapper.resolve(PositionProvider)

    def __len__(self) -> int:
        return len(self._mutations)

    def mutant(self, index: int) -> Mutant | None:
        """None: it does not compile, or is the same program."""
        mutation = self._mutations[index]
        changed = deep_replace(self._module, mutation.original_node, mutation.mutated_node)
        assert isinstance(changed, libcst.Module)
        try:
            if ast.dump(ast.parse(changed.code)) == ast.dump(ast.parse(self._code)):
                return None
        except SyntaxError:
            return None
        before, after = (
            " ".join(self._module.code_for_node(node).split())
            for node in (mutation.original_node, mutation.mutated_node)
        )
        line = self._positions[mutation.original_node].start.line
        source = self._code.splitlines()[line - 1].strip()
        return Mutant(self.path, line, source, f"{before} -> {after}", changed.code)


def every(paths: Sequence[str]) -> list[Mutant]:
    """All mutants of some files."""
    return [
        mutant
        for source in map(Source, paths)
        for index in range(len(source))
        if (mutant := source.mutant(index)) is not None
    ]


def sample(paths: Sequence[str], most: int, seed: int) -> tuple[list[Mutant], int]:
    """A random sample of the mutants of some files, and of how many it is."""
    sources = [Source(path) for path in paths]
    places = [(source, index) for source in sources for index in range(len(source))]
    random.Random(seed).shuffle(places)
    drawn: list[Mutant] = []
    for source, index in places:
        if len(drawn) == most:
            break
        mutant = source.mutant(index)
        if mutant is not None:
            drawn.append(mutant)
    return drawn, len(places)


def sampled_files() -> list[str]:
    """The modules of `SAMPLED`."""
    places = [place for pattern in SAMPLED for place in ROOT.glob(pattern)]
    files = {file for place in places for file in ([place] if place.is_file() else place.rglob("*.py"))}
    return sorted(str(file.relative_to(ROOT)) for file in files)


class Covering:
    """Which tests execute a line, and how long each takes; kept by test file until that changes."""

    def __init__(self, tree: Path, work: Path) -> None:
        self._tree, self._work, self._place = tree, work, work / "coverage.json"
        self._wanted = {*sampled_files(), *ALL}
        self._kept = json.loads(self._place.read_text()) if self._place.exists() else {}
        self.seconds: dict[str, float] = {}
        self._lines: dict[str, dict[int, set[str]]] = {}

    def update(self, folders: Sequence[str], jobs: int) -> None:
        """Runs the test files that are new, or changed, or execute what is, each by itself."""
        files = sorted(
            {
                str(path.relative_to(self._tree))
                for folder in folders
                for path in (
                    [self._tree / folder]
                    if folder.endswith(".py")
                    else (self._tree / folder).rglob("test_*.py")
                )
            }
            - set(SLOW)
        )
        stale = [file for file in files if not self._holds(file)]
        with ThreadPoolExecutor(jobs) as pool:
            for file, mapped in zip(stale, pool.map(self._cover, stale), strict=True):
                self._kept[file] = mapped
                self._place.write_text(json.dumps(self._kept))
                print(f"covered {file}", flush=True)
        for file in files:
            self.seconds |= self._kept[file]["seconds"]
            for path, lines in self._kept[file]["lines"].items():
                for line, tests in lines.items():
                    self._lines.setdefault(path, {}).setdefault(int(line), set()).update(tests)

    def _holds(self, file: str) -> bool:
        return file in self._kept and all(
            self._digest(path) == digest for path, digest in self._kept[file]["digests"].items()
        )

    def _digest(self, path: str) -> str:
        place = self._tree / path
        return hashlib.sha256(place.read_bytes()).hexdigest() if place.exists() else ""

    def _cover(self, file: str) -> dict[str, object]:
        """Runs one file; subprocesses count for the whole file, since which test they serve is not known."""
        scratch = self._work / "cover" / file.replace("/", "_")
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        (scratch / "rc").write_text(
            "[run]\nsource = autotune\npatch = subprocess\nparallel = true\n"
            f"data_file = {scratch}/data\nsigterm = true\n"
        )
        subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "--no-header"),
                *(f"--cov-config={scratch}/rc", "--cov", "--cov-context=test", "--cov-report="),
                *(f"--junitxml={scratch}/times.xml", file),
            ],
            cwd=self._tree,
            env={**os.environ, "PYTHONPATH": str(self._tree)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )
        seconds = {}
        for case in ElementTree.parse(scratch / "times.xml").iter("testcase"):
            if not len(case) or case.find("properties") is not None:  # neither skipped nor failed
                seconds[f"{file}::{case.get('name')}"] = float(case.get("time") or 0.0)
        data = coverage.CoverageData(str(scratch / "data"))
        if not (scratch / "data").exists():
            merged = coverage.Coverage(config_file=str(scratch / "rc"))
            merged.combine([str(scratch)])
            data = merged.get_data()
        data.read()
        lines: dict[str, dict[int, list[str]]] = {}
        for measured in data.measured_files():
            path = str(Path(measured).relative_to(self._tree))
            if path in self._wanted:
                lines[path] = {
                    line: sorted({context.split("|")[0] or file for context in contexts})
                    for line, contexts in data.contexts_by_lineno(measured).items()
                }
        shutil.rmtree(scratch)
        digests = {path: self._digest(path) for path in [file, *lines]}
        return {"seconds": seconds, "lines": lines, "digests": digests}

    def tests(self, mutant: Mutant) -> list[str]:
        """The tests that execute the statement: those of the module's name, then the quickest; files last.

        What is executed at import only, a constant or a default, is what the tests of its function or
        module stand for. Those that would take the whole longer than `_ENOUGH_S` are left out.
        """
        seconds, tests = 0.0, []
        for name in self._ordered(mutant):
            seconds += self.seconds[name]
            if tests and seconds > _ENOUGH_S:
                break
            tests.append(name)
        return tests

    def _ordered(self, mutant: Mutant) -> list[str]:
        lines, stem = self._lines.get(mutant.path, {}), Path(mutant.path).stem
        others: list[str] = []
        for first, last in spans((self._tree / mutant.path).read_text(), mutant.line):
            names = {name for line in range(first, last + 1) for name in lines.get(line, ())}
            own = {name for name in names if name in self.seconds}
            # A file by itself is what ran at import or in a subprocess of one of its tests: of which is not
            # known, so those come after the tests that are known to execute what is around.
            others = others or self._by_file({name for name in names if name.endswith(".py")}, mutant)
            if own:
                near = sorted(
                    own, key=lambda name: (stem not in Path(name.split("::")[0]).name, self.seconds[name])
                )
                return [*near, *(name for name in others if name not in own)]
        return others

    def _by_file(self, files: set[str], mutant: Mutant) -> list[str]:
        """Tests of the files in which a subprocess executed the line, or of those of the module's name."""
        stem = Path(mutant.path).stem
        named = [file for file in files if stem in file]
        chosen = {name for name in self.seconds if name.split("::")[0] in (named or files)}
        return sorted(chosen, key=lambda name: self.seconds[name])


def _file_of(test: str) -> str:
    return Path(test.split("::")[0]).name


def spans(code: str, line: int) -> list[tuple[int, int]]:
    """Lines of the statement at `line`, of its function, and of the module: first and last, from 1.

    Of a statement that is executed at import its own lines tell nothing: they are the first importer's.
    """
    nodes = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.stmt)]
    around = [node for node in nodes if node.lineno <= line <= (node.end_lineno or node.lineno)]
    called = any(isinstance(node, ast.FunctionDef) and node.body[0].lineno <= line for node in around)
    known: list[tuple[int, int]] = []
    for node in around:
        body, last = getattr(node, "body", None), node.end_lineno or line
        if not isinstance(body, list):
            body = []
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            known.append((body[0].lineno, last))
        elif called and not (body and body[0].lineno <= line):
            known.append((node.lineno, body[0].lineno - 1 if body else last))
    known.sort(key=lambda span: span[1] - span[0])
    return [*known, (1, len(code.splitlines()))]


def copy_tree(tree: Path) -> Path:
    """The files that git knows of or would, in a place of their own."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout.decode()
    for name in filter(None, listed.split("\0")):
        source, target = ROOT / name, tree / name
        if source.is_file() and (not target.exists() or target.read_bytes() != source.read_bytes()):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
            _forget(target)
    return tree


def _forget(path: Path) -> None:
    """Compiled code of a file: its time stamp is too coarse to tell two mutants apart."""
    for compiled in path.parent.glob(f"__pycache__/{path.stem}.*.pyc"):
        compiled.unlink()


def try_one(mutant: Mutant, tree: Path, covering: Covering, sound: dict[str, bool]) -> tuple[str, str]:
    """What became of a mutant, and which test noticed it.

    Args:
        sound: tests that noticed a mutant so far, and whether they pass on the unchanged tree; added to.

    Returns:
        `killed`, `timeout` (a test would have noticed), `survived` or `untested`; and the test, "" of none.
    """
    target = tree / mutant.path
    original = target.read_text()
    while True:
        tests = [name for name in covering.tests(mutant) if sound.get(name, True)]
        if not tests:
            return "untested", ""
        target.write_text(mutant.text)
        _forget(target)
        try:
            outcome, by = run_tests(tree, tests, covering.seconds)
        finally:
            target.write_text(original)
            _forget(target)
        if by and by not in sound:
            sound[by] = run_tests(tree, [by], covering.seconds)[0] == "survived"
        if not by or sound[by]:
            return outcome, by


def run_tests(tree: Path, tests: Sequence[str], seconds: Mapping[str, float]) -> tuple[str, str]:
    """Runs tests in a fork of this process; see `try_one`."""
    mark = tree.with_suffix(".failed")
    mark.unlink(missing_ok=True)
    # A test's own seconds, many times over, for a machine that does other things as well.
    limit_s = 30.0 + 10 * sum(seconds[name] for name in tests)
    child = os.fork()
    if child == 0:
        _test(tree, tests, seconds, mark)
    try:
        deadline = time.monotonic() + limit_s
        while (done := os.waitpid(child, os.WNOHANG))[0] == 0:
            if time.monotonic() > deadline:
                os.killpg(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return "timeout", ""
            time.sleep(0.02)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # workers that a failed test left
    by = mark.read_text() if mark.exists() else ""
    return "survived" if os.waitstatus_to_exitcode(done[1]) == 0 else "killed", by


class First:
    """A pytest plugin that writes down which test failed first, if it can be told."""

    def __init__(self, mark: Path, tests: Sequence[str]) -> None:
        self._mark, self._tests = mark, frozenset(tests)

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed and not self._mark.exists() and report.nodeid in self._tests:
            self._mark.write_text(report.nodeid)


def _batches(tests: Sequence[str], seconds: Mapping[str, float]) -> Iterator[list[str]]:
    """The tests in turns, each several times as long as the last: a file is loaded when it is needed."""
    batch: list[str] = []
    most = 0.5
    for name in tests:
        batch.append(name)
        if sum(seconds[each] for each in batch) > most:
            yield batch
            batch, most = [], 4 * most
    if batch:
        yield batch


def _test(tree: Path, tests: Sequence[str], seconds: Mapping[str, float], mark: Path) -> None:
    """Runs the tests in this process, which is a fork, and ends it with pytest's status."""
    import pytest
    from hypothesis import HealthCheck, settings

    os.setsid()
    os.chdir(tree)
    quiet = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(quiet, stream)
    sys.path.insert(0, str(tree))
    os.environ["PYTHONPATH"] = str(tree)
    # A spawned worker would import the main module, which is this script.
    sys.modules["__main__"] = types.ModuleType("__main__")
    # A loaded machine must not kill a mutant, nor luck.
    lenient = [HealthCheck.too_slow]
    settings.register_profile(
        "mutation", deadline=None, derandomize=True, database=None, suppress_health_check=lenient
    )
    status = 3
    try:
        for batch in _batches(tests, seconds):
            limit = 30 + 10 * max(seconds[name] for name in batch)
            options = ["-x", "-q", "-n", "0", "-p", "no:cacheprovider", "-p", "no:cov", f"--timeout={limit}"]
            options += ["--hypothesis-profile=mutation", f"--basetemp={tree.with_suffix('.tmp')}"]
            status = int(pytest.main([*options, *batch], plugins=[First(mark, batch)]))
            if status:
                break
    finally:
        os._exit(status)


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
