"""Stored winners, put to the test again on today's stack."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from autotune.errors import UserError
from autotune.machine.fingerprint import Fingerprint
from autotune.machine.targets import Kind, Target
from autotune.measure.pool import Measurer
from autotune.measure.settings import MeasureSettings
from autotune.problem.layer import Problem
from autotune.protocol.backend import Backend, published_of
from autotune.protocol.process_knobs import layer_environment
from autotune.results import Confirmation, Finalist
from autotune.store.records import RunState, WinnerRecord
from autotune.store.store import Store
from autotune.tuning.subjects import Resolver


@dataclass(frozen=True)
class Recheck:
    """A winner and what became of it.

    Attributes:
        before: as it stood; its times are its own stack's.
        after: today's confirmation. Its winner is 0 where the default is kept now.
        differences: of the stacks, as `field: then -> now`.
        stored: today's choice is a winner of today's stack; False: the default itself failed.
    """

    before: WinnerRecord
    after: Confirmation
    differences: Sequence[str]
    stored: bool

    @property
    def holds(self) -> bool:
        """Whether it is still surely better than the default."""
        return self.after.winner != 0


def reconfirm(
    store: Store,
    backend: Backend,
    target: Target,
    problems: Sequence[Problem],
    settings: MeasureSettings,
    command: str,
    on_recheck: Callable[[Recheck], None],
    say: Callable[[str], None] | None = None,
) -> list[Recheck]:
    """Confirms the latest measured winner of each problem anew, against today's default, and stores it.

    Args:
        on_recheck: told of each as soon as it is stored.
        say: told whom it waits for on the GPU.

    Raises:
        UserError: a problem has no measured winner.
    """
    winners = [_latest(store, backend, problem) for problem in problems]
    resolver = Resolver(backend, target.device, store)
    done = []
    with Measurer(backend.runtime, problems, settings, say) as measurer:
        today = measurer.fingerprint()
        spec = {"confirm": [problem.key for problem in problems], "settings": asdict(settings)}
        run = store.begin_run(command, spec, settings.seed, today)
        state = RunState.FAILED
        try:
            for problem, winner in zip(problems, winners, strict=True):
                finalists = _finalists(resolver, backend, target, problem, winner)
                confirmation = measurer.confirm(problem, finalists, layer_environment(backend.environment))
                stored = _store(store, run, confirmation, backend, today, settings)
                done.append(Recheck(winner, confirmation, winner.environment.differences(today), stored))
                on_recheck(done[-1])
            state = RunState.FINISHED
        except KeyboardInterrupt:
            state = RunState.INTERRUPTED
            raise
        finally:
            store.end_run(run, state)
    return done


def _latest(store: Store, backend: Backend, problem: Problem) -> WinnerRecord:
    stored = store.winners(problem=problem, backend=backend.name, kind=Kind.MEASURED)
    if not stored:
        raise UserError(
            f"there is no measured winner at {problem.shape} to confirm: autotune run --shape"
            f" m{problem.verify_tokens} makes one"
        )
    return max(stored, key=lambda winner: winner.created_at)


def _finalists(
    resolver: Resolver, backend: Backend, target: Target, problem: Problem, winner: WinnerRecord
) -> list[Finalist]:
    finalists = [Finalist("default", resolver.default(problem))]
    if published := published_of(backend, problem.layer, problem.tokens, target.device):
        finalists.append(Finalist("published", published))
    return [*finalists, Finalist("candidate", winner.config)]


def _store(
    store: Store,
    run: int,
    confirmation: Confirmation,
    backend: Backend,
    environment: Fingerprint,
    settings: MeasureSettings,
) -> bool:
    stored = store.record_confirmation(
        run, confirmation, backend=backend.name, environment=environment, workload=settings.key
    )
    if confirmation.errors[confirmation.winner] is None or not settings.decides:
        return False
    store.record_winner(run, stored)
    return True
