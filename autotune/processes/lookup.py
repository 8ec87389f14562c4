"""Runs an engine's own lookup in a process of its own, with the environment that the server would have.

The process is `python -m autotune.processes.lookup < request`. Request and answer are JSON. What the lookup
opens or looks for is noted, and what it logs. Nothing of the engine needs to be installed, and no GPU.
"""

import builtins
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import autotune
from autotune.errors import UserError

_TIME_LIMIT_S = 120

Select = Callable[[int], dict[str, Any]]
"""Selects by tokens."""
Lookup = Callable[[dict[str, Any], list[str]], tuple[Select, Select]]
"""(the request, the messages that the engine logs) -> (what it selects, what it would without a file)."""


def run_lookup(
    request: Mapping[str, Any], environment: Mapping[str, str], *, without: Iterable[str] = ()
) -> dict[str, Any]:
    """What an engine selects.

    Args:
        request: `engine`, its name for people; `lookup`, the `module:function` of a `Lookup`; `root`, the
            folder with the engine's package; `tokens` to look up; and what else the lookup asks by.
        environment: variables to set.
        without: variables to take out first.

    Returns:
        `selected` and `defaults` by tokens; `error`, what the engine raised, or None; `looked_for`, JSON and
        CSV files with `path` and `found`, in order; `messages`, what it logged.

    Raises:
        UserError: the engine's file cannot be run at all, or does not end.
    """
    package = str(Path(autotune.__file__).resolve().parent.parent)
    inherited = {name: value for name, value in os.environ.items() if name not in set(without)}
    path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
    try:
        done = subprocess.run(
            [sys.executable, "-m", "autotune.processes.lookup"],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            env={**inherited, "PYTHONPATH": path, **environment},
            timeout=_TIME_LIMIT_S,
            check=False,
        )
        last = (done.stderr.strip().splitlines() or ["no message"])[-1] if done.returncode else ""
    except subprocess.TimeoutExpired:
        last = f"not done after {_TIME_LIMIT_S} s"
    if last:
        raise UserError(
            f"{request['engine']}'s lookup in {request['root']} cannot be run ({last}): give another version"
            " with --engine-source"
        )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def main() -> None:
    """Answers the request on standard input."""
    request = json.load(sys.stdin)
    noted = _note_paths()
    messages = _note_messages()
    answer: dict[str, Any] = {"selected": {}, "defaults": {}, "error": None}
    try:
        module, _, function = request["lookup"].partition(":")
        lookup: Lookup = getattr(import_module(module), function)
        select, default = lookup(request, messages)
        for tokens in request["tokens"]:
            answer["selected"][str(tokens)] = select(tokens)
            answer["defaults"][str(tokens)] = default(tokens)
    except Exception as error:
        # Whatever the engine raises is the finding.
        logging.getLogger(__name__).debug("the lookup raised", exc_info=True)
        answer["error"] = f"{type(error).__name__}: {error}"
    answer["looked_for"] = noted
    answer["messages"] = messages
    json.dump(answer, sys.stdout)


def _note_paths() -> list[dict[str, Any]]:
    """Notes every JSON or CSV file that is looked for or opened, in order."""
    noted: list[dict[str, Any]] = []
    exists, opened = os.path.exists, builtins.open

    def note(path: Any, there: bool) -> None:
        if isinstance(path, str) and path.endswith((".json", ".csv")):
            entry = {"path": path, "found": there}
            if entry not in noted:
                noted.append(entry)

    def noting_exists(path: Any) -> bool:
        there = exists(path)
        note(path, there)
        return there

    def noting_open(file: Any, *args: Any, **kwargs: Any) -> Any:
        handle = opened(file, *args, **kwargs)
        note(file, True)
        return handle

    os.path.exists = noting_exists
    builtins.open = noting_open
    return noted


def _note_messages() -> list[str]:
    """Notes what the engine logs. SGLang and vLLM add `_once` methods to the standard logger."""
    messages: list[str] = []

    class Noting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    logging.getLogger().addHandler(Noting())
    logging.getLogger().setLevel(logging.INFO)
    for level in ("info", "warning", "debug"):

        def once(self: logging.Logger, text: str, *args: Any, **_: Any) -> None:
            message = text % args
            if message not in messages:
                messages.append(message)

        setattr(logging.Logger, f"{level}_once", once)
    return messages


if __name__ == "__main__":
    main()
