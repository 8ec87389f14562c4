"""Registers each backend's parts, once: by its package under `autotune.backends`, or by an entry point.

Another distribution registers with an entry point of the group `autotune.backends`, whose name is the
backend's and which leads to a `Registration`:

    [project.entry-points."autotune.backends"]
    toy = "toy_backend:REGISTRATION"

Parts are named, not imported: a backend's dependencies are needed only where it is used.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pkgutil import iter_modules
from typing import Any

from autotune.errors import UserError
from autotune.problem.layer import WeightBytes
from autotune.protocol.backend import Backend

GROUP = "autotune.backends"
"""Of the entry points, and the package whose packages are the backends that come with the tool."""


@dataclass(frozen=True)
class Registration:
    """Everything that a backend brings. Parts are named as for `named`; "": it does not bring this one.

    Attributes:
        name: for `--backend`.
        kernels: what makes, without arguments, an object with the methods of `protocol.backend.Backend`.
        weights: None: not known, so no limit by bandwidth is shown.
        exporter: a class with the methods of `protocol.exporter.Exporter`.
        knobs: `protocol.process_knobs.KnobsOf`, where knobs are variables of the process; "": they are chosen
            by the number of tokens.
        verifiers: by engine, a class with the methods of `protocol.lookup.Verifier`.
        checker: a class with the methods of `check.execution.Checker`.
        doctor: a class with the methods of `protocol.doctor.Doctor`.
        variables: of the environment, by which the kernels' sources or compiler are found. An option of the
            command line that sets another one has no effect on this backend, and is refused.
    """

    name: str
    kernels: str
    weights: WeightBytes | None = None
    exporter: str = ""
    knobs: str = ""
    verifiers: Mapping[str, str] = field(default_factory=dict)
    checker: str = ""
    doctor: str = ""
    variables: Sequence[str] = ()


def named(path: str) -> Any:
    """What `module:attribute` names; `module:function(word)` is the function with this one argument.

    So a row of a table is named, too, and a process that knows nothing but the text can load it.

    Raises:
        ImportError, SyntaxError, AttributeError: there is no such thing, or its module is broken.
    """
    module, _, attribute = path.partition(":")
    function, _, argument = attribute.removesuffix(")").partition("(")
    thing = getattr(import_module(module), function)
    return partial(thing, argument) if argument else thing


def part(backend: str, path: str) -> Any:
    """What a registration names.

    Raises:
        UserError: there is no such thing, or it is not ours and its module cannot be imported.
    """
    # Other people's code may raise anything, or exit; in ours all but a missing package is a defect.
    expected = (ImportError, SyntaxError, AttributeError) if _is_ours(path) else (Exception, SystemExit)
    try:
        return named(path)
    except expected as error:
        raise UserError(
            f"backend {backend!r} cannot be loaded ({_first_line(error)}): correct {path!r}"
        ) from error


def instance(backend: str, path: str, kind: Any = None) -> Any:
    """An instance of the class that a registration names as `module:class`.

    Args:
        kind: the protocol of which it must have everything.

    Raises:
        UserError: there is no such class, it cannot be made without arguments, or it lacks something.
    """
    loaded = part(backend, path)
    expected: tuple[type[BaseException], ...] = (TypeError,) if _is_ours(path) else (Exception, SystemExit)
    try:
        whole = loaded()
    except expected as error:
        raise UserError(
            f"backend {backend!r} cannot be loaded ({_first_line(error)}): correct {path!r}"
        ) from error
    if kind is not None and not isinstance(whole, kind):
        raise UserError(
            f"{path} of backend {backend!r} is not a complete {kind.__name__}: give it all that"
            f" {kind.__module__}.{kind.__name__} has"
        )
    return whole


def _is_ours(path: str) -> bool:
    return path.startswith("autotune.")


def _first_line(error: BaseException) -> str:
    kind, lines = type(error).__name__, str(error).splitlines()
    return f"{kind}: {lines[0]}" if lines else kind


def backend_names() -> list[str]:
    """Names for `--backend`."""
    return [*_own(), *(name for name in _foreign() if name not in _own())]


def registration(name: str) -> Registration:
    """The registration of the backend called `name`, or of any class, `module:class`, which brings no more.

    Raises:
        UserError: there is none, or what is registered under this name is no registration.
    """
    if name in _own():
        return _own()[name]
    if name in _foreign():
        return _registered(name, _foreign()[name])
    if ":" not in name:
        raise UserError(f"unknown backend {name!r}: use one of {', '.join(backend_names())}, or module:class")
    named = part(name, name)
    return named if isinstance(named, Registration) else Registration(name, name)


def load_backend(name: str) -> Backend:
    """The kernels of the backend called `name`, or of any `module:class`.

    Raises:
        UserError: there is none.
    """
    backend: Backend = instance(name, registration(name).kernels)
    return backend


def weight_bytes(backend: str) -> WeightBytes:
    """How many bytes a backend's kernels hold of the experts' weights, as it is registered.

    Raises:
        UserError: there is no such backend, or it does not say.
    """
    weights = registration(backend).weights
    if weights is None:
        raise UserError(f"backend {backend!r} does not say how wide its weights are: register its weights")
    return weights


@cache
def _own() -> dict[str, Registration]:
    """Those that come with the tool, in the order in which help lists them."""
    package = import_module(GROUP)
    names = [module.name for module in iter_modules(package.__path__) if module.ispkg]
    every = [import_module(f"{GROUP}.{name}").REGISTRATIONS for name in names]
    return {each.name: each for some in every for each in some}


@cache
def _foreign() -> dict[str, EntryPoint]:
    """Those of other distributions, which are not loaded before they are asked for."""
    return {point.name: point for point in entry_points(group=GROUP)}


def _registered(name: str, point: EntryPoint) -> Registration:
    origin = f"backend {name!r} of {point.dist.name if point.dist else 'an unknown distribution'}"
    try:
        loaded = point.load()
    except (
        Exception,
        SystemExit,
    ) as error:  # other people's, which may do anything
        why = _first_line(error)
        raise UserError(f"{origin} cannot be loaded ({why}): mend, reinstall or remove it") from error
    if not isinstance(loaded, Registration) or loaded.name != name:
        raise UserError(f"{origin} is not a Registration of that name: {point.value} must be one")
    return loaded
