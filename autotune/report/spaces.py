"""Search spaces as a table and as JSON."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from autotune.problem.layer import Problem, Stage
from autotune.space.config import value_text
from autotune.space.space import BoundSpace


def describe(stage: Stage, sized: Sequence[tuple[Problem, BoundSpace]]) -> dict[str, Any]:
    """A stage's space with its sizes, as JSON-ready values.

    Args:
        sized: the space at each problem; at least one.
    """
    first = sized[0][1]
    return {
        "stage": str(stage),
        "generation": first.space.generation,
        "doc": first.space.doc,
        "digest": first.space.digest,
        "knobs": [
            {
                "name": param.name,
                "values": [value_text(value) for value in param.values],
                "doc": param.doc,
            }
            for param in first.params
        ],
        "rules": [
            {"name": rule.name, "require": rule.require.text, "reason": rule.reason}
            for rule in first.space.rules
        ],
        "shapes": [
            {
                "shape": problem.shape,
                "tokens": problem.tokens,
                "legal": bound.size,
                "raw": bound.raw_size,
                "default": str(bound.default),
            }
            for problem, bound in sized
        ],
    }


def print_spaces(described: Sequence[dict[str, Any]], title: str) -> None:
    """Prints what `describe` made, for people."""
    from rich.table import Table

    from autotune.report.console import Console

    console = Console()
    console.print(title, style="bold", highlight=False)
    for space in described:
        console.print(f"\n{space['stage']}: {space['doc']}", highlight=False)
        knobs = Table("knob", "values", "what it does", box=None, header_style="bold")
        for knob in space["knobs"]:
            knobs.add_row(knob["name"], " ".join(knob["values"]), knob["doc"])
        console.print(knobs)
        rules = Table("rule", "requires", "because", box=None, header_style="bold")
        for rule in space["rules"]:
            rules.add_row(rule["name"], rule["require"], rule["reason"])
        console.print(rules)
        sizes = Table("shape", "tokens", "legal", "raw", box=None, header_style="bold")
        for shape in space["shapes"]:
            sizes.add_row(shape["shape"], str(shape["tokens"]), f"{shape['legal']:,}", f"{shape['raw']:,}")
        console.print(sizes)
        for default, shapes in groupby(space["shapes"], key=lambda shape: shape["default"]):
            names = ", ".join(shape["shape"] for shape in shapes)
            console.print(f"default at {names}: {default}", highlight=False)
