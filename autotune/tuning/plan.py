"""Reads a plan of many problems: what to tune, with which effort, and how much traffic each serves."""

import shlex
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from autotune.errors import UserError
from autotune.machine.fingerprint import Fingerprint
from autotune.problem.layer import parse_concurrency, parse_shapes
from autotune.problem.models import preset
from autotune.protocol.registry import load_backend
from autotune.store.records import RunRecord, RunState

_TEXT: Final = ("model", "model_config", "backend", "shape", "concurrency", "routing")
_NUMBER: Final = ("weight", "timeout")
_WHOLE: Final = ("tp", "trials", "seed")
_MARK: Final = "--json"
"""Ends the part of an entry's command that says what is tuned; what follows says where."""


@dataclass(frozen=True)
class Entry:
    """One line of work: shapes of one layer for one backend.

    Attributes:
        name: for people: its place in the file and what it is.
        options: of `autotune run`, by name.
        weight: its share of the traffic, in any unit.
        problems: how many problems it has.
    """

    name: str
    options: Mapping[str, Any]
    weight: float
    problems: int

    @property
    def backend(self) -> str:
        return str(self.options.get("backend", "triton"))

    @property
    def layer(self) -> list[str]:
        """The options that name the layer, as `autotune export` takes them too."""
        return _arguments(self.options, ("model", "model_config", "tp"))

    @property
    def arguments(self) -> list[str]:
        """Arguments of `autotune`, up to where it runs."""
        return ["run", *_arguments(self.options, sorted(self.options)), _MARK]

    def was_done(self, runs: Sequence[RunRecord], today: Mapping[str, Any]) -> bool:
        """Whether a run of it has finished on today's stack.

        Args:
            today: fields of the stack, as far as they are known.
        """
        command = shlex.join(["autotune", *self.arguments])
        return any(
            run.state is RunState.FINISHED
            and (run.command == command or run.command.startswith(command + " "))
            and run.environment is not None
            and not run.environment.differences(today)
            for run in runs
        )


def read_plan(path: Path) -> list[Entry]:
    """The entries of a plan, the most valuable first.

    Raises:
        UserError: it cannot be read, or an entry is none.
    """
    try:
        plan = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read the plan {path} ({error.strerror}): give a file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not TOML ({error}): correct it there") from error
    entries = plan.get("problems")
    if plan.keys() != {"problems"} or not isinstance(entries, list) or not entries:
        raise UserError(f"{path} is no plan: give [[problems]] tables and nothing else, see docs/fleet.md")
    read = [_entry(raw, number, path) for number, raw in enumerate(entries, 1)]
    twice = [entry for index, entry in enumerate(read) if entry.options in [e.options for e in read[:index]]]
    if twice:
        raise UserError(f"{path}: {twice[0].name} stands there twice: give each problem once")
    return sorted(read, key=lambda entry: -entry.weight)


def _entry(raw: Any, number: int, path: Path) -> Entry:
    where = f"{path}, entry {number}"
    if not isinstance(raw, dict):
        raise UserError(f"{where} is no table: write [[problems]]")
    known: dict[str, Collection[type]] = {
        **dict.fromkeys(_TEXT, (str,)),
        **dict.fromkeys(_WHOLE, (int,)),
        **dict.fromkeys(_NUMBER, (int, float)),
    }
    for name, value in raw.items():
        if name not in known:
            raise UserError(f"{where}: unknown key {name!r}: use some of {', '.join(known)}")
        if type(value) not in known[name]:
            raise UserError(f"{where}: {name} = {value!r} is of the wrong type: see docs/fleet.md")
        if type(value) in (int, float) and not (value >= 0 if name == "seed" else 0 < value < float("inf")):
            raise UserError(f"{where}: {name} = {value!r} is out of range: give a number above 0")
    options = {name: value for name, value in raw.items() if name != "weight"}
    load_backend(options.get("backend", "triton"))
    if "model" in options:
        preset(options["model"])
    shapes = parse_shapes(options.get("shape", "m4"))
    concurrency = parse_concurrency(options.get("concurrency", "1"))
    said = " ".join(str(value) for value in options.values()) or "defaults"
    return Entry(f"{number} ({said})", options, float(raw.get("weight", 1.0)), len(shapes) * len(concurrency))


def _arguments(options: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    return [
        part
        for name in names
        if name in options
        for part in (f"--{name.replace('_', '-')}", str(options[name]))
    ]


def expected_seconds(entry: Entry, runs: Sequence[RunRecord]) -> float | None:
    """How long an entry may take by what earlier runs of its backend took a problem; None: there is none.

    Only runs with as many trials a problem count.
    """
    took = [
        (run.ended_at - run.started_at).total_seconds() / len(run.spec["problems"])
        for run in runs
        if run.state is RunState.FINISHED
        and run.ended_at is not None
        and run.environment is not None
        and run.environment.backend == entry.backend
        and run.spec.get("problems")
        and run.spec.get("trials") == entry.options.get("trials", run.spec.get("trials"))
    ]
    return sum(took) / len(took) * entry.problems if took else None


def stack_of_today(told: Mapping[str, Any]) -> dict[str, Any]:
    """A stack without what differs between backends or tells nothing."""
    left = ("backend", "kernel_source", "tool_version")
    fields = Fingerprint.__dataclass_fields__
    return {name: value for name, value in told.items() if name in fields and name not in left}
