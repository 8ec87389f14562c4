"""Which tests execute a line of the changed modules, and how long each takes."""

import ast
import hashlib
import json
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import coverage
from mutants import ALL, Mutant, sampled_files

# They take tens of seconds each, and what they execute of these modules quicker ones do too.
SLOW: Final = (
    *(
        f"tests/measure/test_{name}.py"
        for name in ("beside", "commands", "faults", "gate_paths", "lock", "pool")
    ),
    "tests/verify/test_fused_moe.py",
)
_ENOUGH_S: Final = 60.0
"""Of tests that execute a mutant's statement: what none of them notices by then counts as survived."""


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
