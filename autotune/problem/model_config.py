"""Reads the MoE layer out of a Hugging Face `config.json`, whatever its family calls the numbers.

What is written twice must agree, a list must hold one value, and what no layer here can be (two widths, zero
experts, one expert) is refused by its name, never guessed.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from autotune.errors import UserError
from autotune.problem.arithmetic import PLAIN
from autotune.problem.model_names import (
    ACTIVATION,
    BIASES,
    DENSE_WIDTH,
    DEPTH,
    EXPERTS,
    FAMILIES,
    HIDDEN,
    INLINE,
    LIMITS,
    MODIFIERS,
    MOST,
    NESTED,
    OFF,
    QUANTISATION,
    ROUTED_HIDDEN,
    SHARED,
    SHARED_WIDTH,
    TOP_K,
    WIDTH,
    ZERO,
    Family,
)
from autotune.problem.model_needs import needs_of, shown
from autotune.problem.quantisation_config import read_scheme
from autotune.quantities import is_number
from autotune.text import why


def read_layer(path: Path) -> dict[str, Any]:
    """The MoE layer of a `config.json`, of the language model's part in a multimodal one.

    Returns:
        The fields of `autotune.problem.models.Model`.

    Raises:
        UserError: the file cannot be read, is of a dense model, contradicts itself, or holds what no layer
            here is; with the file and the key.
    """
    raw = _json(path)
    where, fields = _language_model(raw, path)
    reader = _Reader(path, where, fields)
    family_name = str(fields.get("model_type") or raw.get("model_type") or "")
    family = FAMILIES.get(family_name) or FAMILIES.get(str(raw.get("model_type") or "")) or Family()
    if family.unlike:
        raise UserError(
            f"{path} is of {family_name}, where {family.unlike}, as no layer here does: it cannot be tuned"
        )
    experts, top_k = reader.experts(), reader.top_k()
    width = reader.width(family)
    hidden = reader.required("hidden", HIDDEN, "an MoE layer's hidden size")
    routed, _ = reader.optional("hidden", ROUTED_HIDDEN)
    if top_k > experts:
        raise UserError(f"{path} routes a token to {top_k} of {experts} experts: correct the config.json")
    quantised = reader.quantisation(raw)
    scheme = read_scheme(quantised, path, reader.layers()) if quantised else None
    needs = needs_of(fields, f"{path}: {where}", where, family, scheme)
    named = (raw.get("_name_or_path"), raw.get("model_type"), path.resolve().parent.name)
    shared = 0 if routed and routed != hidden else reader.shared(width, family)
    return {
        "name": next((name for name in map(_name, named) if name), "model"),
        "model_dim": routed or hidden,
        "moe_intermediate": width,
        "experts": experts,
        "top_k": top_k,
        "shared_experts": shared,
        "needs": None if needs == PLAIN else needs,
        "family": family_name,
    }


def _name(named: Any) -> str:
    """The last part of a model's name, in letters that no file, shell or terminal takes amiss; "": none."""
    last = named.strip().rstrip("/").rsplit("/", 1)[-1] if isinstance(named, str) else ""
    return re.sub(r"[^a-z0-9._-]+", "-", last.lower()[:80]).strip("-")


def _json(path: Path) -> dict[str, Any]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_once)
        json.dumps(raw, ensure_ascii=False).encode()  # half a character can be printed nowhere
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"cannot read {path} as JSON ({why(error)}): give the model's config.json") from error
    if not isinstance(raw, dict):
        raise UserError(f"{path} is not a JSON object: give the model's config.json")
    return raw


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys stand in it once, or twice with one value."""
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values and values[key] != value:
            raise ValueError(f"{key} is both {shown(values[key])} and {shown(value)}")
        values[key] = value
    return values


def _language_model(raw: dict[str, Any], path: Path) -> tuple[str, dict[str, Any]]:
    """The part of a file that names experts, the outermost first, and its place in it."""
    level = [("", raw)]
    for _ in range(4):
        holding = [(where, _flat(part, path, where)) for where, part in level]
        holding = [
            (where, part) for where, part in holding if any(part.get(key) is not None for key in EXPERTS)
        ]
        if len(holding) > 1 and any(part != holding[0][1] for _, part in holding):
            places = " and ".join(where.rstrip(".") or "the top" for where, _ in holding)
            raise UserError(
                f"{path} has two language models with experts, in {places}: give the config.json of one"
            )
        if holding:
            _require_agreement(holding[0], path)
            return holding[0]
        level = [
            (f"{where}{key}.", part[key])
            for where, part in level
            for key in NESTED
            if isinstance(part.get(key), dict)
        ]
    raise UserError(f"{path} {_why_dense(raw)}")


def _require_agreement(chosen: tuple[str, dict[str, Any]], path: Path) -> None:
    """What a part says again further in must be the same."""
    where, part = chosen
    for nested in NESTED:
        inner = part.get(nested)
        if not isinstance(inner, dict):
            continue
        hidden = HIDDEN if any(inner.get(key) is not None for key in EXPERTS) else ()
        for key in (*EXPERTS, *TOP_K, *WIDTH, *hidden):
            mine, its = part.get(key), inner.get(key)
            if None not in (mine, its) and mine != its:
                raise UserError(
                    f"{path} has {where}{key}={shown(mine)} and {where}{nested}.{key}={shown(its)}:"
                    " correct one, or give the config.json of one"
                )


_IN_GROUPS: Final = frozenset((
    *(*EXPERTS, *TOP_K, *WIDTH, *SHARED, *SHARED_WIDTH),
    *(*ACTIVATION, *LIMITS, *BIASES),
))  # fmt: skip


def _flat(part: dict[str, Any], path: Path, where: str) -> dict[str, Any]:
    """With the keys of what DBRX and others group by themselves."""
    flat = dict(part)
    for group in INLINE:
        inner = part.get(group)
        if not isinstance(inner, dict):
            continue
        for key, value in inner.items():
            # In such a group the width is the experts', whatever the dense layers' is called.
            if key == "ffn_hidden_size":
                key = "moe_intermediate_size"
            if key == "ffn_act_fn" and isinstance(value, dict):
                value = value.get("name")
            if value is not None and (key in _IN_GROUPS or MODIFIERS.fullmatch(key)):
                if flat.get(key) not in (None, value):
                    raise UserError(
                        f"{path} has {where}{key}={flat[key]!r} and {where}{group}.{key}={value!r}:"
                        " correct one"
                    )
                flat[key] = value
    return flat


def _why_dense(raw: Mapping[str, Any]) -> str:
    seen = sorted({key for key in _keys(raw) if re.search(r"expert|(^|_)moe(_|$)", key)})
    off = next(_off(raw), None)
    if off:
        return f"is of a dense model: {off}"
    if "block_configs" in raw:
        return "gives every layer a shape of its own (block_configs): no one layer stands for the model"
    place = next(_places(raw, ""), None)
    if place:
        return (
            f"names experts in {place}, where no language model is known to stand: give a copy of that"
            " part as a file of its own"
        )
    if seen:
        return (
            f"names no number of experts that is known here (it has {', '.join(seen[:4])}): known are"
            f" {', '.join(EXPERTS)}; add one of them to a copy of the file"
        )
    return f"is not an MoE model's config.json: it has none of {', '.join(EXPERTS)}"


def _off(part: Any) -> Iterator[str]:
    """Keys that say that there are no experts, with what they say."""
    if isinstance(part, dict):
        for key, value in part.items():
            if (key in OFF and value is False) or (key in EXPERTS and value is None):
                yield f"{key} is {shown(value)}"
            elif not key.startswith(("vision", "audio", "talker")):
                yield from _off(value)


def _places(part: Any, where: str) -> Iterator[str]:
    """Parts that name experts, wherever they stand."""
    for key, value in part.items() if isinstance(part, dict) else ():
        if isinstance(value, dict) and not key.startswith(("vision", "audio", "talker")):
            if any(value.get(name) is not None for name in EXPERTS):
                yield f"{where}{key}"
            yield from _places(value, f"{where}{key}.")


def _keys(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        for key, value in part.items():
            if value is not None and not key.startswith(("output_", "vision", "audio")):
                yield key
                yield from _keys(value)


class _Reader:
    """Numbers of one part of a file.

    Attributes:
        where: the part's place, e.g. `text_config.`.
    """

    def __init__(self, path: Path, where: str, fields: Mapping[str, Any]) -> None:
        self.path, self.where, self.fields = path, where, fields

    def optional(self, role: str, names: Mapping[str, str]) -> tuple[int | None, str]:
        """The one number that a role's names have, with its key.

        Raises:
            UserError: it is none, or two names have two numbers.
        """
        read = {key: self._number(role, key) for key in names if self.fields.get(key) is not None}
        if len(set(read.values())) > 1:
            both = " and ".join(f"{self.where}{key}={value}" for key, value in read.items())
            raise UserError(f"{self.path} has {both}, which should be the same: correct the config.json")
        key = next(iter(read), "")
        return (read[key] if key else None), key

    def required(self, role: str, names: Mapping[str, str], what: str) -> int:
        """The same where it must not be missing."""
        value, _ = self.optional(role, names)
        if value is None:
            raise UserError(
                f"{self.path} names experts, but lacks {what} ({' or '.join(names)}):"
                " complete the config.json"
            )
        return value

    def experts(self) -> int:
        """Routed experts.

        Raises:
            UserError: one or none (a dense model), or some of them compute nothing.
        """
        for key in OFF:
            if self.fields.get(key) is False:
                raise UserError(f"{self.path} is of a dense model: {self.where}{key} is false")
        experts = self.required("experts", EXPERTS, "the number of experts")
        if experts < 2:
            key = self.optional("experts", EXPERTS)[1]
            raise UserError(
                f"{self.path} is of a dense model: {self.where}{key} is {experts}, with nothing to route"
            )
        for zero in filter(ZERO.fullmatch, self.fields):
            values = self.fields[zero]
            if not (any(values) if isinstance(values, list) else values and self._count(zero)):
                continue
            top_k, name = self.optional("top_k", TOP_K)
            width, _ = self.optional("width", WIDTH)
            raise UserError(
                f"{self.path} has zero experts, which compute nothing, beside its {experts} of width {width}"
                f" ({zero}={shown(values)}): {name}={top_k} counts both, so a token visits fewer real"
                " experts, as no routing here does; such a layer cannot be tuned"
            )
        return experts

    def top_k(self) -> int:
        """Routed experts per token."""
        return self.required("top_k", TOP_K, "the experts per token")

    def width(self, family: Family) -> int:
        """An expert's intermediate size before it is split."""
        width, _ = self.optional("width", WIDTH)
        if width is not None:
            return width
        names = dict(WIDTH)
        # A dense layer's width is an expert's where the family has no other, never in DeepSeek's heirs.
        if family.dense_width or self.fields.get("n_routed_experts") is None:
            key = next((key for key in DENSE_WIDTH if self.fields.get(key) is not None), "intermediate_size")
            names[key] = DENSE_WIDTH[key]
        return self.required("width", names, "an expert's intermediate size")

    def shared(self, width: int, family: Family) -> int:
        """Shared experts, counted in widths of a routed one: one of twice the width is two."""
        count = max((self._count(key) for key in SHARED), default=0)
        for key in SHARED_WIDTH:
            total = self._count(key)
            if total:
                return total // width if total % width == 0 else 0
        return count or family.shared

    def layers(self) -> Sequence[int]:
        """Some that have experts, the odd ones where every second has."""
        depth = next((n for key in DEPTH if is_number(n := self.fields.get(key))), 12)
        dense = self.fields.get("first_k_dense_replace")
        first = 3 if not is_number(dense) or dense < 3 else int(dense)
        return range(first, min(int(depth), first + 200), 8) or (3, 11)

    def quantisation(self, raw: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """The checkpoint's quantisation, at the top, beside the layer, or in ModelOpt's own file."""
        for part in (self.fields, raw):
            for key in QUANTISATION:
                value = part.get(key)
                if value is not None and not isinstance(value, dict):
                    raise UserError(f"{self.path}: {key} is {shown(value)}, not an object: correct the file")
                if value:
                    return dict(value)
        beside = self.path.with_name("hf_quant_config.json")
        if beside.is_file():
            inner = _json(beside).get("quantization")
            return {"quant_method": "modelopt", **inner} if isinstance(inner, dict) else None
        return None

    def _number(self, role: str, key: str) -> int:
        value = self.fields[key]
        if isinstance(value, list):
            value = self._uniform(key, value)
        if key in EXPERTS and value == 0 and not isinstance(value, bool | float):
            raise UserError(f"{self.path} is of a dense model: {self.where}{key} is 0")
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST[role]:
            raise UserError(
                f"{self.path}: {self.where}{key} is {shown(value)}, not a whole number of 1 to {MOST[role]}:"
                " correct the config.json"
            )
        return value

    def _uniform(self, key: str, values: Sequence[Any]) -> Any:
        different = [value for value in values if value != values[0] or type(value) is not type(values[0])]
        if not values or different:
            layers = self.fields.get("num_hidden_layers")
            what = "layers unlike" if len(values) in (layers, 0) or len(values) > 4 else "two groups of"
            raise UserError(
                f"{self.path} has {what} experts: {self.where}{key} is {shown(list(values))}, and one tuned"
                " layer cannot stand for all; give a copy of the file with the value of those to tune"
            )
        return values[0]

    def _count(self, key: str) -> int:
        """A number that may be 0 or missing."""
        value = self.fields.get(key)
        if isinstance(value, list):
            value = self._uniform(key, value)
        if value is None:
            return 0
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST["width"]:
            raise UserError(
                f"{self.path}: {self.where}{key} is {shown(value)}, not a whole number:"
                " correct the config.json"
            )
        return value
