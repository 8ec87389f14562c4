"""Machine code of a few candidates for people to look at, compiled where a compiler may die."""

import multiprocessing
import warnings
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout

import pebble

from autotune.backends import load_backend
from autotune.backends.base import CompileRefused, Listing, Lists
from autotune.config import Config
from autotune.devices import Device
from autotune.errors import UserError
from autotune.problem import Layer, Stage


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
        raise UserError(f"backend {backend} shows no machine code: use triton, flydsl or aiter")
    space = family.space(layer, tokens, stage, device)
    for config in configs:
        rule = space.broken_rule(config)
        if rule is not None:
            raise UserError(f"{config} is illegal for {backend} {stage}: {rule.reason}; choose another value")
    context = multiprocessing.get_context("spawn")
    with pebble.ProcessPool(max_workers=len(configs), context=context) as pool:
        futures: list[Future[Listing | str]] = [
            pool.schedule(_list, args=(backend, layer, tokens, stage, config, device), timeout=time_limit_s)
            for config in configs
        ]
        return [_result(config, future) for config, future in zip(configs, futures, strict=True)]


def _list(
    backend: str, layer: Layer, tokens: int, stage: Stage, config: Config, device: Device
) -> Listing | str:
    """The listing, or why there is none."""
    warnings.simplefilter("ignore")  # a compiler's remarks are not about the candidates
    family = load_backend(backend)
    assert isinstance(family, Lists)
    try:
        return family.listing(layer, tokens, stage, config, device)
    except CompileRefused as error:
        return str(error)


def _result(config: Config, future: "Future[Listing | str]") -> Listing:
    try:
        made = future.result()
    except FutureTimeout as error:
        raise UserError(f"{config} took too long to compile: choose a smaller tile") from error
    except pebble.ProcessExpired as error:
        raise UserError(f"the compiler died of {config} ({error}): choose another config") from error
    if isinstance(made, str):
        raise UserError(f"{config} does not compile: {made}")
    return made
