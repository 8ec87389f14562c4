"""Shares a run's work with other drivers on the same database server.

A candidate, or a problem's final, is done by whoever claims it. Claims are renewed from a thread as long as
this process lives.
"""

import json
import logging
import threading
import time
from collections.abc import Collection, Iterable
from concurrent.futures import CancelledError
from types import TracebackType
from typing import Final, Self

from autotune.errors import UserError
from autotune.problem.layer import Problem, Stage
from autotune.processes import interrupt
from autotune.search.sharing import Piece
from autotune.space.config import Config
from autotune.store.claims import RENEW_S, claim_key
from autotune.store.records import RunRecord, StoredTrial, WinnerRecord
from autotune.tuning.context import Tuning

log = logging.getLogger(__name__)

_ASK_EVERY_S: Final = 1.0
_ASIDE: Final = ("workers", "devices", "ray", "problems")  # a machine's, or of other finals


class SharedWork:
    """The part of a run that it does itself; a context manager, which renews the claims meanwhile."""

    def __init__(self, current: Tuning, workload: str) -> None:
        self._current, self._workload = current, workload
        self._problems = list(dict.fromkeys(problem for problem, _ in current.searches))
        self._held: set[str] = set()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._renewing = threading.Thread(target=self._renew, name="claims", daemon=True)
        self._seen: set[int] = set()
        self._last = self._last_winner = 0
        self._asked_at = float("-inf")

    def __enter__(self) -> Self:
        self._last, self._last_winner = self._current.store.last_ids()
        self._renewing.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """What is under way is not done any more: it is given back, and need not run out first."""
        self._ended.set()
        self._renewing.join()
        with self._lock:
            held = sorted(self._held)
        if held and error is not None:
            self._current.store.return_claims(self._current.id, held)

    def claim(self, pieces: Collection[Piece]) -> Collection[Piece]:
        """See `autotune.search.sharing.Others`."""
        keys = {self._key(*piece): piece for piece in pieces}
        mine = self._take(keys)
        # Between its claim's end and now somebody may have finished it.
        done = {(t.problem, t.stage, t.config) for t in self._trials()} if mine else set()
        return [keys[key] for key in mine if keys[key] not in done]

    def news(self) -> Iterable[StoredTrial]:
        """See `autotune.search.sharing.Others`."""
        if time.monotonic() - self._asked_at < _ASK_EVERY_S:
            return []
        new = [trial for trial in self._trials() if trial.id not in self._seen]
        self._asked_at = time.monotonic()
        self._seen |= {trial.id for trial in new}
        self._last = max([self._last, *(trial.id for trial in new)])
        return new

    def finished(self, piece: Piece) -> None:
        """See `autotune.search.sharing.Others`."""
        with self._lock:
            self._held.discard(self._key(*piece))

    def take_final(self, problem: Problem) -> WinnerRecord | None:
        """Claims a problem's final, or waits for whoever has it; the winner of a final that others decided.

        None: this driver is to decide it, and says so by `final_ended`.
        """
        key = self._final(problem)
        while True:
            mine = key in self._take([key])
            winner = self._decided(problem)
            if mine and winner is not None:
                self.final_ended(problem)
            if mine or winner is not None:
                return winner
            interrupt.look()
            if self._ended.wait(_ASK_EVERY_S):
                raise CancelledError

    def final_ended(self, problem: Problem) -> None:
        """Its winner is stored, or it has none: a driver that starts now decides it anew, without waiting."""
        key = self._final(problem)
        with self._lock:
            self._held.discard(key)
        self._current.store.return_claims(self._current.id, [key])

    def _decided(self, problem: Problem) -> WinnerRecord | None:
        """What another run decided, since this one began, of what it would have decided itself."""
        current = self._current
        winners = current.store.winners_of_others(
            current.id,
            problem,
            backend=current.backend.name,
            environment_key=current.environment.key,
            after=self._last_winner,
        )
        ours = _asks(current.store.run(current.id))
        return next((each for each in winners if _asks(current.store.run(each.run)) == ours), None)

    def _final(self, problem: Problem) -> str:
        return self._name(problem.key, "final", _asks(self._current.store.run(self._current.id)))

    def _trials(self) -> list[StoredTrial]:
        current = self._current
        return current.store.trials_of_others(
            current.id,
            self._problems,
            backend=current.backend.name,
            environment_key=current.environment.key,
            workload=self._workload,
            after=self._last,
        )

    def _take(self, keys: Iterable[str]) -> set[str]:
        mine = self._current.store.claim(self._current.id, keys)
        with self._lock:
            self._held |= mine
        return mine

    def _key(self, problem: Problem, stage: Stage, config: Config) -> str:
        return self._name(problem.key, stage.value, config.key)

    def _name(self, problem: str, stage: str, config: str) -> str:
        current = self._current
        return claim_key(
            current.environment.key, current.backend.name, self._workload, problem, stage, config
        )

    def _renew(self) -> None:
        """A thread."""
        while not self._ended.wait(RENEW_S):
            with self._lock:
                held = sorted(self._held)
            try:
                self._current.store.renew_claims(self._current.id, held)
            except UserError as error:  # the run itself will meet it, or it passes
                log.warning("claims could not be renewed: %s", error)


def _asks(run: RunRecord) -> str:
    """What decides a final besides its problem and stack: effort, conditions, restrictions of the spaces.

    Runs that ask for unlike things share what they measure, and each has finals of its own.
    """
    asked = {name: value for name, value in run.spec.items() if name not in _ASIDE}
    return json.dumps(asked, sort_keys=True)
