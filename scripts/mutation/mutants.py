"""What is changed: the mutants that mutmut makes of some modules, and those that change nothing promised."""

import ast
import hashlib
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Final

import libcst
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation.file_mutation import MutationVisitor, deep_replace
from mutmut.mutation.mutators import mutation_operators
from mutmut.mutation.pragma_handling import IgnoredCode

ROOT: Final = Path(__file__).resolve().parents[2]
ALL: Final = (
    *("autotune/statistics.py", "autotune/measure/confirm.py"),
    *("autotune/search/choose.py", "autotune/store/winners.py"),
)
SAMPLED: Final = (
    *("autotune/measure", "autotune/export", "autotune/verify"),
    *("autotune/engines/export.py", "autotune/engines/verify.py", "autotune/engines/diagnose.py"),
    *(f"autotune/backends/*/{name}.py" for name in ("export", "verify")),
)
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
