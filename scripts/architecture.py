#!/usr/bin/env python
"""Draws docs/architecture.svg: the packages in their layers, and which imports which.

    python scripts/architecture.py > docs/architecture.svg
    python scripts/architecture.py --counts

The layers are those of the import-linter contract in pyproject.toml, the imports are read from the code. What
is imported for annotations alone (`if TYPE_CHECKING:`) counts as types; what is loaded by a name in a string,
as backends are, does not count. `--counts` prints lines and imports per package instead; `--root` looks at
another checkout, which may have no layers.
"""

import argparse
import ast
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "autotune"

_CELL, _LEFT, _TOP, _KEY = 22, 190, 110, 56
_STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#1f2328}.small{font-size:12px;fill:#59636e}"
    ".band{fill:#f6f8fa}.may{fill:#e7edf3}.self{fill:#afb8c1}.code{fill:#0969da}"
    ".types{fill:none;stroke:#0969da;stroke-width:1.5}.not{fill:#cf222e}"
)


@dataclass(frozen=True)
class Imports:
    """What the packages import of each other.

    Attributes:
        code: for each package or module below `autotune`, what it imports when it runs.
        types: what it imports for annotations alone.
        lines: of its files.
    """

    code: Mapping[str, frozenset[str]]
    types: Mapping[str, frozenset[str]]
    lines: Mapping[str, int]


def read_imports(root: Path) -> Imports:
    """Reads every module of a checkout; the package's own `__init__.py` is left out."""
    package = root / PACKAGE
    files: dict[str, list[Path]] = {}
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package).parts[0].removesuffix(".py")
        if name != "__init__":
            files.setdefault(name, []).append(path)
    code: dict[str, set[str]] = {name: set() for name in files}
    types: dict[str, set[str]] = {name: set() for name in files}
    for name, paths in files.items():
        for path in paths:
            for imported, for_types in _imported(ast.parse(path.read_text(encoding="utf-8"))):
                if imported in files and imported != name:
                    (types if for_types else code)[name].add(imported)
    return Imports(
        {name: frozenset(imported) for name, imported in code.items()},
        {name: frozenset(imported - code[name]) for name, imported in types.items()},
        {name: sum(len(path.read_bytes().splitlines()) for path in paths) for name, paths in files.items()},
    )


def _imported(node: ast.AST, for_types: bool = False) -> Iterator[tuple[str, bool]]:
    """What stands behind `autotune.` in each import below a node, and whether it is for types alone."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            for statement in child.body:
                yield from _imported(ast.Module([statement], []), for_types=True)
            for statement in child.orelse:
                yield from _imported(ast.Module([statement], []), for_types)
            continue
        names: list[str] = []
        if isinstance(child, ast.Import):
            names = [alias.name for alias in child.names]
        elif isinstance(child, ast.ImportFrom) and not child.level:
            names = [f"{child.module}.{alias.name}" for alias in child.names]
        for parts in (name.split(".") for name in names):
            if parts[0] == PACKAGE and len(parts) > 1:
                yield parts[1], for_types
        yield from _imported(child, for_types)


@dataclass(frozen=True)
class Rules:
    """The contracts in pyproject.toml.

    Attributes:
        layers: from the highest to the lowest, the packages that stand beside each other in each.
        allowed: pairs of a package and one that it may import.
    """

    layers: Sequence[Sequence[str]]
    allowed: frozenset[tuple[str, str]]


def read_rules(root: Path) -> Rules:
    """Reads a checkout's import-linter contracts; where it has none, nothing is in a layer."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = project.get("tool", {}).get("importlinter", {}).get("contracts", [])
    texts: list[str] = max(
        (contract["layers"] for contract in contracts if contract["type"] == "layers"), key=len, default=[]
    )
    layers = [[_name(name) for name in text.replace("|", ":").split(":")] for text in texts]
    allowed: set[tuple[str, str]] = set()
    for number, layer in enumerate(layers):
        below = [name for lower in layers[number + 1 :] for name in lower]
        # What is set apart by colons may import each other, what is set apart by bars may not.
        beside = [] if "|" in texts[number] else layer
        allowed |= {(name, other) for name in layer for other in (*below, *beside) if other != name}
    for contract in contracts:
        if contract["type"] == "forbidden":
            allowed -= {
                (_name(source), _name(target))
                for source in contract["source_modules"]
                for target in contract["forbidden_modules"]
            }
    return Rules(layers, frozenset(allowed))


def _name(module: str) -> str:
    return module.strip(" ()").removeprefix(f"{PACKAGE}.")


def picture(rules: Rules, imports: Imports) -> str:
    """The SVG: a row per package, and a mark in the column of each package that it imports."""
    layers, names = rules.layers, [name for layer in rules.layers for name in layer]
    size = _CELL * len(names)
    width, height = _LEFT + size + 60, _TOP + size + _KEY
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
        f' viewBox="0 0 {width} {height}" role="img" aria-label="Which package imports which">',
        f"<style>{_STYLE}</style>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    row = 0
    for number, layer in enumerate(layers):
        if number % 2 == 0:
            top = _TOP + row * _CELL
            parts.append(
                f'<rect class="band" x="0" y="{top}" width="{width}" height="{len(layer) * _CELL}"/>'
            )
        row += len(layer)
    for row, name in enumerate(names):
        y = _TOP + row * _CELL
        parts.append(f'<text x="{_LEFT - 10}" y="{y + 15}" text-anchor="end">{escape(name)}</text>')
        x = _LEFT + row * _CELL + _CELL // 2
        turned = f'transform="translate({x + 4},{_TOP - 8}) rotate(-60)"'
        parts.append(f"<text {turned}>{escape(name)}</text>")
        parts += [_cell(column, row, other, name, rules, imports) for column, other in enumerate(names)]
    parts += [*_key(_TOP + size + 24), "</svg>"]
    return "\n".join(part for part in parts if part) + "\n"


def _cell(column: int, row: int, other: str, name: str, rules: Rules, imports: Imports) -> str:
    x, y = _LEFT + column * _CELL, _TOP + row * _CELL
    box = f'x="{x + 1}" y="{y + 1}" width="{_CELL - 2}" height="{_CELL - 2}"'
    if other == name:
        return f'<rect class="self" {box}/>'
    allowed = (name, other) in rules.allowed
    cell = f'<rect class="may" {box}/>' if allowed else ""
    told = f"<title>{escape(name)} imports {escape(other)}"
    if other in imports.code[name]:
        return f"{cell}{_dot(x, y, 'code' if allowed else 'not')}{told}</title></circle>"
    if other in imports.types[name]:
        return f"{cell}{_dot(x, y, 'types')}{told} for types</title></circle>"
    return cell


def _dot(x: int, y: int, kind: str) -> str:
    return f'<circle class="{kind}" cx="{x + _CELL // 2}" cy="{y + _CELL // 2}" r="6">'


def _key(y: int) -> list[str]:
    told = (("code", "imports"), ("types", "imports for types alone"), ("not", "imports what it must not"))
    parts, x = [], _LEFT - 120
    for kind, words in told:
        parts.append(f'<circle class="{kind}" cx="{x}" cy="{y}" r="6"/>')
        parts.append(f'<text class="small" x="{x + 12}" y="{y + 4}">{words}</text>')
        x += 30 + 7 * len(words)
    parts.append(
        f'<text class="small" x="{_LEFT - 126}" y="{y + 24}">A row imports what has a mark in its columns.'
        " Shaded cells are those that the rules allow.</text>"
    )
    return parts


def counts(rules: Rules, imports: Imports) -> str:
    """A table in Markdown: each package with its lines, what it imports and what imports it."""
    order = [name for layer in rules.layers for name in layer]
    everything = [*(name for name in order if name in imports.code), *sorted(imports.code.keys() - {*order})]
    upward = [
        f"{name} -> {other}"
        for name in everything
        for other in sorted(imports.code[name])
        if (name, other) not in rules.allowed
    ]
    rows = [
        f"| {name} | {imports.lines[name]:,} | {len(imports.code[name])}"
        f" | {sum(name in others for others in imports.code.values())} |"
        for name in everything
    ]
    return "\n".join(
        [
            "| package | lines | imports | imported by |",
            "|---|---|---|---|",
            *rows,
            "",
            f"{len(rows)} packages and modules, {sum(imports.lines.values()):,} lines,"
            f" {sum(map(len, imports.code.values()))} imports between them,"
            f" {sum(map(len, imports.types.values()))} for types alone,"
            f" upward: {(', '.join(upward) or 'none') if order else 'there are no layers'}",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--counts", action="store_true", help="print lines and imports per package")
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout to look at")
    options = parser.parse_args()
    imports = read_imports(options.root)
    rules = read_rules(options.root)
    if options.counts:
        print(counts(rules, imports))
        return
    unplaced = imports.code.keys() ^ {name for layer in rules.layers for name in layer}
    if unplaced:
        raise SystemExit(f"the layers in pyproject.toml and the code differ in {', '.join(sorted(unplaced))}")
    print(picture(rules, imports), end="")


if __name__ == "__main__":
    main()
