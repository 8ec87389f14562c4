"""Searching a part of a space: the values that a user allows a knob."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from autotune.errors import UserError
from autotune.problem.layer import Stage
from autotune.space.config import Value, parse_value, value_text
from autotune.space.space import BoundSpace, Param


@dataclass(frozen=True)
class Restriction:
    """The only values that a knob may have.

    Attributes:
        stage: where; None: at every stage that has the knob.
    """

    text: str
    stage: Stage | None
    knob: str
    values: tuple[Value, ...]


def parse_restriction(text: str) -> Restriction:
    """Reads `tile_k=256,512` or `stage1:tile_k=256`.

    Raises:
        UserError: not of that form.
    """
    where, colon, rest = text.rpartition(":")
    knob, equals, values = (part.strip() for part in rest.partition("="))
    stage = where.strip()
    parts = [part.strip() for part in values.split(",")]
    if not (knob and equals and all(parts)) or (colon and stage not in list(Stage)):
        raise UserError(
            f"--knob {text!r} is not of the form KNOB=VALUE,VALUE or stage1:KNOB=VALUE: give e.g."
            " tile_k=256,512"
        )
    return Restriction(text, Stage(stage) if colon else None, knob, tuple(map(parse_value, parts)))


def narrowed(
    spaces: Mapping[Stage, BoundSpace],
    restrictions: Sequence[Restriction],
    shape: str,
    *,
    one_config: bool = False,
) -> dict[Stage, BoundSpace]:
    """The parts of a problem's spaces that the restrictions leave.

    Stored results name the whole space, so those of a part count for the whole and the other way round.

    Args:
        one_config: both stages have the same config, so what holds for one holds for both.

    Raises:
        UserError: a knob or value that no space has, a knob restricted twice, or nothing legal is left.
    """
    allowed: dict[Stage, dict[str, Restriction]] = {stage: {} for stage in spaces}
    for restriction in restrictions:
        if one_config and restriction.stage is not None:
            raise UserError(
                f"--knob {restriction.text}: both stages have one config here, so leave out"
                f" {restriction.stage}:"
            )
        for stage in _stages(spaces, restriction):
            if restriction.knob in allowed[stage]:
                raise UserError(
                    f"--knob names {restriction.knob} at {stage} twice: give all its values at once"
                )
            allowed[stage][restriction.knob] = restriction
    parts = {stage: _part(stage, space, allowed[stage]) for stage, space in spaces.items()}
    for stage, part in parts.items():
        if allowed[stage] and part.size == 0:
            raise UserError(
                f"no config of {stage} at {shape} is legal with"
                f" {' '.join(f'--knob {r.text}' for r in allowed[stage].values())}: allow more values;"
                " autotune spaces shows the rules"
            )
    return parts


def _stages(spaces: Mapping[Stage, BoundSpace], restriction: Restriction) -> list[Stage]:
    """The stages that a restriction is about.

    Raises:
        UserError: none of them has the knob.
    """
    wanted = [stage for stage in spaces if restriction.stage in (None, stage)]
    having = [stage for stage in wanted if any(p.name == restriction.knob for p in spaces[stage].params)]
    if not having:
        known = "; ".join(
            f"{stage} has {', '.join(p.name for p in spaces[stage].params)}" for stage in wanted
        )
        raise UserError(f"--knob {restriction.text}: there is no knob {restriction.knob} here: {known}")
    return having


def _part(stage: Stage, space: BoundSpace, allowed: Mapping[str, Restriction]) -> BoundSpace:
    if not allowed:
        return space
    return space.within(
        tuple(_kept(stage, p, allowed[p.name]) if p.name in allowed else p for p in space.params)
    )


def _kept(stage: Stage, param: Param, restriction: Restriction) -> Param:
    """A knob with the values that are allowed, in the space's order.

    Raises:
        UserError: it does not have one of them.
    """
    wanted = {(type(value), value) for value in restriction.values}
    offered = {(type(value), value) for value in param.values}
    for _, value in sorted(wanted - offered, key=str):
        raise UserError(
            f"--knob {restriction.text}: {param.name}={value_text(value)} is not in {stage}'s space: use"
            f" {', '.join(map(value_text, param.values))}"
        )
    return replace(param, values=tuple(value for value in param.values if (type(value), value) in wanted))
