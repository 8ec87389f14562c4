"""Checks one compiled candidate."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import count

from autotune.check.compare import OutputErrors, WrongOutput
from autotune.check.execution import Beside, Checker, Executed, Execution, Tally
from autotune.emulate import EmulationError, Fault, Kernel, NotEmulated
from autotune.errors import UserError
from autotune.machine.devices import Device
from autotune.problem.layer import Layer, Stage
from autotune.protocol.backend import Listing
from autotune.protocol.registry import backend_names, instance, registration
from autotune.protocol.runtime import Path
from autotune.results import CheckVerdict, VerdictStatus
from autotune.space.config import Config


def can_check(backend: str, device: Device) -> bool:
    """Whether a backend's binaries for a device can be executed here."""
    return bool(registration(backend).checker) and device.arch == "gfx942"


def checker_of(backend: str) -> Checker:
    """What a backend brings for checks of its machine code.

    Raises:
        UserError: nothing.
    """
    path = registration(backend).checker
    if not path:
        able = []
        for name in backend_names():
            with suppress(UserError):  # another distribution's that is broken
                able += [name] if registration(name).checker else []
        raise UserError(
            f"backend {backend} brings no checker, so its machine code cannot be checked on the CPU: use"
            f" {' or '.join(able)}"
        )
    checker: Checker = instance(backend, path, Checker)
    return checker


def execute(
    backend: str,
    layer: Layer,
    tokens: int,
    stage: Stage,
    config: Config,
    listing: Listing,
    *,
    seed: int = 0,
) -> tuple[CheckVerdict, Executed | None]:
    """Executes a sample of a binary's workgroups and judges what they leave.

    Args:
        tokens: of the problem that it is for; the binary serves all.
        listing: gfx942 assembly and its facts, as the backend compiled it.
        seed: of operands, routings and poison.

    Returns:
        The verdict, and what was executed; None: the execution did not end.

    Raises:
        UserError: no kernel of this backend can be checked.
    """
    checker = checker_of(backend)
    return run_cases(
        listing.text,
        listing.compiled.facts.lds_bytes or 0,
        lambda kernel: checker.executions(layer, tokens, stage, config, kernel, seed),
        checker.path(stage, config, layer),
        seed,
    )


def execute_beside(
    backend: str, layer: Layer, tokens: int, config: Config, device: Device, *, seed: int = 0
) -> Iterator[tuple[Beside, CheckVerdict]]:
    """Executes what a layer launches beside its two GEMMs, and judges it; nothing for most backends.

    Args:
        config: stage 1's.

    Raises:
        UserError: no kernel of this backend can be checked.
    """
    checker = checker_of(backend)
    for launch in checker.beside(layer, tokens, config, device, seed):
        yield launch, run_cases(launch.text, launch.lds_bytes, launch.cases, Path(), seed)[0]


def run_cases(
    text: str, lds_bytes: int, cases: Callable[[Kernel], Iterable[Execution]], path: Path, seed: int = 0
) -> tuple[CheckVerdict, Executed | None]:
    """Runs cases of one kernel and judges them together.

    Args:
        text: gfx942 assembly of one kernel.
        lds_bytes: of a workgroup, what the launch adds included.
        cases: makes them; may raise WrongOutput where no execution is needed to say so.
        path: the roundings between exact accumulators and the output.
    """
    started = time.perf_counter()
    tally, errors = Tally(), OutputErrors(path)

    def verdict(status: VerdictStatus, reason: str | None, error: float | None = None) -> CheckVerdict:
        return CheckVerdict(status, error, reason, time.perf_counter() - started)

    try:
        kernel = Kernel.from_asm(text)
        turn = count(seed)
        for case in cases(kernel):
            case.run(kernel, lds_bytes, turn, tally)
            case.judge(errors)
        error = errors.error()
    except NotEmulated as missing:
        return verdict(VerdictStatus.NOT_EMULATED, _sentence(missing)), None
    except Fault as fault:
        return verdict(VerdictStatus.FAULT, _sentence(fault)), None
    except WrongOutput as wrong:
        return verdict(VerdictStatus.INCORRECT, str(wrong), wrong.error), None
    executed = tally.executed(-(-kernel.threads // 64))
    seconds = time.perf_counter() - started
    return CheckVerdict(VerdictStatus.PASS, error, None, seconds, executed.summary()), executed


def _sentence(error: EmulationError) -> str:
    """What happened, with the instruction first: it is what a user looks for."""
    if error.text is None:
        return error.reason
    return f"{error.text.strip()} (line {error.line}): {error.reason}"
