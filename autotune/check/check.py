"""Checks one compiled candidate."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from itertools import count

from autotune.check.executed import Executed, Tally
from autotune.check.execution import Execution
from autotune.check.judge import Incorrect, Judge
from autotune.emulate import EmulationError, Fault, Kernel, NotEmulated
from autotune.errors import UserError
from autotune.machine.devices import Device
from autotune.problem.layer import Layer, Stage
from autotune.protocol.backend import Listing
from autotune.protocol.runtime import Path
from autotune.results import CompilerVersion, Verdict, VerdictStatus
from autotune.space.config import Config

# Modules with `compiler`, `executions` and, where outputs are rounded more than once, `path`. Imported when
# asked for: they need their backend's compiler.
_BACKENDS: Mapping[str, str] = {
    "triton": "autotune.backends.triton.check",
    "flydsl": "autotune.backends.flydsl.check",
}


def can_check(backend: str, device: Device) -> bool:
    """Whether a backend's binaries for a device can be executed here."""
    return backend in _BACKENDS and device.arch == "gfx942"


def require_checks(backend: str) -> None:
    """Raises UserError when a backend's kernels cannot be checked."""
    if backend not in _BACKENDS:
        raise UserError(f"backend {backend} cannot be checked on the CPU: use {' or '.join(_BACKENDS)}")


def compiler_of(backend: str) -> CompilerVersion:
    """The compiler that makes a backend's binaries here: another version's are judged anew.

    Raises:
        UserError: it is not installed.
    """
    require_checks(backend)
    version: CompilerVersion = import_module(_BACKENDS[backend]).compiler()
    return version


def check_listing(
    backend: str,
    layer: Layer,
    tokens: int,
    stage: Stage,
    config: Config,
    listing: Listing,
    *,
    seed: int = 0,
) -> Verdict:
    """Executes a sample of a binary's workgroups and judges what they leave.

    Args:
        tokens: of the problem that it is for; the binary serves all.
        listing: gfx942 assembly and its facts, as the backend compiled it.
        seed: of operands, routings and poison.

    Raises:
        UserError: no kernel of this backend can be checked.
    """
    return execute(backend, layer, tokens, stage, config, listing, seed=seed)[0]


def execute(
    backend: str,
    layer: Layer,
    tokens: int,
    stage: Stage,
    config: Config,
    listing: Listing,
    *,
    seed: int = 0,
) -> tuple[Verdict, Executed | None]:
    """`check_listing` with what was executed; None: the execution did not end."""
    require_checks(backend)
    cases = import_module(_BACKENDS[backend])
    path: Path = cases.path(stage, config, layer) if hasattr(cases, "path") else Path()

    def executions(kernel: Kernel) -> Iterable[Execution]:
        made: Iterable[Execution] = cases.executions(layer, tokens, stage, config, kernel, seed)
        return made

    return run_cases(listing.text, listing.compiled.facts.lds_bytes or 0, executions, path, seed)


def run_cases(
    text: str, lds_bytes: int, cases: Callable[[Kernel], Iterable[Execution]], path: Path, seed: int = 0
) -> tuple[Verdict, Executed | None]:
    """Runs cases of one kernel and judges them together.

    Args:
        text: gfx942 assembly of one kernel.
        lds_bytes: of a workgroup, what the launch adds included.
        cases: makes them; may raise Incorrect where no execution is needed to say so.
        path: the roundings between exact accumulators and the output.
    """
    started = time.perf_counter()
    tally, judge = Tally(), Judge(path)

    def verdict(status: VerdictStatus, reason: str | None, error: float | None = None) -> Verdict:
        return Verdict(status, error, reason, time.perf_counter() - started)

    try:
        kernel = Kernel.from_asm(text)
        turn = count(seed)
        for case in cases(kernel):
            case.run(kernel, lds_bytes, turn, tally)
            case.judge(judge)
        error = judge.error()
    except NotEmulated as missing:
        return verdict(VerdictStatus.NOT_EMULATED, _sentence(missing)), None
    except Fault as fault:
        return verdict(VerdictStatus.FAULT, _sentence(fault)), None
    except Incorrect as wrong:
        return verdict(VerdictStatus.INCORRECT, str(wrong), wrong.error), None
    executed = tally.executed(-(-kernel.threads // 64))
    seconds = time.perf_counter() - started
    return Verdict(VerdictStatus.PASS, error, None, seconds, executed.summary()), executed


def _sentence(error: EmulationError) -> str:
    """What happened, with the instruction first: it is what a user looks for."""
    if error.text is None:
        return error.reason
    return f"{error.text.strip()} (line {error.line}): {error.reason}"
