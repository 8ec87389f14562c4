"""Plain tables and lines for a terminal of any width, or for a pipe, which has none."""

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """A column's heading; numbers stand to the right."""

    name: str
    right: bool = False


def terminal_width() -> int | None:
    """Columns of the terminal that is printed to, or what COLUMNS says; None: it goes to a file or pipe."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns) > 0:
        return int(columns)
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or None
    except (OSError, ValueError, AttributeError):
        return None


def text_table(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int | None = None
) -> list[str]:
    """Lines of a table: two blanks between columns, no frame, nothing cut off, no column left out.

    Args:
        width: that no line exceeds: the last column goes under its row then, and where that is not enough
            each row becomes a paragraph that names its columns. None: as wide as it gets.
    """
    lines = _lines(columns, rows)
    if width is None or _fits(lines, width):
        return lines
    heads = _lines(columns[:-1], [row[:-1] for row in rows])
    if _fits(heads, width) and len(columns) > 1:
        under = [wrapped(row[-1], width, indent=2, first=2) if row[-1] else [] for row in rows]
        names = wrapped(columns[-1].name, width, indent=2, first=2)
        return [*(line for head, more in zip(heads, [names, *under], strict=True) for line in (head, *more))]
    paragraphs = []
    for row in rows:
        cells = (f"{column.name} {cell}" for column, cell in zip(columns, row, strict=True) if cell)
        paragraphs += wrapped("; ".join(cells), width, indent=2)
    return paragraphs


def _lines(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> list[str]:
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


def _fits(lines: Sequence[str], width: int) -> bool:
    return all(len(line) <= width for line in lines)


def wrapped(text: str, width: int | None, *, indent: int = 0, first: int = 0) -> list[str]:
    """`text` in lines of at most `width` characters, broken after blanks and commas, else anywhere.

    Args:
        width: None: one line.
        indent: blanks before each line but the first.
        first: blanks before the first.
    """
    if width is None or first + len(text) <= width:
        return [" " * first + text]
    lines, line, begin = [], "", " " * first
    room = max(width - max(indent, first), 1)
    parts = [part for part in re.split(r"(?<=[ ,;|])", text) if part]
    for word in (part[at : at + room] for part in parts for at in range(0, len(part), room)):
        if line and len(begin + line + word.rstrip()) > width:
            lines.append((begin + line).rstrip())
            line, begin = "", " " * indent
        line += word
    return [*lines, (begin + line).rstrip()]
