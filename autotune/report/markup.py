"""HTML as values: what is text is escaped, what is markup is not, and the type tells which is which."""

import re
from collections.abc import Iterable, Sequence
from html import escape, unescape

_NOTHING = ("", "–")
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
            parts.extend(str(item) for item in child)
    return Markup("".join(parts))


def _name(key: str) -> str:
    return key.rstrip("_").replace("_", "-")


def _text(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def table(
    headings: Iterable[str],
    rows: Iterable[Iterable[str | Markup]],
    *,
    caption: str | Markup,
    right: Iterable[int] = (),
    config: int | None = None,
) -> Markup:
    """A table in a region that scrolls by itself, by keyboard too, so that the page never does sideways.

    A column that is empty in every row is left out.

    Args:
        caption: what it shows; read out, and shown above it.
        right: numbers of the columns with numbers.
        config: number of the column with a config, which stands under its row where there is no room.
    """
    heads, body = list(headings), [list(row) for row in rows]
    kept = [i for i in range(len(heads)) if i == 0 or not body or any(row[i] not in _NOTHING for row in body)]
    numbers = frozenset(right)

    def classes(index: int) -> str | None:
        return "n" if index in numbers else "config" if index == config else None

    def cells(kind: str, row: Sequence[str | Markup]) -> list[Markup]:
        return [
            tag(
                "th" if kind == "th" or index == 0 else "td",
                row[index],
                class_=classes(index),
                scope="col" if kind == "th" else "row" if index == 0 else None,
            )
            for index in kept
        ]

    head = tag("thead", tag("tr", cells("th", heads)))
    filled = tag("tbody", [tag("tr", cells("td", row)) for row in body])
    stacked = config is not None and config in kept
    content = tag(
        "table",
        tag("caption", caption),
        head,
        filled,
        class_="stacked" if stacked else None,
        style=f"--columns:{len(kept) - 1}" if stacked else None,
    )
    return tag("div", content, class_="scroll", role="region", tabindex="0", aria_label=_plain(caption))


def _plain(text: str | Markup) -> str:
    return unescape(re.sub("<[^>]*>", "", text)) if isinstance(text, Markup) else text


def details(
    summary: str | Markup, *children: Child, opened: bool = False, class_: str | None = None
) -> Markup:
    """What is there to be opened."""
    return tag("details", tag("summary", summary), *children, open=opened, class_=class_)
