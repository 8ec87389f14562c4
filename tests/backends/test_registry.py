"""Every backend on the list can be loaded, whatever is installed, and has what a run asks of it."""

import inspect

import pytest

from autotune.errors import UserError
from autotune.protocol.backend import Backend
from autotune.protocol.registry import backend_names, load_backend, named


@pytest.mark.parametrize("name", backend_names())
def test_a_backend_has_the_whole_protocol(name: str) -> None:
    backend = load_backend(name)
    assert backend.name == name
    assert callable(named(backend.runtime))
    for method, declared in inspect.getmembers(Backend, inspect.isfunction):
        if not method.startswith("_"):
            wanted = list(inspect.signature(declared).parameters)[1:]
            assert list(inspect.signature(getattr(backend, method)).parameters) == wanted, method


@pytest.mark.parametrize("name", ["cutlass", "autotune.backends:nothing", "no.module:Class", "os:path"])
def test_a_backend_that_is_not_there(name: str) -> None:
    with pytest.raises(UserError, match="backend"):
        load_backend(name)
