"""Plain tables for a terminal or a pipe: the same columns whatever the window's width."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """A column's heading; figures stand to the right."""

    name: str
    right: bool = False


def text_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table: two blanks between columns, no frame, nothing cut off, no column left out."""
    body = [[column.name for column in columns], *rows]
    widths = [max(len(line[place]) for line in body) for place in range(len(columns))]
    lines = []
    for line in body:
        cells = [
            cell.rjust(width) if column.right else cell.ljust(width)
            for cell, width, column in zip(line, widths, columns, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def percent(fraction: float, digits: int = 1) -> str:
    """A signed share, e.g. `+1.6%`; what rounds to nothing has no sign."""
    text = f"{fraction:+.{digits}%}"
    return text.lstrip("+-") if float(text[:-1]) == 0 else text


def duration(seconds: float) -> str:
    """Wall time as people say it: `8 s`, `3 min`, `2 h 5 min`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
