"""Makes the records that a driver stores of its candidates."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from autotune.machine.fingerprint import Fingerprint
from autotune.problem.layer import Problem, Stage
from autotune.results import Compiled, Failure, StaticFacts, Status
from autotune.search.evaluate import Evaluator
from autotune.search.study import Ask
from autotune.store.records import TrialRecord

Task = tuple[Problem, Stage]


@dataclass(frozen=True)
class Records:
    """Makes the records of one run's trials.

    Attributes:
        digest: of a task's search space.
    """

    backend: str
    environment: Fingerprint
    evaluator: Evaluator
    digest: Callable[[Task], str]

    def merged(self, trial: int, record: TrialRecord, ask: Ask, compiled: Compiled) -> TrialRecord:
        """A candidate whose machine code is that of an earlier trial shares its result."""
        return replace(
            record,
            config=ask.config,
            origin=ask.origin,
            compile_s=compiled.seconds,
            measure_s=0.0,
            merged_into=trial,
        )

    def failed(self, task: Task, ask: Ask, failure: Failure, compiled: Compiled | None = None) -> TrialRecord:
        """A candidate that has no time."""
        record = self.trial(task, ask, compiled, failure.status, reason=failure.reason)
        if compiled is None:
            return replace(record, compile_s=failure.seconds)
        return replace(record, gate_error=failure.error, measure_s=failure.seconds)

    def trial(
        self,
        task: Task,
        ask: Ask,
        compiled: Compiled | None,
        status: Status,
        *,
        time_us: float | None = None,
        reason: str | None = None,
    ) -> TrialRecord:
        """A candidate with what its compile told."""
        problem, stage = task
        return TrialRecord(
            problem=problem,
            stage=stage,
            backend=self.backend,
            environment=self.environment,
            space_digest=self.digest(task),
            workload=self.evaluator.workload,
            config=ask.config,
            origin=ask.origin,
            status=status,
            kind=self.evaluator.kind,
            time_us=time_us,
            reason=reason,
            facts=compiled.facts if compiled else StaticFacts(),
            binary_hash=compiled.binary_hash if compiled else None,
            compile_s=compiled.seconds if compiled else 0.0,
        )
