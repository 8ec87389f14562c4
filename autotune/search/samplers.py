"""Optuna samplers by the name that a user gives; a user's own can be registered."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING

from autotune.errors import UserError

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

JOINT = "joint"
"""Our own, `autotune.search.joint`: one model of all shapes of a stage. Its study only keeps the record."""

SamplerFactory = Callable[[int], "BaseSampler"]


def _tpe(seed: int) -> "BaseSampler":
    from optuna.samplers import TPESampler

    return TPESampler(seed=seed)


def _random(seed: int) -> "BaseSampler":
    from optuna.samplers import RandomSampler

    return RandomSampler(seed=seed)


def _gp(seed: int) -> "BaseSampler":
    # Optuna imports these at the first ask, which is too late to say that one is missing.
    for needed in ("scipy", "torch"):
        if find_spec(needed) is None:
            raise ModuleNotFoundError(f"No module named {needed!r}", name=needed)
    from optuna.samplers import GPSampler

    return GPSampler(seed=seed)


_FACTORIES: dict[str, SamplerFactory] = {
    JOINT: _random,
    "tpe": _tpe,
    "random": _random,
    "gp": _gp,
}


def register_sampler(name: str, factory: SamplerFactory) -> None:
    """Makes `--sampler NAME` use `factory(seed)`; a later registration replaces an earlier one."""
    _FACTORIES[name] = factory


def sampler_names() -> list[str]:
    """Names for `--sampler`."""
    return list(_FACTORIES)


def make_sampler(name: str, seed: int) -> "BaseSampler":
    """A fresh sampler.

    Raises:
        UserError: unknown name, or a package that the sampler needs is missing.
    """
    if name not in _FACTORIES:
        raise UserError(f"unknown sampler {name!r}: use one of {', '.join(_FACTORIES)}")
    try:
        return _FACTORIES[name](seed)
    except ImportError as error:
        raise UserError(f"sampler {name!r} needs {error.name}: pip install {error.name}") from error
