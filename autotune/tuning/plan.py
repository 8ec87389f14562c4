"""Reads a plan of many problems: what to tune, with which effort, and how much traffic each serves."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any, Final

from autotune.errors import UserError
from autotune.problem.layer import Problem
from autotune.quantities import LARGEST, MAX_SEED, SMALLEST, YEAR_S, load_toml
from autotune.store.records import RunRecord, RunState


@dataclass(frozen=True)
class _Key:
    """A key of an entry.

    Attributes:
        example: a value as it is written.
        least, most: of a number.
    """

    types: tuple[type, ...]
    example: str
    least: float = -inf
    most: float = inf


_TEXT, _WHOLE, _NUMBER, _YES = (str,), (int,), (int, float), (bool,)
_KEYS: Final = {
    "model": _Key(_TEXT, '"qwen3-235b-a22b"'),
    "model_config": _Key(_TEXT, '"config.json"'),
    "tp": _Key(_WHOLE, "8"),
    "ep": _Key(_WHOLE, "1"),
    "fused_shared_experts": _Key(_YES, "true"),
    "requantised": _Key(_YES, "true"),
    "backend": _Key(_TEXT, '"triton"'),
    "shape": _Key(_TEXT, '"m1,m4"'),
    "concurrency": _Key(_TEXT, '"1,40"'),
    "routing": _Key(_TEXT, '"uniform"'),
    "trials": _Key(_WHOLE, "400", 1, 1e9),
    "timeout": _Key(_NUMBER, "600", 0.1, YEAR_S),
    "seed": _Key(_WHOLE, "0", 0, MAX_SEED),
    "weight": _Key(_NUMBER, "2.5", SMALLEST, LARGEST),
}
LAYER_KEYS: Final = ("model", "model_config", "tp", "ep", "fused_shared_experts", "requantised")
"""Those that say which layer is meant, as `autotune export` takes them too."""
_MARK: Final = "--json"
"""Ends the part of an entry's command that says what is tuned; what follows says where."""


@dataclass(frozen=True)
class Entry:
    """A part of the work: shapes of one layer for one backend.

    Attributes:
        name: for people: its place in the file and what it is.
        options: of `autotune run`, by name.
        weight: its share of the traffic, in any unit.
        backend: the one that is tuned, which the options may leave to the checkpoint's numbers.
    """

    name: str
    options: Mapping[str, Any]
    weight: float
    backend: str
    problems: Sequence[Problem]

    @property
    def layer(self) -> list[str]:
        """The options that name the layer, as `autotune export` takes them too."""
        return _arguments(self.options, LAYER_KEYS)

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
            # A file that it names may have changed.
            and run.spec.get("problems") == [problem.key for problem in self.problems]
            and run.environment is not None
            and run.environment.backend == self.backend
            and not run.environment.differences(today)
            for run in runs
        )


Describe = Callable[[Mapping[str, Any]], tuple[str, Sequence[Problem]]]
"""The backend and the problems of an entry's options, as `autotune run` has them; `UserError`: none."""


def read_plan(path: Path, describe: Describe, target: str | None = None) -> list[Entry]:
    """The entries of a plan, the most valuable first.

    Args:
        target: what all are tuned for; None: the GPU that is here, or what is prepared without one.

    Raises:
        UserError: it cannot be read, an entry is none, or two entries have a problem in common.
    """
    try:
        plan = load_toml(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"cannot read the plan {path} ({error.strerror}): give a file") from error
    except ValueError as error:
        raise UserError(f"{path} is not TOML ({error}): correct it there") from error
    tables = plan.get("problems")
    if plan.keys() != {"problems"} or not isinstance(tables, list) or not tables:
        raise UserError(f"{path} is no plan: give [[problems]] tables and nothing else, see docs/fleet.md")
    entries = []
    taken: dict[tuple[str, str], Entry] = {}
    for number, raw in enumerate(tables, 1):
        where = f"{path}, entry {number}"
        if not isinstance(raw, dict):
            raise UserError(f"{where} is no table: write [[problems]]")
        try:
            entry = _entry(raw, number, describe, target)
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
        for problem in entry.problems:
            other = taken.setdefault((entry.backend, problem.key), entry)
            if other is not entry:
                raise UserError(
                    f"{where}: {problem.shape} of {problem.layer.title} with backend {entry.backend} is in"
                    f" entry {other.name} too: give each problem once"
                )
        entries.append(entry)
    return sorted(entries, key=lambda entry: -entry.weight)


def _entry(raw: Mapping[str, Any], number: int, describe: Describe, target: str | None) -> Entry:
    for name, value in raw.items():
        if name not in _KEYS:
            raise UserError(f"unknown key {name!r}: use some of {', '.join(_KEYS)}")
        key = _KEYS[name]
        if type(value) not in key.types:
            raise UserError(f"{name} = {value!r} is of the wrong type: write it like {name} = {key.example}")
        if isinstance(value, int | float) and not key.least <= value <= key.most:
            raise UserError(f"{name} = {value!r} is out of range: give {key.least:g} to {key.most:.10g}")
    options = {name: value for name, value in raw.items() if name != "weight"}
    said = " ".join(f"{name}={value}" for name, value in options.items()) or "defaults"
    if target is not None:
        options["target"] = target
    return Entry(f"{number} ({said})", options, float(raw.get("weight", 1.0)), *describe(options))


def _arguments(options: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    arguments = []
    for name in names:
        option, value = f"--{name.replace('_', '-')}", options.get(name)
        if value is True:
            arguments.append(option)
        elif value is False and name == "fused_shared_experts":
            arguments.append(f"--no-{option.removeprefix('--')}")
        elif value is not None and value is not False:
            arguments += [option, str(value)]
    return arguments


def expected_seconds(entry: Entry, target: str, runs: Sequence[RunRecord]) -> float | None:
    """How long an entry may take by what earlier runs of its backend took a problem; None: there is none.

    Only runs for the same target with as many trials a problem count.
    """
    took = [
        (run.ended_at - run.started_at).total_seconds() / len(run.spec["problems"])
        for run in runs
        if run.state is RunState.FINISHED
        and run.ended_at is not None
        and run.environment is not None
        and run.environment.backend == entry.backend
        and run.spec.get("problems")
        and run.spec.get("target") == target
        and run.spec.get("trials") == entry.options.get("trials", run.spec.get("trials"))
    ]
    return sum(took) / len(took) * len(entry.problems) if took else None
