"""Digests by which stored results are known: of what sources and rules mean, not of how they are written.

A comment, a docstring, a blank, a file's folder and the path of an import of ours change no kernel and no
rule, so they change no digest. A renamed variable does: that two sources mean the same is not computed but
said, by a line in `db/identity.json`.
"""

import ast
import hashlib
import json
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from autotune.resources import data_dir

_OURS: Final = "autotune"


def source_digest(files: Iterable[Path]) -> str:
    """SHA-256, hex, of the programs in Python files, each by its name without folder; in any order."""
    return digest_of(sorted([path.stem, _program(path.read_text(encoding="utf-8"))] for path in files))


def stored_name(digest: str) -> str:
    """What results are stored under: the older name that `db/identity.json` has for a digest, or itself."""
    return _names().get(digest, digest)


@cache
def _names() -> dict[str, str]:
    table = json.loads((data_dir("db") / "identity.json").read_text(encoding="utf-8"))
    return {entry["digest"]: entry["stored_as"] for entry in table["names"]}


def digest_of(canonical: Any) -> str:
    """SHA-256, hex, of JSON values."""
    return hashlib.sha256(json.dumps(canonical).encode()).hexdigest()


def expression(text: str) -> str:
    """What a rule's expression means, as text."""
    return json.dumps(_plain(ast.parse(text, mode="eval").body))


def _program(source: str) -> str:
    """A module without what has no meaning; what it takes from modules of ours, without their places."""
    tree = ast.parse(source)
    ours = sorted(
        (alias.name.rpartition(".")[2], alias.asname or "")
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom) and _is_ours(node)
        for alias in node.names
    )
    return json.dumps([ours, _plain(tree)])


def _is_ours(node: Any) -> bool:
    """Whether it imports from this package."""
    if isinstance(node, ast.Import):
        return all(alias.name.partition(".")[0] == _OURS for alias in node.names)
    return isinstance(node, ast.ImportFrom) and (
        node.level > 0 or (node.module or "").partition(".")[0] == _OURS
    )


def _is_remark(node: Any) -> bool:
    """A docstring, or any other constant that stands alone."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _plain(node: Any) -> Any:
    """A syntax tree as lists and texts, the same in every Python version.

    Neither `ast.dump` nor `ast.unparse` is: 3.12 added fields (`type_params`) and chose other quotes within
    f-strings, 3.13 leaves out empty fields. Here every empty field is left out, those to come included, and
    the texts between an f-string's values are joined: 3.12 cuts them otherwise, some of them empty.
    """
    if isinstance(node, ast.JoinedStr):
        return ["JoinedStr", *_pieces(node)]
    if isinstance(node, ast.Constant):  # its value may be None or empty itself
        return ["Constant", type(node.value).__name__, repr(node.value)]
    if isinstance(node, ast.AST):
        return [type(node).__name__, *_fields(node)]
    if isinstance(node, list):
        return [_plain(item) for item in node if not _is_ours(item) and not _is_remark(item)]
    return repr(node)


def _fields(node: ast.AST) -> Iterator[Any]:
    for name, value in ast.iter_fields(node):
        if value is not None and value != [] and name != "ctx":
            yield [name, _plain(value)]


def _pieces(node: ast.JoinedStr) -> Iterator[Any]:
    for is_text, values in groupby(node.values, lambda value: isinstance(value, ast.Constant)):
        if not is_text:
            yield from map(_plain, values)
        elif text := "".join(str(ast.literal_eval(value)) for value in values):
            yield text
