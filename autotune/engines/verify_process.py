"""A lookup in a process of its own, with the environment that the server would have."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import autotune
from autotune.errors import UserError

_TIME_LIMIT_S = 120


def run_worker(
    request: Mapping[str, Any], environment: Mapping[str, str], *, without: Iterable[str] = ()
) -> dict[str, Any]:
    """The answer of `autotune.engines.verify_worker`.

    Args:
        environment: variables to set.
        without: variables to take out first.

    Raises:
        UserError: the engine's file cannot be run at all.
    """
    package = str(Path(autotune.__file__).resolve().parent.parent)
    inherited = {name: value for name, value in os.environ.items() if name not in set(without)}
    path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, "-m", "autotune.engines.verify_worker"],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        env={**inherited, "PYTHONPATH": path, **environment},
        timeout=_TIME_LIMIT_S,
        check=False,
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(
            f"{request['engine']}'s lookup in {request['root']} cannot be run ({last}): give another version"
            " with --engine-source"
        )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
