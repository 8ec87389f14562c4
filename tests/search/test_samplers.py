"""Samplers by name."""

import optuna
import pytest

from autotune.errors import UserError
from autotune.search import samplers
from autotune.search.samplers import make_sampler, register_sampler, sampler_names


def test_an_unknown_name_is_told_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"unknown sampler 'cma': use one of .*tpe"):
        make_sampler("cma", 0)


def test_a_user_can_register_an_own_sampler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samplers, "_FACTORIES", dict(samplers._FACTORIES))
    register_sampler("mine", lambda seed: optuna.samplers.RandomSampler(seed))
    assert "mine" in sampler_names()
    assert isinstance(make_sampler("mine", 1), optuna.samplers.RandomSampler)


def test_a_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def needs_more(seed: int) -> optuna.samplers.BaseSampler:
        raise ModuleNotFoundError("No module named 'cmaes'", name="cmaes")

    monkeypatch.setattr(samplers, "_FACTORIES", {"cmaes": needs_more})
    with pytest.raises(UserError, match="pip install cmaes"):
        make_sampler("cmaes", 0)
