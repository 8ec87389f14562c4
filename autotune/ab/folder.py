"""The repeats of an arm, from the files and folders that the benchmarks leave.

| written by | what |
|---|---|
| `bench_serving --output-file`, `vllm bench serve --append-result` | a file of objects, one a run |
| `vllm bench serve --save-result` | a file a run; beside it `*.pytorch.json`, the same in another form |
| `vllm bench sweep serve` | `run=N.json` a run, `summary.json` their list, `warmup.json`, `*failure.json` |
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from autotune.ab.results import Repeat, read_repeat
from autotune.errors import UserError
from autotune.quantities import unique_keys

_BLANK: Final = re.compile(r"\s*")


@dataclass(frozen=True)
class Arm:
    """One side of the comparison.

    Attributes:
        repeats: in order.
        notes: what of the files was left out.
    """

    repeats: tuple[Repeat, ...]
    notes: tuple[str, ...] = ()


def read_arm(paths: Iterable[Path]) -> Arm:
    """The repeats in files and folders.

    Raises:
        UserError: none is there, a file is no result, or requests failed in a run.
    """
    repeats: list[Repeat] = []
    notes: list[str] = []
    files: dict[str, Path] = {}
    for path in paths:
        for file in _files(path, notes) if path.is_dir() else [path]:
            for where, raw in _objects(file):
                first = files.setdefault(json.dumps(raw, sort_keys=True), file)
                if first == file:
                    repeats.append(read_repeat(raw, where))
                else:  # a copy is not a further measurement
                    notes.append(f"{where}: the same run as in {first}, counted once")
    return Arm(tuple(repeats), tuple(notes))


def _files(folder: Path, notes: list[str]) -> list[Path]:
    """The result files of a folder, or of those below it where it has none itself."""
    every = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix in (".json", ".jsonl")
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    own = [path for path in every if path.parent == folder]
    results = [file for file in own or every if _is_result(file, notes)]
    if not results:
        raise UserError(
            f"{folder} has no .json or .jsonl file of a run{f', but {every[0].name}' if every else ''}: give"
            " the benchmark's result files"
        )
    folders = sorted({file.parent for file in results})
    if len(folders) > 1 and any(file.name.startswith("run=") for file in results):
        raise UserError(
            f"{folder} holds {len(folders)} combinations of a sweep: give one's folder, e.g. {folders[0]}"
        )
    return results


def _is_result(file: Path, notes: list[str]) -> bool:
    """Whether a file is one run's, or several runs', and of no other form of them."""
    if file.name.endswith("failure.json"):
        notes.append(f"{file}: a failed run, skipped")
        return False
    if file.name == "warmup.json":
        notes.append(f"{file}: the warm-up, skipped")
        return False
    listed = file.name == "summary.json" and any(file.parent.glob("run=*.json"))
    return not listed and not file.name.endswith(".pytorch.json")


def _objects(file: Path) -> Iterator[tuple[str, Any]]:
    """The JSON objects of a file with where they stand: one, a list, or one after the other.

    Raises:
        UserError: the file cannot be read, or is none.
    """
    try:
        values = list(_values(file.read_bytes().decode("utf-8-sig")))
    except FileNotFoundError:
        raise UserError(f"there is no {file}: an arm is a result file, or a folder of them") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(
            f"{file} is not a result file ({reason}): give those of bench_serving or vllm bench serve"
        ) from error
    if not values:
        raise UserError(f"{file} is empty: give result files of bench_serving or vllm bench serve")
    for line, value in values:
        where = f"{file}:{line}" if len(values) > 1 else str(file)
        if isinstance(value, list) and not file.name.endswith(".pytorch.json"):
            yield from ((f"{where}[{number}]", item) for number, item in enumerate(value))
        else:
            yield where, value


def _end(text: str, at: int) -> int:
    """Where the blanks end that begin at a place."""
    blanks = _BLANK.match(text, at)
    return blanks.end() if blanks else at


def _values(text: str) -> Iterator[tuple[int, Any]]:
    """JSON values one after the other, each with the line on which it begins."""
    decoder = json.JSONDecoder(object_pairs_hook=unique_keys)
    at = _end(text, 0)
    while at < len(text):
        try:
            value, end = decoder.raw_decode(text, at)
        except RecursionError:
            raise ValueError("it is nested too deeply") from None
        yield text.count("\n", 0, at) + 1, value
        at = _end(text, end)
