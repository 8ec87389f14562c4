"""Refuses layers that a backend's kernels do not compute: alike in run, measure, export and verify.

What a kernel computes and how its weights must lie is declared once, by the backend (`computes`), and every
path asks here: what is legal offline is legal on the GPU.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Protocol, runtime_checkable

from autotune.errors import UserError
from autotune.machine.devices import Device
from autotune.problem.arithmetic import PLAIN, Computes, Needs, Scheme, refusals
from autotune.problem.layer import Layer, Stage, gemm_dims
from autotune.problem.models import Model, family_of
from autotune.space.space import BoundSpace


@runtime_checkable
class DeclaresComputes(Protocol):
    """A backend that says what its kernels compute."""

    @property
    def computes(self) -> Computes:
        """The whole list."""


@runtime_checkable
class LooksUp(Protocol):
    """A backend whose engine looks for files by the checkpoint's format."""

    def looked_for(self, layer: Layer, scheme: Scheme) -> str:
        """What the engine looks for with such a checkpoint, a sentence; "": the same as without."""


@runtime_checkable
class FusesShared(Protocol):
    """A backend whose engine may count shared experts as routed ones."""

    def fused(self, family: str, experts: int) -> int:
        """How many it does by itself, of a model of that `model_type` with so many routed ones."""


def fuses_shared(backend: object, model: Model) -> bool:
    """Whether a backend's engine counts a model's shared experts as routed ones unless it is told not to.

    Of a checkpoint that is requantised it is not known, nor of one whose numbers the backend does not take.
    """
    return (
        isinstance(backend, FusesShared)
        and isinstance(backend, DeclaresComputes)
        and model.needs is not None
        and model.needs.scheme in backend.computes.schemes
        and 0 < model.shared_experts == backend.fused(model.family, model.experts)
    )


def fused_by_default(backend: object, layer: Layer) -> int:
    """Shared experts that a backend's engine counts in by itself of the model of a layer that has none."""
    if layer.ep > 1 or not isinstance(backend, FusesShared):
        return 0
    return backend.fused(family_of(layer.model), layer.experts)


def require_layout(name: str, computes: Computes, layer: Layer) -> None:
    """Makes sure that a layer's weights have a place in the kernels' layout.

    Raises:
        UserError: they have not; with the tensor-parallel degrees that would do.
    """
    for stage in Stage:
        reason = computes.layout(*gemm_dims(layer, stage))
        if reason is not None:
            raise UserError(
                f"backend {name} cannot take {stage} of {layer.model} at {layer.parallel}: {reason}, choose"
                f" another --tp ({_degrees(computes, layer)})"
            )


def _degrees(computes: Computes, layer: Layer) -> str:
    """The degrees that fit, in words."""
    whole = layer.inter_dim * layer.split
    fit = []
    for degree in (d for d in range(1, 65) if whole % (2 * d) == 0):
        other = replace(layer, inter_dim=whole // degree, tp=degree * layer.ep)
        if all(computes.layout(*gemm_dims(other, stage)) is None for stage in Stage):
            fit.append(str(degree * layer.ep))
    return f"{', '.join(fit)} would do" if fit else "none would do: it takes another --backend"


def require_default(backend: object, layer: Layer, space: BoundSpace) -> None:
    """Makes sure that the default computes the layer, where the kernels do not see to it themselves.

    Raises:
        UserError: it breaks a rule of the space, as the runtime on the GPU would say.
    """
    if not isinstance(backend, DeclaresComputes) or not backend.computes.strict:
        return
    rule = space.broken_rule(space.default)
    if rule is not None:
        raise UserError(
            f"what {space.space.backend} ships is not legal in {space.space.stage} of {layer.model} at"
            f" {layer.parallel}, it breaks {rule.name} ({rule.reason}): choose another --tp or --backend"
        )


def require_computed(backend: object, name: str, layer: Layer) -> None:
    """Makes sure that a backend computes what a layer's model needs, and takes its dimensions.

    Raises:
        UserError: it does not, with the value, its key, what it computes and the remedy.
    """
    needs = layer.needs or PLAIN
    if layer.ep > 1:
        _require_spread(backend, name, layer)
    if not isinstance(backend, DeclaresComputes):
        if needs == PLAIN:
            return
        first = next(refusals(Computes("what it does not say"), needs))
        raise UserError(
            f"{layer.model} needs {first}; backend {name} does not say what it computes: give it an attribute"
            " `computes` (docs/add-a-backend.md)"
        )
    missing = list(refusals(backend.computes, needs))
    if missing:
        raise UserError(
            f"backend {name} does not compute the experts of {layer.model}: they have"
            f" {'; and '.join(missing)}.{_asked(backend, layer, needs)} {_remedy(backend.computes, needs)}"
        )
    require_layout(name, backend.computes, layer)


def _require_spread(backend: object, name: str, layer: Layer) -> None:
    """Refuses expert parallelism where a backend's kernels are not launched as the engine does under it.

    Raises:
        UserError: they are not.
    """
    computes = backend.computes if isinstance(backend, DeclaresComputes) else Computes("")
    reason = computes.spread(layer.tp, layer.ep)
    if reason is None:
        return
    takes = [other for other, theirs in declared() if theirs.spread(layer.tp, layer.ep) is None]
    use = f"use --backend {' or '.join(takes)}, or leave out --ep" if takes else "give other degrees"
    raise UserError(
        f"backend {name} does not compute a layer whose experts are spread with {layer.parallel}: {reason};"
        f" {use}"
    )


def pick_backend(model: Model, usual: str, fits: Callable[[str], bool]) -> tuple[str, list[str]]:
    """The backend for a model's checkpoint where the user names none, and what to say of it.

    It is the usual one where that takes the experts as they are, else the first one that does and fits.

    Args:
        fits: whether a backend is here, and has kernels for the layer and the GPU.

    Raises:
        UserError: no backend takes them.
    """
    needs = model.needs
    if needs is None or needs.scheme is None:
        return usual, []
    takers = [name for name, computes in declared() if not any(refusals(computes, needs))]
    held = f"{needs.scheme} ({needs.scheme.source})" if needs.scheme.source else str(needs.scheme)
    if not takers:
        others = list(refusals(Computes("", (needs.scheme,)), needs))
        raise UserError(
            f"no backend here takes the experts of {model.name} as they are, they have"
            f" {' and '.join([held, *others])}: name one with --backend, and say --requantised if you serve"
            " them in that one's numbers"
        )
    chosen = usual if usual in takers else next(filter(fits, takers), takers[0])
    others = [name for name in takers if name != chosen]
    beside = f"; {' and '.join(others)} would serve them too, --backend names one" if others else ""
    return chosen, [f"{model.name}'s experts are {held}: --backend {chosen} is tuned{beside}."]


def fits(name: str, layer: Layer, device: Device) -> bool:
    """Whether what a backend's kernels are made of is here, and they are for such a layer and GPU."""
    from autotune.protocol.registry import load_backend

    backend = load_backend(name)
    try:
        backend.source_digest()
        require_computed(backend, name, layer)
        backend.space(layer, 1, Stage.STAGE1, device)
    except UserError:
        return False
    return True


def _asked(backend: object, layer: Layer, needs: Needs) -> str:
    remark = backend.looked_for(layer, needs.scheme) if needs.scheme and isinstance(backend, LooksUp) else ""
    return f" {remark}." if remark else ""


def _remedy(computes: Computes, needs: Needs) -> str:
    if any(refusals(computes, replace(needs, scheme=None))):
        return "What would be tuned is not the layer that is served: no backend here is for this model"
    others = [
        other
        for other, theirs in declared()
        if not any(refusals(theirs, needs)) and needs.scheme in theirs.schemes
    ]
    use = f"Use --backend {' or '.join(others)}, or say" if others else "No backend here takes them: say"
    return f"{use} --requantised if you serve the experts in the backend's numbers, not in the checkpoint's"


def declared() -> Iterator[tuple[str, Computes]]:
    """The shipped backends with what they compute."""
    from autotune.protocol.registry import backend_names, load_backend

    for name in backend_names():
        backend = load_backend(name)
        if isinstance(backend, DeclaresComputes):
            yield name, backend.computes
