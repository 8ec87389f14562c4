"""Records a table: compiles and sweeps at the same time, then settles the order of the best."""

import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autotune.compile.isa import refusal
from autotune.compile.pool import CompilePool
from autotune.compile.workers import Workers
from autotune.errors import UserError
from autotune.machine.devices import Device
from autotune.machine.fingerprint import Fingerprint
from autotune.measure import lock
from autotune.measure.quiet import not_alone
from autotune.measure.requests import Look
from autotune.problem.layer import Problem, Stage
from autotune.protocol.backend import Backend, default_of
from autotune.replay.table import StageTable, Table
from autotune.resources import data_dir
from autotune.results import Compiled, Failure, LayerConfig, LayerMeasurement, Measurement, Status
from autotune.space.config import Config
from bench import sweep as sweeping
from bench.journal import Journal, Key
from bench.subspace import leading
from bench.sweep import FAULT_EXIT, SweepSettings

SWEEP_TIMEOUT_S = 120.0  # includes the start of the process: torch, weights
SETTLE_TIMEOUT_S = 180.0
_AGAIN_S = 0.5
PAIRS = 16  # layers at every token count that are asked for at once
AHEAD = 4  # sweeps waiting for the GPU: enough that it never waits for the driver


@dataclass(frozen=True)
class Recording:
    """What to record.

    Attributes:
        problems: of one layer, at concurrency 1, by tokens.
        configs: by stage, the default first.
        workers: compile processes.
        command: how it was asked for.
        environment: process environment that the kernels need.
    """

    backend: Backend
    device: Device
    problems: Sequence[Problem]
    configs: Mapping[Stage, Sequence[Config]]
    settings: SweepSettings
    workers: int
    command: str
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Canonical text: a journal of another recording is not continued."""
        counts = ",".join(f"{stage}:{len(configs)}" for stage, configs in self.configs.items())
        tokens = ",".join(str(problem.tokens) for problem in self.problems)
        source = self.backend.source_digest()[:12]
        return f"{self.problems[0].layer.key} m{tokens} {counts} {self.settings.measure.key} {source}"


class Recorder:
    """Runs a recording until it is whole or time is up; use it as a context manager."""

    def __init__(self, recording: Recording, journal: Path, say: Callable[[str], None]) -> None:
        self._recording = recording
        self._journal = Journal(journal, recording.key)
        self._say = say
        self._worker = Workers(1, memory_limit_bytes=None)
        self._fingerprint: Fingerprint | None = None
        self._gpu: str | None = None
        self._disturbed_since: float | None = None

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *_: object) -> None:
        self._worker.close()
        if self._gpu is not None:
            lock.release(self._gpu)
            self._gpu = None

    def run(self, limit_s: float | None = None) -> Table | None:
        """The table; None: time was up first, and the same recording goes on later.

        Raises:
            UserError: what the backend needs is missing.
        """
        deadline = time.monotonic() + (limit_s or 1e9)
        self._fingerprint, look = _needed(self._ask(sweeping.prepare).result())
        self._enter(look)
        for stage in self._recording.configs:
            if not self._sweep(stage, deadline):
                return None
            for problem in self._recording.problems:
                if time.monotonic() > deadline:
                    return None
                self._settle(stage, problem)
        self._layers(deadline)
        return self._table()

    def _layers(self, deadline: float) -> None:
        """Records the layers as far as the time goes; what is done of them is a smaller product of the same.

        One whose pass others disturbed is left out.
        """
        recording, journal = self._recording, self._journal
        if not all(recording.settings.layers):
            return
        backend, layer, device = recording.backend, recording.problems[0].layer, recording.device
        defaults = {p: default_of(backend, layer, p.tokens, device) for p in recording.problems}
        parts = [
            leading(
                [self._times(stage, p) for p in recording.problems],
                [c for d in defaults.values() if (c := d.of(stage)) in recording.configs[stage]],
                count,
            )
            for stage, count in zip(Stage, recording.settings.layers, strict=True)
        ]
        pairs = [
            pair
            for pair in product_by_rank(*parts)
            if pair not in journal.layers and pair.stage1.get("tile_m") == pair.stage2.get("tile_m")
        ]
        self._say(f"layers: {len(parts[0])} configs of stage 1 by {len(parts[1])} of stage 2")
        started, done, rest = time.monotonic(), 0, list(pairs)
        asked: list[Future[Any]] = []
        while asked or (rest and time.monotonic() < deadline):
            while rest and len(asked) < 2 and time.monotonic() < deadline:  # the GPU need not wait
                some, rest = rest[:PAIRS], rest[PAIRS:]
                asked.append(self._ask(sweeping.layers, some, defaults, timeout=SETTLE_TIMEOUT_S))
            answer = _needed(asked.pop(0).result())
            journal.add_layers({pair: quiet for pair, got in answer.items() if (quiet := undisturbed(got))})
            done += len(answer)
        seconds = time.monotonic() - started
        each = 1e3 * seconds / max(1, done * len(recording.problems))
        self._say(f"layers: {done} of {len(pairs)} pairs in {seconds:.0f} s, {each:.1f} ms a layer")

    def _times(self, stage: Stage, problem: Problem) -> dict[Config, float]:
        settled = self._journal.settled.get((stage, problem.tokens), {})
        return {
            config: outcome.us
            for (of, config), outcomes in self._journal.outcomes.items()
            if of is stage and isinstance(outcome := outcomes[problem.tokens], Measurement)
        } | settled

    def _enter(self, look: Look) -> None:
        """Takes the GPU; a table is recorded on a GPU of one's own.

        Raises:
            UserError: others are on it.
        """

        def refuse(sentence: str) -> None:
            raise UserError(f"{sentence}: record when it has ended")

        if look.neighbours is not None:
            refuse(f"{look.neighbours} is on this GPU too")
        if self._gpu is None and look.gpu and lock.acquire(look.gpu, refuse, threading.Event()):
            self._gpu = look.gpu

    def _is_to_be_swept_again(self, future: Future[Any]) -> bool:
        """Whether others were on the GPU.

        Raises:
            UserError: they stay.
        """
        answer = future.result()
        outcomes = [] if isinstance(answer, Failure) else answer.values()
        who = next((o.contended for o in outcomes if isinstance(o, Measurement) and o.contended), None)
        if who is None:
            self._disturbed_since = None
            return False
        now = time.monotonic()
        if self._disturbed_since is None:
            self._disturbed_since = now
            self._say(f"{who} is on this GPU too: what was timed beside it is put off until the GPU is quiet")
        elif now - self._disturbed_since > self._recording.settings.measure.patience_s:
            raise UserError(not_alone(who, now - self._disturbed_since))
        time.sleep(_AGAIN_S)
        return True

    def _sweep(self, stage: Stage, deadline: float) -> bool:
        recording, journal = self._recording, self._journal
        todo = [config for config in recording.configs[stage] if not journal.finished((stage, config))]
        started, done = time.monotonic(), 0
        compiling: dict[Future[Compiled | Failure], Config] = {}
        waiting = [config for config in todo if (stage, config) in journal.compiled]
        uncompiled = [config for config in reversed(todo) if (stage, config) not in journal.compiled]
        sweeping_now: dict[Future[Any], Config] = {}
        problem = recording.problems[0]
        device = recording.device
        with CompilePool(recording.backend.name, device, workers=recording.workers) as pool:
            while uncompiled or compiling or waiting or sweeping_now:
                late = time.monotonic() > deadline
                while uncompiled and len(compiling) < 4 * recording.workers:
                    config = uncompiled.pop()
                    compiling[pool.submit(problem.layer, problem.tokens, stage, config)] = config
                while waiting and not late and len(sweeping_now) < AHEAD:
                    config = waiting.pop()
                    sweeping_now[self._ask(sweeping.sweep, stage, config)] = config
                if late and not sweeping_now:
                    break
                for future in wait([*compiling, *sweeping_now], return_when=FIRST_COMPLETED).done:
                    if future in compiling:
                        config = compiling.pop(future)
                        if self._compiled((stage, config), future.result()):
                            waiting.append(config)
                        continue
                    config = sweeping_now.pop(future)
                    if self._is_to_be_swept_again(future):
                        waiting.insert(0, config)
                        continue
                    self._swept((stage, config), future)
                    done += 1
                    if done % 200 == 0:
                        rate = done / (time.monotonic() - started)
                        self._say(f"{stage}: {done} of {len(todo)} configs, {rate:.1f} a second")
        if todo:
            self._say(f"{stage}: swept {done} configs in {time.monotonic() - started:.0f} s")
        return all(journal.finished((stage, config)) for config in recording.configs[stage])

    def _compiled(self, key: Key, outcome: Compiled | Failure) -> bool:
        """Notes a compile; whether there is something to launch."""
        if isinstance(outcome, Compiled):
            reason = refusal(outcome.facts, self._recording.device, allow_spills=False)
            if reason is not None:
                outcome = Failure(Status.CONSTRAINT, reason, outcome.seconds)
        self._journal.add_compiled(key, outcome)
        return isinstance(outcome, Compiled)

    def _swept(self, key: Key, future: Future[Any]) -> None:
        answer = future.result()
        if isinstance(answer, Failure):
            answer = dict.fromkeys(self._recording.problems, answer)
        self._journal.add_outcomes(key, {problem.tokens: outcome for problem, outcome in answer.items()})

    def _settle(self, stage: Stage, problem: Problem) -> None:
        if (stage, problem.tokens) in self._journal.settled:
            return
        measured = []
        for (of, config), outcomes in self._journal.outcomes.items():
            outcome = outcomes[problem.tokens]
            if of is stage and isinstance(outcome, Measurement):
                measured.append((outcome.us, config.key, config))
        best = [config for _, _, config in sorted(measured)[: self._recording.settings.contenders]]
        started = time.monotonic()
        settled = _needed(self._ask(sweeping.settle, problem, stage, best, timeout=SETTLE_TIMEOUT_S).result())
        self._journal.add_settled(stage, problem.tokens, settled)
        first = min(settled, key=lambda config: settled[config])
        default = self._recording.configs[stage][0]
        outcome = self._journal.outcomes[stage, default][problem.tokens]
        against = f", default {outcome.us:.2f}" if isinstance(outcome, Measurement) else ""
        self._say(
            f"{stage} {problem.shape}: {settled[first]:.2f} µs{against}, {first}"
            f" ({time.monotonic() - started:.1f} s for the order of {len(best)})"
        )

    def _table(self) -> Table:
        recording = self._recording
        assert self._fingerprint is not None
        folder = data_dir("search_spaces") / recording.backend.name
        stages = {
            stage: StageTable(
                _space_text(folder, stage),
                tuple(self._journal.row((stage, config)) for config in configs),
            )
            for stage, configs in recording.configs.items()
        }
        first = recording.problems[0]
        return Table(
            layer=first.layer,
            device=recording.device,
            fingerprint=self._fingerprint,
            workload=recording.settings.measure.key,
            routing=first.routing,
            tokens=tuple(problem.tokens for problem in recording.problems),
            command=recording.command,
            stages=stages,
            layers=dict(self._journal.layers),
        )

    def _ask(
        self, function: Callable[..., Any], *arguments: Any, timeout: float = SWEEP_TIMEOUT_S
    ) -> Future[Any]:
        """Asks the process that owns the GPU; the pool replaces one that died."""
        recording = self._recording
        problems, environment = tuple(recording.problems), dict(recording.environment)
        common = (recording.backend.name, problems, recording.settings, environment)
        late = Failure(Status.TIMEOUT, f"no answer within {timeout:g} s", timeout)
        future: Future[Any] = self._worker.run(
            function, (*common, *arguments), time_limit_s=timeout, late=late, died=_died
        )
        return future


def product_by_rank(stage1: Sequence[Config], stage2: Sequence[Config]) -> list[LayerConfig]:
    """Every pair, ordered so that whatever comes first is a product of the two stages' first."""
    ranked = [
        (max(i / len(stage1), j / len(stage2)), i, j) for i in range(len(stage1)) for j in range(len(stage2))
    ]
    return [LayerConfig(stage1[i], stage2[j]) for _, i, j in sorted(ranked)]


def undisturbed(
    outcomes: Mapping[int, LayerMeasurement | Failure],
) -> dict[int, LayerMeasurement | Failure]:
    """Without what others on the GPU disturbed."""
    return {t: o for t, o in outcomes.items() if isinstance(o, Failure) or o.contended is None}


def _died(how: str) -> Failure:
    if how.startswith(f"ended with exit code {FAULT_EXIT}"):
        return Failure(Status.RUNTIME_ERROR, "the process died: the device faulted")
    return Failure(Status.RUNTIME_ERROR, f"the process {how}")


def _needed(answer: Any) -> Any:
    """The answer of a request that no candidate is to blame for.

    Raises:
        UserError: there is none.
    """
    if isinstance(answer, Failure):
        raise UserError(f"recording cannot go on ({answer.reason}): see that the GPU is free and works")
    return answer


def _space_text(folder: Path, stage: Stage) -> str:
    """A stage's search space as a text of its own, also where one file is for both stages."""
    path = folder / f"{stage}.toml"
    if path.exists():
        return path.read_text()
    other = next(each for each in Stage if each is not stage)
    return re.sub(rf"(?m)^{other} = .*\n", "", (folder / "both.toml").read_text())
