"""Config: one assignment of a search space, with a canonical key."""

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Final

from autotune.errors import UserError

Value = int | str | bool | None
UNSET: Final = None
"""The value of a knob that is left to the kernel's or the engine's own rule; not its default written out."""
_encode: Final = json.JSONEncoder(separators=(",", ":")).encode  # `json.dumps` would make one each time


def value_text(value: Value) -> str:
    """A value as people read and type it."""
    if value is UNSET:
        return "unset"
    return str(value).lower() if isinstance(value, bool) else str(value)


def parse_value(text: str) -> Value:
    """The value that `value_text` writes as `text`."""
    if text in ("unset", "true", "false"):
        return {"unset": UNSET, "true": True, "false": False}[text]
    try:
        return int(text)
    except ValueError:
        return text


class Config(Mapping[str, Value]):
    """An immutable assignment of knobs; equal when every knob is, whatever their order."""

    __slots__ = ("_values", "key")

    def __init__(self, values: Mapping[str, Value]) -> None:
        self._values = dict(sorted(values.items()))
        self.key: str = _encode(self._values)

    @staticmethod
    @lru_cache(maxsize=10_000)  # many trials of a database have few configs
    def from_key(key: str) -> "Config":
        """The config whose `key` this is."""
        return Config(json.loads(key))

    @classmethod
    def parse(cls, text: str) -> "Config":
        """Reads `tile_k=256,tile_n=64`; `unset` is a value.

        Raises:
            UserError: not of that form, or a knob named twice.
        """
        values: dict[str, Value] = {}
        for part in text.split(","):
            name, equals, value = (piece.strip() for piece in part.partition("="))
            if not (name and equals and value):
                raise UserError(f"--config {text!r}: {part!r} is not of the form knob=value, e.g. tile_k=256")
            if name in values:
                raise UserError(f"--config {text!r} names {name} twice: give it once")
            values[name] = parse_value(value)
        return cls(values)

    def replaced(self, **changes: Value) -> "Config":
        """This config with some knobs changed."""
        return Config({**self._values, **changes})

    def __getitem__(self, name: str) -> Value:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return self.key == other.key if isinstance(other, Config) else NotImplemented

    def __reduce__(self) -> tuple[type["Config"], tuple[dict[str, Value]]]:
        return Config, (self._values,)

    def __str__(self) -> str:
        return ",".join(f"{name}={value_text(value)}" for name, value in self._values.items())

    def __repr__(self) -> str:
        return f"Config({self})"
