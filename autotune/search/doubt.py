"""Tells failures of the environment from those of the candidates.

A compiler that lacks a module, a folder or space refuses everything. Stored as the candidates' own, that
would keep them from ever being tried again. So failures wait until something compiles, and a run that can
compile nothing stops.
"""

import re
from collections import defaultdict
from typing import Final

from autotune.errors import UserError
from autotune.problem.layer import Problem, Stage
from autotune.protocol.backend import remedy
from autotune.results import Failure, Status

ALIKE: Final = 8
"""So many failures for one reason, and no success, are the environment's."""
_MOST_LOST: Final = 3
_GENERAL: Final = {
    Status.COMPILE_ERROR: "see that the compiler and its memory are in order (autotune doctor)",
    Status.COMPILE_TIMEOUT: "raise --compile-timeout, or lower --workers",
    Status.RUNTIME_ERROR: "see that the GPU is free and its driver works (autotune doctor)",
    Status.TIMEOUT: "see that the GPU is free and its driver works (autotune doctor)",
}

Task = tuple[Problem, Stage]


class Doubt:
    """What has failed at each task since nothing or something succeeded there."""

    def __init__(self) -> None:
        self._reasons: defaultdict[tuple[Task, bool], list[str]] = defaultdict(list)
        self._sound: set[tuple[Task, bool]] = set()
        self._lost = 0

    def compiled(self, task: Task) -> None:
        """Something compiles there."""
        self._sound.add((task, True))
        self._lost = 0

    def ran(self, task: Task) -> None:
        """Something has a time there."""
        self._sound.add((task, False))

    def of(self, task: Task, failure: Failure, *, ships: bool) -> bool:
        """Whether a failure says nothing of its candidate so far.

        Args:
            ships: it is what the engine does without us.

        Raises:
            UserError: it is the environment's, as far as can be told: the run cannot go on.
        """
        compiling = failure.status in (Status.COMPILE_ERROR, Status.COMPILE_TIMEOUT)
        if failure.status not in _GENERAL:
            return False
        where = f"{task[0].shape} {task[1]}"
        mends = remedy(failure.reason) if failure.status is Status.COMPILE_ERROR else None
        key = task, compiling
        if mends is not None:
            self._lost += 1
            if key not in self._sound or self._lost >= _MOST_LOST:
                raise UserError(f"nothing can be compiled here ({where}: {failure.reason}): {mends}")
            return True
        mends = _GENERAL[failure.status]
        if ships and failure.status is Status.COMPILE_ERROR:
            raise UserError(f"the default does not compile at {where} ({failure.reason}): {mends}")
        if key in self._sound:
            return False
        reasons = self._reasons[key]
        reasons.append(re.sub(r"/\S+|\d+", "#", failure.reason))
        if len(reasons) < ALIKE:
            return compiling
        if len(set(reasons)) == 1:
            raise UserError(
                f"everything fails alike at {where}, {ALIKE} candidates so far ({failure.reason}): {mends}"
            )
        self._sound.add(key)
        return False
