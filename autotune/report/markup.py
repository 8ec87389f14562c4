"""HTML as values: what is text is escaped, what is markup is not, and the type tells which is which."""

from collections.abc import Iterable
from html import escape

_VOID = frozenset({"meta", "br", "line", "path", "rect", "circle"})


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


Child = str | Markup | Iterable[Markup] | None


def tag(name: str, /, *children: Child, **attributes: str | float | bool | None) -> Markup:
    """An element.

    Args:
        children: text is escaped; None is left out.
        attributes: `class_` stands for `class`, an underscore within a name for a hyphen; True is a bare
            attribute, None and False leave it out.
    """
    named = "".join(
        f" {_name(key)}" if value is True else f' {_name(key)}="{escape(_text(value))}"'
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if name in _VOID and not children:
        return Markup(f"<{name}{named}>" if name in ("meta", "br") else f"<{name}{named}/>")
    return Markup(f"<{name}{named}>{join(*children)}</{name}>")


def join(*children: Child) -> Markup:
    """Children one after the other."""
    parts = []
    for child in children:
        if child is None:
            continue
        if isinstance(child, Markup):
            parts.append(str(child))
        elif isinstance(child, str):
            parts.append(escape(child, quote=False))
        else:
            parts.extend(str(one) for one in child)
    return Markup("".join(parts))


def _name(key: str) -> str:
    return key.rstrip("_").replace("_", "-")


def _text(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def table(
    headings: Iterable[str],
    rows: Iterable[Iterable[str | Markup]],
    *,
    caption: str,
    right: Iterable[int] = (),
) -> Markup:
    """A table in a region that scrolls by itself, by keyboard too, so that the page never does sideways.

    Args:
        caption: what it shows; read out, and shown above it.
        right: numbers of the columns with figures.
    """
    figures = frozenset(right)

    def cells(kind: str, row: Iterable[str | Markup]) -> list[Markup]:
        return [
            tag(
                "th" if kind == "th" or index == 0 else "td",
                cell,
                class_="n" if index in figures else None,
                scope="col" if kind == "th" else "row" if index == 0 else None,
            )
            for index, cell in enumerate(row)
        ]

    head = tag("thead", tag("tr", cells("th", headings)))
    body = tag("tbody", [tag("tr", cells("td", row)) for row in rows])
    content = tag("table", tag("caption", caption), head, body)
    return tag("div", content, class_="scroll", role="region", tabindex="0", aria_label=caption)


def details(summary: str, *children: Child, opened: bool = False) -> Markup:
    """What is there to be opened."""
    return tag("details", tag("summary", summary), *children, open=opened)
