"""A comparison's runs on disk, so that hours of searching can be done in parts and a killed one goes on.

A file of JSON lines, one a run. A run is of one table's content, one searcher, one seed and one limit; what
was made under another limit, on a table that has since changed or by our searcher before it changed is not
taken for it.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune.errors import UserError


@dataclass(frozen=True)
class Key:
    """One run.

    Attributes:
        problem: `kimi/stage1/m4`; of a joint run the table's label and the problems.
        limit: evaluations, or a joint run's candidates a stage, after which it gave up.
    """

    problem: str
    searcher: str
    seed: int
    limit: int


class KeptRuns:
    """What was run already, by key; what is added is on disk at once.

    Args:
        paths: files to read; the last one takes what is added. None at all: nothing is kept.
        made_from: digest of what a run comes of: its table's content, and our searcher's source.

    Raises:
        UserError: a file is no such file.
    """

    def __init__(self, paths: Sequence[Path], made_from: Callable[[Key], str]) -> None:
        self._made_from = made_from
        self._into = paths[-1] if paths else None
        self._rows: dict[Key, list[Any]] = {}
        for path in paths:
            if path.exists():
                self._rows |= dict(self._read(path))

    def __contains__(self, key: Key) -> bool:
        return key in self._rows

    def __iter__(self) -> Iterator[tuple[Key, list[Any]]]:
        return iter(self._rows.items())

    def add(self, key: Key, rows: Sequence[Any]) -> None:
        """A finished run: row numbers of its table, or a joint run's pairs of problem and row."""
        if key in self._rows:
            return
        self._rows[key] = list(rows)
        if self._into is not None:
            line = {**vars(key), "made_from": self._made_from(key), "rows": self._rows[key]}
            with self._into.open("a") as file:
                file.write(json.dumps(line, separators=(",", ":")) + "\n")

    def _read(self, path: Path) -> Iterator[tuple[Key, list[Any]]]:
        for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            try:
                line = json.loads(text)
                key = Key(line["problem"], line["searcher"], line["seed"], line["limit"])
                digest, rows = line["made_from"], line["rows"]
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(
                    f"{path}, line {number}, is not a kept run: delete the line or the file"
                ) from error
            if digest == self._made_from(key):
                yield key, rows
