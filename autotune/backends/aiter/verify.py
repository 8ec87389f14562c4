"""Which line of an engine's source reads an environment variable. A variable that none reads does nothing.

The source is parsed, not searched: a name in a comment, in a message, or in an assignment to os.environ is no
read. Python: `os.environ.get`, `os.environ[...]`, `os.getenv`, `... in os.environ`, functions that hand
their own parameter to one of these, and options that a class declares below an `env_prefix`. C++:
`getenv("NAME")`.
"""

import ast
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from autotune.backends.triton.export import VARIABLE as OPERATOR_VARIABLE
from autotune.engines.source import EngineSource, find_source, open_source, source_variable
from autotune.errors import UserError
from autotune.protocol.bundle import Bundle
from autotune.protocol.lookup import Check, Serving, Verification, Verifier

_NATIVE = (".h", ".hpp", ".cuh", ".c", ".cc", ".cpp", ".cu")
_TESTS = re.compile(r"(^|/)(tests?|op_tests|benchmarks?)(/|$)|(^|/)test_[^/]*$")
_READERS = frozenset({"get", "getenv", "pop", "setdefault"})


class EnvVerifier(Verifier):
    """Of AITER's and FlyDSL's sources, in each of which some of a bundle's variables may be read."""

    sources = sys.maxsize
    form = None

    def verify(self, bundle: Bundle, serving: Serving) -> Verification:
        opened = [_env_source(path) for path in serving.sources] or _env_sources_here()
        return verify_env(bundle.variables, opened, own=[OPERATOR_VARIABLE])


@dataclass(frozen=True)
class Read:
    """A line that reads a variable."""

    file: str
    line: int


def reads_of(source: EngineSource, names: Iterable[str]) -> dict[str, list[Read]]:
    """The reads of each name outside of tests, in the order of the files."""
    wanted = frozenset(names)
    reads_by_name: dict[str, list[Read]] = {name: [] for name in wanted}
    for file, text in _files(source):
        if not any(name in text for name in wanted) and "environ" not in text:
            continue
        reads = _python_reads(text) if file.endswith(".py") else _native_reads(text)
        for name, line in reads:
            matched = [name] if isinstance(name, str) else [w for w in wanted if name.fullmatch(w)]
            for match in matched:
                if match in wanted:
                    reads_by_name[match].append(Read(file, line))
    return reads_by_name


def verify_env(
    variables: Mapping[str, str], sources: Iterable[EngineSource], own: Iterable[str] = ()
) -> Verification:
    """Shows for each variable where it is read; one that nothing reads is a reason to fail.

    Args:
        variables: of a bundle.
        sources: the engine's, e.g. AITER's and FlyDSL's.
        own: names that other parts of the stack read, and that are not looked for.
    """
    skipped = frozenset(own)
    read: dict[str, list[str]] = {name: [] for name in variables if name not in skipped}
    roots = []
    for source in sources:
        roots.append(str(source.root))
        for name, lines in reads_of(source, read).items():
            read[name] += [f"{source.root}/{line.file}:{line.line}" for line in lines]
    checks = []
    for name, places in sorted(read.items()):
        more = f" and {len(places) - 1} more" if len(places) > 1 else ""
        text = f"read at {places[0]}{more}" if places else "read nowhere"
        checks.append(Check(f"{name}={variables[name]}", text, bool(places), "" if places else "a read"))
    reasons = tuple(
        f"{name}: nothing in {' or '.join(roots)} reads it, so it does nothing: this generation lacks it"
        for name, places in sorted(read.items())
        if not places
    )
    return Verification(f"environment reads in {', '.join(roots)}", tuple(checks), reasons)


def _files(source: EngineSource) -> Iterator[tuple[str, str]]:
    """Paths and texts of all sources that are no tests."""
    top = source.root
    if top.is_file():
        for name in source.names(source.engine):
            if name.endswith((".py", *_NATIVE)) and not _TESTS.search(name):
                yield name, source.text(name)
        return
    for path in sorted(top.rglob("*")):
        name = path.relative_to(top).as_posix()
        if path.suffix in (".py", *_NATIVE) and not _TESTS.search(name) and path.is_file():
            yield name, _text(path)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""  # a link that leads nowhere


def _native_reads(text: str) -> Iterator[tuple[str, int]]:
    for match in re.finditer(r'\bgetenv\s*\(\s*"(\w+)"', text):
        yield match.group(1), text.count("\n", 0, match.start()) + 1


def _python_reads(text: str) -> Iterator[tuple[str | re.Pattern[str], int]]:
    """Names, or patterns of names made by f-strings, with their lines."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):  # the latter of null bytes
        return
    yield from _declared(tree)
    helpers = _helpers(tree)
    for node in ast.walk(tree):
        argument = _read_argument(node, helpers)
        name = _name(argument) if argument is not None else None
        if name is not None:
            yield name, node.lineno  # type: ignore[attr-defined]


def _declared(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Variables that a class declares one by one below an `env_prefix`, as FlyDSL's do."""
    prefixes: dict[str, str] = {}
    for node in tree.body:
        if not isinstance(node, ast.ClassDef):
            continue
        inherited = next(
            (prefixes[b.id] for b in node.bases if isinstance(b, ast.Name) and b.id in prefixes), ""
        )
        own = ""
        declared = []
        for item in node.body:
            name = _target(item)
            value = item.value if isinstance(item, ast.Assign | ast.AnnAssign) else None
            if name == "env_prefix" and isinstance(value, ast.Constant):
                own = str(value.value)
            elif name is not None and isinstance(value, ast.Call):
                declared.append((name, item.lineno))
        if inherited or own:
            prefix = "_".join(filter(None, (inherited, own)))
            prefixes[node.name] = prefix
            yield from ((f"{prefix}_{name.upper()}", line) for name, line in declared)


def _target(item: ast.stmt) -> str | None:
    target = item.targets[0] if isinstance(item, ast.Assign) else getattr(item, "target", None)
    return target.id if isinstance(target, ast.Name) else None


def _read_argument(node: ast.AST, helpers: frozenset[str]) -> ast.expr | None:
    """The expression whose value is the variable's name, where `node` reads one."""
    if isinstance(node, ast.Call) and node.args:
        function = node.func
        if isinstance(function, ast.Attribute):
            reads = function.attr in _READERS and (_is_environ(function.value) or function.attr == "getenv")
            return node.args[0] if reads or function.attr in helpers else None
        if isinstance(function, ast.Name) and (function.id == "getenv" or function.id in helpers):
            return node.args[0]
    if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load) and _is_environ(node.value):
        return node.slice
    if isinstance(node, ast.Compare) and any(_is_environ(other) for other in node.comparators):
        return node.left
    return None


def _is_environ(node: ast.expr) -> bool:
    return (isinstance(node, ast.Attribute) and node.attr == "environ") or (
        isinstance(node, ast.Name) and node.id == "environ"
    )


def _helpers(tree: ast.Module) -> frozenset[str]:
    """Functions that read the variable that their first parameter names."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.args.args:
            parameters = [argument.arg for argument in node.args.args if argument.arg not in ("self", "cls")]
            for inner in ast.walk(node):
                argument = _read_argument(inner, frozenset())
                if parameters and isinstance(argument, ast.Name) and argument.id == parameters[0]:
                    names.add(node.name)
    return frozenset(names)


def _name(argument: ast.expr) -> str | re.Pattern[str] | None:
    if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
        return argument.value
    if isinstance(argument, ast.JoinedStr):
        parts = [
            re.escape(str(part.value)) if isinstance(part, ast.Constant) else r"\w+"
            for part in argument.values
        ]
        # A name of nothing but a placeholder could be any.
        return re.compile("".join(parts)) if any(part != r"\w+" for part in parts) else None
    return None


def _env_source(path: Path) -> EngineSource:
    """Any folder or wheel: what is searched for reads need not be a package."""
    if path.is_dir():
        return EngineSource("", path)
    return open_source("aiter" if "aiter" in path.name else "flydsl", path)


def _env_sources_here() -> list[EngineSource]:
    """AITER's and FlyDSL's: those that variables name, else those that are installed."""
    sources = []
    for engine in ("aiter", "flydsl"):
        if named := os.environ.get(source_variable(engine)):
            sources.append(_env_source(Path(named)))
        elif installed := find_source(engine):
            # It lies beside all other packages: only its own folder is searched.
            sources.append(EngineSource(engine, installed.root / engine))
    if not sources:
        raise UserError(
            "neither AITER nor FlyDSL is installed here: give their source trees with --engine-source"
        )
    return sources
