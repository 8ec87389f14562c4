"""Families of kernels behind one protocol; see `base.Backend`."""

from importlib import import_module

from autotune.backends.base import Backend
from autotune.errors import UserError

# Imported by name, so that a backend's dependencies are needed only where it is used.
_BACKENDS = {"triton": "autotune.backends.triton_w4a8:TritonW4A8"}


def backend_names() -> list[str]:
    """Names for `--backend`."""
    return list(_BACKENDS)


def load_backend(name: str) -> Backend:
    """The backend called `name`.

    Raises:
        UserError: there is none.
    """
    if name not in _BACKENDS:
        raise UserError(f"unknown backend {name!r}: use one of {', '.join(_BACKENDS)}")
    module, _, attribute = _BACKENDS[name].partition(":")
    backend: Backend = getattr(import_module(module), attribute)()
    return backend
