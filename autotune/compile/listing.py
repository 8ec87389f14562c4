"""Machine code of a few candidates for people to look at, compiled where a compiler may die."""

import warnings
from collections.abc import Sequence
from concurrent.futures import Future

from autotune.compile.workers import Workers
from autotune.errors import UserError
from autotune.machine.devices import Device
from autotune.problem.layer import Layer, Stage
from autotune.processes import interrupt
from autotune.protocol.backend import CompileRefused, Listing, Lists
from autotune.protocol.registry import backend_names, load_backend
from autotune.results import Failure, Status
from autotune.space.config import Config


def listings(
    backend: str,
    layer: Layer,
    tokens: int,
    stage: Stage,
    configs: Sequence[Config],
    device: Device,
    *,
    time_limit_s: float = 300.0,
) -> list[Listing]:
    """Compiles each config in a process of its own, all at once.

    Raises:
        UserError: a config is illegal or does not compile, or the backend shows no machine code.
    """
    family = load_backend(backend)
    if not isinstance(family, Lists):
        others = [name for name in backend_names() if isinstance(load_backend(name), Lists)]
        raise UserError(f"backend {backend} shows no machine code: use {' or '.join(others)}")
    space = family.space(layer, tokens, stage, device)
    for config in configs:
        rule = space.broken_rule(config)
        if rule is not None:
            raise UserError(f"{config} is illegal for {backend} {stage}: {rule.reason}; choose another value")
    workers = Workers(len(configs))
    try:
        futures = [
            workers.run(
                _list,
                (backend, layer, tokens, stage, config, device),
                time_limit_s=time_limit_s,
                late=Failure(Status.COMPILE_TIMEOUT, "takes too long to compile: choose a smaller tile"),
                died=_died,
            )
            for config in configs
        ]
        return [_result(config, future) for config, future in zip(configs, futures, strict=True)]
    finally:
        workers.close()


def _died(how: str) -> Failure:
    return Failure(Status.COMPILE_ERROR, f"cannot be compiled, the compiler {how}: choose another config")


def _list(
    backend: str, layer: Layer, tokens: int, stage: Stage, config: Config, device: Device
) -> Listing | Failure:
    """The listing, or why there is none."""
    warnings.simplefilter("ignore")  # a compiler's remarks are not about the candidates
    family = load_backend(backend)
    assert isinstance(family, Lists)
    try:
        return family.listing(layer, tokens, stage, config, device)
    except CompileRefused as error:
        return Failure(Status.COMPILE_ERROR, f"does not compile: {error}")


def _result(config: Config, future: "Future[Listing | Failure]") -> Listing:
    answer = interrupt.result_of(future)
    if isinstance(answer, Failure):
        raise UserError(f"{config} {answer.reason}")
    return answer
