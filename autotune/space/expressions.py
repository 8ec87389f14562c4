"""Small expressions in search-space files, e.g. `model_dim % (tile_k * split_k) == 0`.

Only arithmetic, comparisons, boolean operators, conditionals and three helpers are allowed, so that a
file from elsewhere cannot run code.
"""

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import CodeType
from typing import Any

_ALLOWED = (
    ast.Expression,
    ast.BoolOp,
    ast.And,
    ast.Or,
    ast.UnaryOp,
    ast.Not,
    ast.USub,
    ast.BinOp,
    ast.Add,
    ast.Sub,
    ast.Mult,
    ast.FloorDiv,
    ast.Mod,
    ast.Compare,
    ast.Eq,
    ast.NotEq,
    ast.Lt,
    ast.LtE,
    ast.Gt,
    ast.GtE,
    ast.In,
    ast.NotIn,
    ast.IfExp,
    ast.Call,
    ast.Name,
    ast.Load,
    ast.Constant,
    ast.Tuple,
    ast.List,
)


def ceil_div(a: int, b: int) -> int:
    """The least whole number that is at least a / b."""
    return -(-a // b)


_HELPERS: dict[str, Any] = {"min": min, "max": max, "ceil_div": ceil_div}


@dataclass(frozen=True)
class Expression:
    """A compiled expression.

    Attributes:
        text: as it stands in the file.
        names: the variables that it reads.
    """

    text: str
    names: frozenset[str]
    _code: CodeType = field(repr=False, compare=False)

    @classmethod
    def parse(cls, text: str) -> "Expression":
        """Compiles `text`.

        Raises:
            ValueError: a syntax error, or something other than the allowed grammar.
        """
        try:
            tree = ast.parse(text, mode="eval")
        except SyntaxError as error:
            raise ValueError(f"{text!r} is not an expression: {error.msg}") from None
        for node in ast.walk(tree):
            if not isinstance(node, _ALLOWED):
                raise ValueError(f"{text!r} may not use {type(node).__name__}")
            if isinstance(node, ast.Call) and not (
                isinstance(node.func, ast.Name) and node.func.id in _HELPERS
            ):
                raise ValueError(f"{text!r} may call {', '.join(_HELPERS)} only")
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} - _HELPERS.keys()
        return cls(text, frozenset(names), compile(tree, "<rule>", "eval"))

    def __call__(self, variables: Mapping[str, Any]) -> Any:
        return eval(self._code, {"__builtins__": {}, **_HELPERS}, variables)
