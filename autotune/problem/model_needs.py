"""Reads what a model's routed experts compute from the part of a `config.json` that names them."""

import json
from collections.abc import Mapping
from typing import Any

from autotune.errors import UserError
from autotune.problem.arithmetic import Needs, Scheme
from autotune.problem.model_names import ACTIVATION, BIASES, GATED, LIMITS, MODIFIERS, SILU, UNGATED, Family


def needs_of(
    fields: Mapping[str, Any], place: str, where: str, family: Family, scheme: Scheme | None
) -> Needs:
    """What the experts compute: what the file says, else what the family does.

    Args:
        fields: the language model's part of the file.
        place: the file and the part, for errors.
        where: the part, e.g. `text_config.`, for people.
        scheme: how the checkpoint holds the experts.

    Raises:
        UserError: a value has the wrong type, with the file and the key.
    """
    base = family.needs
    values: dict[str, Any] = {
        name: getattr(base, name) for name in ("activation", "gated", "limit", "bias", "weighted_input")
    }
    sources = dict(base.sources)
    named = [key for key in ACTIVATION if fields.get(key) is not None]
    for key in named:
        if not isinstance(fields[key], str):
            raise UserError(
                f"{place}{key} is {shown(fields[key])}, not an activation's name: correct the config.json"
            )
    if named:
        # Of two that differ the one that is not plain: which is the experts' is not known.
        key = next((key for key in named if fields[key].lower() not in SILU), named[0])
        act, plain = fields[key], fields[key].lower() in SILU
        # gpt-oss writes silu and computes clamped SwiGLU; Nemotron-H's experts go by mlp_hidden_act alone.
        others = base.activation.startswith("swiglu with") or (not base.gated and key != "mlp_hidden_act")
        if not (plain and others):
            values["activation"] = "silu" if plain else act
            sources["activation"] = f"{where}{key}={act!r}"
            values["gated"] = act.lower() not in UNGATED
            sources["gated"] = sources["activation"]
    for key in LIMITS:
        limit = _limit(fields, place, key)
        if limit is not None:
            values["limit"], sources["limit"] = (limit or None), f"{where}{key}={shown(fields[key])}"
    alpha = fields.get("swiglu_alpha")
    if alpha is not None and alpha != 1.0:
        values["activation"], sources["activation"] = (
            "swiglu with alpha",
            f"{where}swiglu_alpha={shown(alpha)}",
        )
    for key, value in fields.items():
        known = key in (*LIMITS, "swiglu_alpha") or not MODIFIERS.fullmatch(key)
        if not known and (any(value) if isinstance(value, list) else value):
            values["activation"] = f"{base.activation} with {key}"
            sources["activation"] = f"{where}{key}={shown(value)}"
    for key in GATED:
        if fields.get(key) is False:
            values["gated"], sources["gated"] = False, f"{where}{key}=false"
    for key in BIASES:
        if fields.get(key):
            values["bias"], sources["bias"] = True, f"{where}{key}={shown(fields[key])}"
    for key in ("moe_apply_router_weight_on_input", "apply_router_weight_on_input"):
        if fields.get(key):
            values["weighted_input"] = True
            sources["weighted_input"] = f"{where}{key}={shown(fields[key])}"
    return Needs(**values, scheme=scheme, sources=tuple(sources.items()))


def _limit(fields: Mapping[str, Any], place: str, key: str) -> float | None:
    """A clamp; 0.0: the file says that there is none; None: the file is silent.

    A list has one a layer; the largest stands for all, since any is refused or computed alike.
    """
    value = fields.get(key)
    if value is None:
        return 0.0 if key in fields else None
    limits = value if isinstance(value, list) else [value]
    numbers = [limit or 0.0 for limit in limits]
    if not all(isinstance(n, int | float) and not isinstance(n, bool) and 0 <= n < 1e6 for n in numbers):
        raise UserError(f"{place}{key} is {shown(value)}, not a limit: correct the config.json")
    return float(max(numbers, default=0.0))


def shown(value: Any) -> str:
    """A value of the file as JSON has it, cut where it is long."""
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:56]} …"
