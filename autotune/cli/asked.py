"""From options to a backend and its problems: alike for a run and for an entry of a plan."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from autotune.cli.groups import LayerOptions, make_problems
from autotune.errors import UserError
from autotune.machine.devices import Device
from autotune.machine.targets import Target
from autotune.problem import DEFAULT_MODEL
from autotune.problem.layer import Layer, Problem, Stage
from autotune.protocol import DEFAULT_BACKEND

if TYPE_CHECKING:
    from autotune.replay.table import Table

DEFAULT_SHAPE: Final = "m4"


@dataclass(frozen=True)
class Asked:
    """What is tuned.

    Attributes:
        remarks: what the user should know of it, a sentence each.
    """

    backend: str
    layer: Layer
    problems: Sequence[Problem]
    remarks: Sequence[str]


def of_options(
    model: LayerOptions,
    device: Callable[[], Device],
    backend: str | None = None,
    shape: str = DEFAULT_SHAPE,
    concurrency: str = "1",
    routing: str = "uniform",
    *,
    replayed: bool = False,
) -> Asked:
    """What the options ask for.

    Args:
        device: that is tuned for; asked only where the backend depends on it.
        backend: None: by the checkpoint's numbers.
        replayed: nothing is computed.

    Raises:
        UserError: it cannot be, or the backend does not compute it.
    """
    picked: list[str] = []
    if backend is None:
        backend, picked = (DEFAULT_BACKEND, []) if replayed else _picked(model, device)
    layer = model.layer(None if replayed else backend)
    problems = make_problems(layer, shape, concurrency, routing)
    return Asked(backend, layer, problems, [*picked, *model.remarks(layer, backend)])


def _picked(model: LayerOptions, device: Callable[[], Device]) -> tuple[str, list[str]]:
    """The backend by the checkpoint's numbers, where it has any, and what to say of it."""
    from autotune.protocol.legality import fits, pick_backend

    described = model.described()

    def suits(name: str) -> bool:
        return fits(name, Layer.of(described, model.tp, model.ep), device())

    return pick_backend(described, DEFAULT_BACKEND, suits)


def asked_by_entry(
    options: Mapping[str, Any], target: Target, table: "Table | None" = None
) -> tuple[str, Sequence[Problem]]:
    """What an entry of a plan asks for.

    Args:
        table: the target's, where it is a recording.

    Raises:
        UserError: a run of it would be refused.
    """
    from autotune.protocol.legality import require_default
    from autotune.protocol.registry import load_backend
    from autotune.replay.target import ReplayBackend
    from autotune.tuning.plan import LAYER_KEYS

    if "model" in options and "model_config" in options:
        raise UserError("model and model_config both name the model: give one of them")
    if "routing" in options and not target.live:
        raise UserError(f"routing has no effect with {target.name}: leave it out")
    layer = {"model": DEFAULT_MODEL, **{key: options[key] for key in LAYER_KEYS if key in options}}
    if "model_config" in layer:
        layer["model_config"] = Path(layer["model_config"])
    problem = {key: options[key] for key in ("backend", "shape", "concurrency", "routing") if key in options}
    if target.routing is not None:
        problem["routing"] = target.routing
    replayed = table is not None
    told = of_options(LayerOptions(**layer), lambda: target.device, **problem, replayed=replayed)
    backend, problems = load_backend(told.backend), told.problems
    if table is not None:
        backend = ReplayBackend(backend, table)
        if not options.keys() & set(LAYER_KEYS):
            problems = [replace(each, layer=table.layer) for each in problems]
    for each in problems:
        for stage in Stage:
            space = backend.space(each.layer, each.tokens, stage, target.device)
            require_default(backend, each.layer, space)
    return told.backend, problems
