"""Every backend on the list can be loaded, whatever is installed, and has what a run asks of it."""

import inspect
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from autotune.check.execution import Checker
from autotune.errors import UserError
from autotune.protocol import registry
from autotune.protocol.backend import Backend
from autotune.protocol.doctor import Doctor
from autotune.protocol.lookup import Verifier
from autotune.protocol.registry import backend_names, instance, load_backend, named, registration
from autotune.protocol.runtime import load_runtime


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


def parts() -> list[tuple[str, type, str]]:
    """Name of the backend, the protocol, and what is registered for it: once where backends share it."""
    brought = []
    for name in backend_names():
        entry = registration(name)
        brought += [(name, Verifier, path) for path in entry.verifiers.values()]
        brought += [(name, Checker, entry.checker)] if entry.checker else []
        brought.append((name, Doctor, entry.doctor))
    return list({path: (name, protocol, path) for name, protocol, path in reversed(brought)}.values())


@pytest.mark.parametrize(("name", "protocol", "path"), parts(), ids=str)
def test_what_a_backend_brings_besides_its_kernels_has_the_whole_protocol(
    name: str, protocol: type, path: str
) -> None:
    brought = instance(name, path)
    for method, declared in inspect.getmembers(protocol, inspect.isfunction):
        if not method.startswith("_"):
            own = getattr(type(brought), method)
            assert list(inspect.signature(own).parameters) == list(inspect.signature(declared).parameters), (
                method
            )
            assert own is not declared or method in ("findings", "path", "beside")  # these may be left out


@pytest.mark.parametrize("broken", ["def (", "1 / 0", "import nowhere", "from autotune import nothing", ""])
def test_another_distributions_broken_backend_is_one_sentence(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It must not take `doctor` and `verify` with it, which look at every backend."""
    name = f"broken_{abs(hash(broken))}"
    (tmp_path / f"{name}.py").write_text(broken)
    monkeypatch.syspath_prepend(tmp_path)
    point = EntryPoint("theirs", f"{name}:REGISTRATION", registry.GROUP)
    monkeypatch.setattr(registry, "_foreign", lambda: {"theirs": point})
    with pytest.raises(UserError, match=r"backend 'theirs' of .* cannot be loaded \(\w+Error: "):
        registry.registration("theirs")


@pytest.mark.parametrize("path", ["no.module:make", "os:no_function", "autotune.backends.no_runtime:make"])
def test_a_runtime_that_is_not_there_is_one_sentence(path: str) -> None:
    with pytest.raises(UserError, match="cannot run here"):
        load_runtime(path)
