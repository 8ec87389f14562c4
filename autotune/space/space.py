"""Search spaces: parameters, defaults and legality, read from `search_spaces/*/*.toml`.

A `Space` is what a file says. `Space.at(...)` binds it to one layer, token count and device: a
`BoundSpace`, which knows its legal configs.
"""

import random
from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

from autotune.errors import UserError
from autotune.identity import stored_name
from autotune.machine.devices import Device
from autotune.problem.layer import Layer, Stage, gemm_dims
from autotune.space.config import UNSET, Config, Value, value_text
from autotune.space.digest import space_digest
from autotune.space.expressions import Expression


@dataclass(frozen=True)
class Param:
    """One knob.

    Attributes:
        values: what it may be; `None` is "unset".
        default: the config that is used without tuning.
        arch: prefixes of the architectures that have it; empty: all.
        option: the compiler option that must exist for it, or "".
        coupled: its effect reaches beyond its own stage, so the final of a layer tries all its values.
    """

    name: str
    values: tuple[Value, ...]
    default: Value
    doc: str
    arch: tuple[str, ...] = ()
    option: str = ""
    coupled: bool = False

    def offers(self, value: Value) -> bool:
        """Whether it may be that; True == 1 in Python, but they are two values with two keys here."""
        return any(type(value) is type(offered) and value == offered for offered in self.values)


@dataclass(frozen=True)
class Rule:
    """A condition that every legal config meets, with its reason."""

    name: str
    require: Expression
    reason: str


@dataclass(frozen=True)
class Feature:
    """What a model of the space sees of a config besides its knobs: a positive size, taken by its logarithm.

    Knobs act together: bytes in flight are tile times depth. A model that is told so need not find it out.
    """

    name: str
    size: Expression
    doc: str


@dataclass(frozen=True)
class Override:
    """Defaults that hold under a condition on the problem or device."""

    when: Expression
    values: Mapping[str, Value]


@dataclass(frozen=True)
class Space:
    """A search-space file.

    Attributes:
        stored_as: the name by which stored results know it, where it is no file's; "": its digest.
    """

    backend: str
    generation: str
    stage: Stage
    doc: str
    params: tuple[Param, ...]
    rules: tuple[Rule, ...]
    overrides: tuple[Override, ...]
    features: tuple[Feature, ...] = ()
    stored_as: str = ""

    @cached_property
    def digest(self) -> str:
        """By which stored results name the space that they belong to."""
        return self.stored_as or stored_name(space_digest(self))

    def at(
        self, layer: Layer, tokens: int, device: Device, options: frozenset[str] | None = None
    ) -> "BoundSpace":
        """The space of one problem on one device.

        Args:
            tokens: tokens that the layer sees.
            options: options that the installed compiler knows; None: all.
        """
        params = tuple(
            param
            for param in self.params
            if (not param.arch or device.arch.startswith(param.arch))
            and (not param.option or options is None or param.option in options)
        )
        variables: dict[str, Any] = {
            "unset": UNSET,
            **_dims(layer, self.stage),
            "tokens": tokens,
            "arch": device.arch,
            "lds_bytes": device.lds_bytes,
            "wave_size": device.wave_size,
            # A knob that this device does not have is unset in the rules that mention it.
            **{param.name: UNSET for param in self.params},
        }
        return BoundSpace(self, params, variables)


class BoundSpace:
    """A space at one layer, token count and device.

    Attributes:
        whole: the space that this one is a part of; itself where it is no part.
    """

    def __init__(
        self,
        space: Space,
        params: tuple[Param, ...],
        variables: Mapping[str, Any],
        whole: "BoundSpace | None" = None,
    ) -> None:
        self.space = space
        self.params = params
        self.whole = whole or self
        self._variables = variables
        # A rule is decided as soon as the last knob that it names is: illegal branches are never entered.
        order = {param.name: index for index, param in enumerate(params)}
        self._rules = [(rule, _Remembered(rule.require, variables, order)) for rule in space.rules]
        self._features = [_Remembered(feature.size, variables, order) for feature in space.features]
        self._decided: list[list[_Remembered]] = [[] for _ in range(len(params) + 1)]
        for rule, holds in self._rules:
            last = max((order[name] + 1 for name in rule.require.names if name in order), default=0)
            self._decided[last].append(holds)

    def within(self, params: tuple[Param, ...]) -> "BoundSpace":
        """The same space with fewer values: `params` are its own, some of them narrowed.

        Its default is the whole space's, which may lie outside.
        """
        return BoundSpace(self.space, params, self._variables, self.whole)

    def of(self, layer: Layer) -> "BoundSpace":
        """The same knobs at another layer, for its features."""
        return BoundSpace(self.space, self.params, {**self._variables, **_dims(layer, self.space.stage)})

    @property
    def tokens(self) -> int:
        """Tokens that the layer sees."""
        return int(self._variables["tokens"])

    @property
    def columns(self) -> int:
        """Output columns that are computed, of all tokens and their experts: what there is to share out."""
        return int(self._variables["tokens"] * self._variables["top_k"] * self._variables["n"])

    @cached_property
    def default(self) -> Config:
        """The default for this problem."""
        values = {param.name: param.default for param in self.params}
        for override in self.space.overrides:
            if override.when(self._variables):
                values.update({k: v for k, v in override.values.items() if k in values})
                break
        return Config(values)

    def broken_rule(self, config: Config) -> Rule | None:
        """The first rule that `config` breaks; None when it is legal.

        Raises:
            UserError: the config names a knob or value that the space does not have, or lacks one.
        """
        where = f"{self.space.backend} {self.space.stage}"
        for param in self.params:
            if param.name not in config:
                raise UserError(f"the config lacks {param.name}, a knob of {where}: add {param.name}=…")
            if not param.offers(config[param.name]):
                offered = ", ".join(value_text(v) for v in param.values)
                raise UserError(
                    f"{param.name}={value_text(config[param.name])} is not in the {where} space:"
                    f" use one of {offered}"
                )
        unknown = sorted(config.keys() - {param.name for param in self.params})
        if unknown:
            known = ", ".join(param.name for param in self.params)
            raise UserError(f"{where} has no knob {unknown[0]} on this device: it has {known}")
        return next((rule for rule, holds in self._rules if not holds(config)), None)

    def features(self, config: Mapping[str, Value]) -> list[float]:
        """The sizes of the space's features, in its order."""
        return [float(size(config)) for size in self._features]

    def is_legal(self, config: Config) -> bool:
        """Whether `config` is of this space; of a part, what the rest of the whole space has is not.

        Raises:
            UserError: the config names a knob or value that the whole space does not have, or lacks one.
        """
        if self.whole is not self and not all(
            param.offers(config[param.name]) for param in self.params if param.name in config
        ):
            return False
        return self.broken_rule(config) is None

    def complete(self, partial: Mapping[str, Value]) -> Config:
        """`partial` with the default for every knob that it leaves out."""
        return Config({**self.default, **partial})

    def named(self, text: str) -> Config:
        """The config that a user names, legal or not: `default`, or knobs over it, `tile_k=256,tile_n=64`.

        Raises:
            UserError: not of that form.
        """
        return self.default if text == "default" else self.complete(Config.parse(text))

    def has_configs_of(self, other: "BoundSpace") -> bool:
        """Whether both have the same legal configs, as rules tell one by one; where not, they still might.

        Rules that read nothing in which the two differ need no look, and those that do name few knobs.
        """
        if (self.space, self.params, self.whole.params) != (other.space, other.params, other.whole.params):
            return False
        unlike = {name for name, value in self._variables.items() if other._variables.get(name) != value}
        for (rule, here), (_, there) in zip(self._rules, other._rules, strict=True):
            named = [param for param in self.params if param.name in rule.require.names]
            for values in product(*[param.values for param in named]) if rule.require.names & unlike else ():
                config = dict(zip([param.name for param in named], values, strict=True))
                if bool(here(config)) != bool(there(config)):
                    return False
        return True

    @cached_property
    def raw_size(self) -> int:
        """Assignments, legal or not."""
        size = 1
        for param in self.params:
            size *= len(param.values)
        return size

    @cached_property
    def size(self) -> int:
        """Legal configs."""
        return self._count(0, dict(self._variables))

    def _count(self, depth: int, variables: dict[str, Any]) -> int:
        """Legal configs whose first `depth` knobs are as in `variables`.

        How many there are depends on the knobs that a later rule names: each such case is counted once.
        """
        if not all(holds(variables) for holds in self._decided[depth]):
            return 0
        if depth == len(self.params):
            return 1
        case = (depth, *[variables[name] for name in self._named_later[depth]])
        if case not in self._counts:
            param, count = self.params[depth], 0
            for value in param.values:
                variables[param.name] = value
                count += self._count(depth + 1, variables)
            self._counts[case] = count  # whole: other threads count as well
        return self._counts[case]

    @cached_property
    def _counts(self) -> dict[tuple[Value, ...], int]:
        return {}

    @cached_property
    def _named_later(self) -> list[list[str]]:
        """By depth: the knobs before it that rules name which are decided after it."""
        names = [param.name for param in self.params]
        later = [
            set().union(*[h.names for at in self._decided[d + 1 :] for h in at]) for d in range(len(names))
        ]
        return [[name for name in names[:depth] if name in named] for depth, named in enumerate(later)]

    def _at(self, places: Sequence[int], depth: int, variables: dict[str, Any]) -> Iterator[Config]:
        """Those at some places, ascending, of the legal configs with `variables` for their first knobs."""
        if depth == len(self.params):
            yield Config({param.name: variables[param.name] for param in self.params})
            return
        param, first, passed = self.params[depth], 0, 0
        for value in param.values:
            variables[param.name] = value
            count = self._count(depth + 1, variables)
            last = bisect_left(places, passed + count, first)
            if last > first:
                yield from self._at([place - passed for place in places[first:last]], depth + 1, variables)
            first, passed = last, passed + count

    def __iter__(self) -> Iterator[Config]:
        """Every legal config, in the order of the file."""
        names = [param.name for param in self.params]
        for variables in self._walk(0, dict(self._variables)):
            yield Config({name: variables[name] for name in names})

    def _walk(
        self, depth: int, variables: dict[str, Any], rng: random.Random | None = None
    ) -> Iterator[dict[str, Any]]:
        """Legal assignments that begin with the first `depth` knobs' values; with `rng` in random order."""
        if not all(holds(variables) for holds in self._decided[depth]):
            return
        if depth == len(self.params):
            yield variables
            return
        param = self.params[depth]
        before = variables[param.name]
        for value in param.values if rng is None else rng.sample(param.values, len(param.values)):
            variables[param.name] = value
            yield from self._walk(depth + 1, variables, rng)
        variables[param.name] = before

    def neighbours(self, config: Config) -> list[Config]:
        """Legal configs that differ from `config` in one knob."""
        near = (
            config.replaced(**{param.name: value})
            for param in self.params
            for value in param.values
            if value != config[param.name]
        )
        return [other for other in near if self.is_legal(other)]

    def draw(self, rng: random.Random, count: int) -> list[Config]:
        """So many different legal configs, all equally likely, in the order of the file.

        Raises:
            ValueError: the space has fewer.
        """
        return list(self._at(sorted(rng.sample(range(self.size), count)), 0, dict(self._variables)))

    def sample(self, rng: random.Random) -> Config:
        """A legal config, at random: every one can come up.

        Uniform as long as a few hundred draws from the raw space hit a legal one. Where legal configs are
        rarer, a descent with random turns, which favours configs whose early knobs leave few choices.

        Raises:
            ValueError: no config is legal.
        """
        for _ in range(300):
            config = Config({param.name: rng.choice(param.values) for param in self.params})
            if self.is_legal(config):
                return config
        drawn = next(self._walk(0, dict(self._variables), rng), None)
        if drawn is None:
            raise ValueError(f"no {self.space.backend} {self.space.stage} config is legal here")
        return Config({param.name: drawn[param.name] for param in self.params})


class _Remembered:
    """An expression at one problem, worked out once for each assignment of the knobs that it names.

    A space is walked and drawn from by the ten thousands, and a rule names a few knobs of ten.
    """

    def __init__(self, expression: Expression, variables: Mapping[str, Any], knobs: Collection[str]) -> None:
        self._expression, self._variables = expression, variables
        self.names = tuple(expression.names & set(knobs))
        self._known: dict[tuple[Value, ...], Any] = {}

    def __call__(self, config: Mapping[str, Any]) -> Any:
        # 1 and True share an entry: no expression can tell them apart.
        key = tuple([config[name] for name in self.names])
        if key not in self._known:
            knobs = dict(zip(self.names, key, strict=True))
            self._known[key] = self._expression({**self._variables, **knobs})
        return self._known[key]


def _dims(layer: Layer, stage: Stage) -> dict[str, int]:
    """What rules and features see of a layer."""
    n, k = gemm_dims(layer, stage)
    dims = {"model_dim": layer.model_dim, "inter_dim": layer.inter_dim}
    return {**dims, "experts": layer.experts, "top_k": layer.top_k, "n": n, "k": k}
