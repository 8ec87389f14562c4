"""Why an engine does not select what was meant: name, folder, version, bucket, or the body of a file."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autotune.protocol.bundle import Bundle
from autotune.protocol.key_table import nearest
from autotune.protocol.lookup import same, short


@dataclass(frozen=True)
class Answer:
    """What the worker says.

    Attributes:
        selected: by tokens, then by stage: the entry that the engine takes.
        defaults: the same for the engine's rule without a file.
        error: what the engine raised.
        looked_for: `path` and `found`, in order.
        messages: what the engine logged.
    """

    selected: Mapping[str, Mapping[str, Any]]
    defaults: Mapping[str, Mapping[str, Any]]
    error: str | None = None
    looked_for: list[dict[str, Any]] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)


def diagnose(
    bundle: Bundle,
    engine: str,
    variable: str,
    stage_files: Sequence[str],
    intended: Mapping[str, Mapping[str, Any]],
    answer: Answer,
    *,
    hint: Callable[[str], str],
    other_stack: Callable[[Sequence[Path]], Iterator[str]],
) -> Iterator[str]:
    """The reasons, most fundamental first.

    Args:
        variable: names the folder with the configs.
        stage_files: what the engine's files are for: `up` and `down`, or `both` stages in one.
        hint: what to do about what the engine raised; "": nothing is known.
        other_stack: why the files that it used, which are the bundle's, are for another stack.
    """
    where = bundle.here(variable)
    if where is None:
        yield f"variable: autotune.env does not set {variable}, so {engine} looks in its own folder only"
    elif not Path(where).is_dir():
        yield f"folder: {variable}={bundle.variables[variable]} is not a folder of this bundle"
    if answer.error is not None:
        yield f"version: {engine} raises {answer.error}{hint(answer.error)}"
        return
    files = {path.name: path for path in bundle.folder.rglob("*.json") if path.name.startswith("E=")}
    used = [Path(entry["path"]) for entry in answer.looked_for if entry["found"]]
    ours = [path for path in used if path.resolve().is_relative_to(bundle.folder.resolve())]
    for path in used:
        if path not in ours:
            yield f"folder: {engine} reads {path}, which is not this bundle's"
    for stage_file in stage_files:
        yield from _missing(engine, stage_file, answer, files)
    yield from other_stack(ours)
    yield from _wrong_entries(intended, answer, ours)


def _missing(engine: str, which: str, answer: Answer, files: Mapping[str, Path]) -> Iterator[str]:
    """Why a stage's file was not found."""
    down = which == "down"
    wanted = [
        Path(entry["path"]) for entry in answer.looked_for if entry["path"].endswith("_down.json") == down
    ]
    if not wanted or any(
        entry["found"] for entry in answer.looked_for if entry["path"].endswith("_down.json") == down
    ):
        return
    name, first = wanted[0].name, wanted[0]
    effect = "stage 2 runs with stage 1's configs" if down else "it runs with its default"
    if name in files:
        yield f"folder: {engine} looks for {first}, but the file is {files[name]}: {effect}"
        return
    same_stage = [other for other in files if other.endswith("_down.json") == down]
    if not same_stage:
        yield f"name: {engine} looks for {name}, and the bundle has no such file: {effect}"
        return
    differing = min((_differences(name, other) for other in same_stage), key=len)
    yield f"name: {engine} looks for {name}; in the bundle {'; '.join(differing)}: {effect}"


def _differences(wanted: str, present: str) -> list[str]:
    """The parts of a file's name in which two differ."""
    mine, theirs = _parts(wanted), _parts(present)
    names = [*mine, *(name for name in theirs if name not in mine)]
    return [
        f"{name} is {theirs.get(name, 'missing')!r} instead of {mine.get(name, 'none')!r}"
        for name in names
        if mine.get(name) != theirs.get(name)
    ] or [f"the file is {present!r}"]


def _parts(name: str) -> dict[str, str]:
    stem = name.removesuffix(".json").removesuffix("_down")  # the stage's, not the last field's
    # Commas part the fields, but one stands inside of block_shape's brackets.
    fields = re.split(r",(?![^\[]*\])", stem)
    return {key: value for key, _, value in (part.partition("=") for part in fields)}


def _wrong_entries(
    intended: Mapping[str, Mapping[str, Any]], answer: Answer, ours: list[Path]
) -> Iterator[str]:
    """Entries that were found, but are not those meant."""
    for what, table in intended.items():
        keys = _keys(what, ours)
        for m, entry in table.items():
            selected = answer.selected.get(m, {}).get(what)
            if same(selected, entry) or not keys:
                continue
            key = nearest(keys, int(m))
            if keys[key] != selected:
                equal = [k for k in keys if keys[k] == selected and abs(k - int(m)) == abs(key - int(m))]
                key = equal[0] if equal else key
            lacking = sorted(entry.keys() - selected.keys()) if isinstance(selected, Mapping) else []
            if lacking and selected == {name: v for name, v in entry.items() if name not in lacking}:
                yield (
                    f"body: the entry at key {key} lacks {', '.join(lacking)}, without which the kernel is"
                    " launched otherwise, or not at all"
                )
            elif _out_of_order(keys):
                yield (
                    f"bucket: keys are not ascending, so M = {m} takes key {key}, the first of two as near"
                )
            else:
                yield f"bucket: M = {m} takes key {key} ({short(selected)}), meant was {short(entry)}"
            break


def _keys(what: str, ours: list[Path]) -> dict[int, Any]:
    """A stage's file in the order of its keys."""
    down = [path for path in ours if path.name.endswith("_down.json")]
    up = [path for path in ours if path not in down]
    chosen = (down or up) if what == "stage2" else up
    if not chosen:
        return {}
    body = json.loads(chosen[0].read_text())
    return {int(key): value for key, value in body.items() if key.isdecimal()}


def _out_of_order(keys: Mapping[int, Any]) -> bool:
    return list(keys) != sorted(keys)
