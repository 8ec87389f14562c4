"""Charts as HTML and SVG that stretch with the page. Text is HTML and keeps its size at any width.

Marks are told apart by shape and by colour of Okabe and Ito's palette, which the colour-blind can tell apart.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autotune.report.axis import Axis, around, focus, label
from autotune.report.effects import Effect, HeatMap
from autotune.report.markup import Markup, join, tag
from autotune.space.config import Value, value_text
from autotune.statistics import Interval

_PALEST = 2.0  # times the fastest: the palest shade of a heat map


def _percent(value: float) -> str:
    return f"{value:.2f}%"


@dataclass(frozen=True)
class Mark:
    """A line of an interval chart.

    Attributes:
        name: of the colour and shape: `default`, `published`, `winner`, `candidate`.
        note: stands behind the time.
    """

    name: str
    text: str
    us: Interval
    note: str = ""


def interval_chart(marks: Sequence[Mark], title: str) -> Markup:
    """Times with their intervals, one below the other, on an axis that does not begin at zero."""
    axis = around([value for mark in marks for value in (mark.us.low, mark.us.high)])
    rows = [
        tag(
            "div",
            tag("span", mark.text, class_="who"),
            tag("span", *_track(axis, mark), class_="track"),
            tag("span", f"{mark.us.value:.2f} µs", tag("small", mark.note), class_="figure"),
            class_=f"row {mark.name}",
        )
        for mark in marks
    ]
    scale = tag(
        "div",
        tag("span", class_="who"),
        tag("span", _ticks(axis), class_="track scale"),
        tag("span", class_="figure"),
        class_="row",
        aria_hidden="true",
    )
    return tag("figure", tag("figcaption", title), *rows, scale, class_="intervals")


def _track(axis: Axis, mark: Mark) -> list[Markup]:
    low, high = axis.place(mark.us.low), axis.place(mark.us.high)
    marks = []
    if high > low:
        marks.append(tag("i", class_="bar", style=f"left:{_percent(low)};width:{_percent(high - low)}"))
    marks.append(tag("i", class_="dot", style=f"left:{_percent(axis.place(mark.us.value))}"))
    return marks


def _ticks(axis: Axis) -> Markup:
    return join([tag("b", label(value), style=f"left:{_percent(axis.place(value))}") for value in axis.ticks])


@dataclass(frozen=True)
class Dots:
    """Points of one meaning.

    Attributes:
        name: of the colour.
    """

    name: str
    text: str
    points: Sequence[tuple[float, float]]


def scatter(
    groups: Sequence[Dots],
    line: Sequence[tuple[float, float]],
    failed: Sequence[float],
    *,
    levels: Mapping[str, float],
    title: str,
    x_text: str,
    y_text: str,
) -> Markup:
    """Points over an order, with the fastest so far as a line.

    Ticks on the floor are what failed, ticks at the ceiling what is slower than the range that matters.

    Args:
        levels: horizontal lines by name; the name is the colour's. One that would squeeze the range is told
            in the key alone.
    """
    points = [point for group in groups for point in group.points]
    ys = [y for _, y in points]
    fixed = [y for name, y in levels.items() if name == "default"]
    y_axis = focus(ys, fixed)
    span = y_axis.high - y_axis.low
    drawn = {name: y for name, y in levels.items() if y_axis.low - span / 2 <= y <= y_axis.high}
    y_axis = focus(ys, [*fixed, *drawn.values()])
    slower = [(x, y) for x, y in points if y > y_axis.high]
    x_axis = Axis(-0.5, max([x for x, _ in points] + list(failed)) + 0.5)

    def at(x: float, y: float) -> str:
        return f"{10 * x_axis.place(x):.0f} {10 * (100 - y_axis.place(y)):.0f}"

    parts = [
        tag(
            "line",
            x1=0,
            x2=1000,
            y1=round(10 * (100 - y_axis.place(y))),
            y2=round(10 * (100 - y_axis.place(y))),
            class_=f"level {name}",
        )
        for name, y in drawn.items()
    ]
    if failed:
        ticks = "".join(f"M{10 * x_axis.place(x):.0f} 1000v-22" for x in failed)
        parts.append(tag("path", d=ticks, class_="failed"))
    if slower:
        ticks = "".join(f"M{10 * x_axis.place(x):.0f} 0v22" for x, _ in slower)
        parts.append(tag("path", d=ticks, class_="slower"))
    # A path of points without length: round ends draw a dot in some twelve bytes a trial.
    parts += [
        tag("path", d="".join(f"M{at(x, y)}h0" for x, y in inside), class_=f"dots {group.name}")
        for group in groups
        if (inside := [(x, y) for x, y in group.points if y <= y_axis.high])
    ]
    if line:
        steps, last = [f"M{at(*line[0])}"], line[0][1]
        for x, y in line[1:]:
            steps.append(f"L{at(x, last)}L{at(x, y)}" if y != last else f"L{at(x, y)}")
            last = y
        parts.append(tag("path", d="".join(steps), class_="best"))
    svg = tag("svg", parts, viewBox="0 0 1000 1000", preserveAspectRatio="none", role="img", aria_label=title)
    y_ticks = [
        tag("b", label(value), style=f"bottom:{_percent(y_axis.place(value))}") for value in y_axis.ticks
    ]
    x_ticks = [
        tag("b", label(value), style=f"left:{_percent(x_axis.place(value))}")
        for value in x_axis.ticks
        if value >= 0
    ]
    keys = [tag("span", tag("i", class_=f"key-dot {g.name}"), g.text) for g in groups if g.points]
    keys += [
        tag(
            "span",
            tag("i", class_=f"key-line {name}") if name in drawn else None,
            f"{name} {y:.2f} µs" + ("" if name in drawn else ", outside the axis"),
        )
        for name, y in levels.items()
    ]
    keys.append(tag("span", tag("i", class_="key-line best"), "fastest so far"))
    if slower:
        text = f"slower than the axis shows: {len(slower):,}, up to {max(y for _, y in slower):.2f} µs"
        keys.append(tag("span", tag("i", class_="key-line slower"), text))
    if failed:
        keys.append(tag("span", tag("i", class_="key-line failed"), f"failed: {len(failed):,}"))
    return tag(
        "figure",
        tag("figcaption", title),
        tag(
            "div",
            tag("div", y_ticks, class_="y-scale", aria_hidden="true"),
            tag("div", svg, class_="canvas"),
            tag("div", x_ticks, class_="x-scale", aria_hidden="true"),
            class_="plot",
        ),
        tag("p", f"{y_text} over {x_text}. ", class_="key"),
        tag("p", keys, class_="key"),
        class_="progress",
    )


@dataclass(frozen=True)
class Bar:
    """A line of a bar chart.

    Attributes:
        name: of the colour.
        share: 0 to 1.
    """

    name: str
    text: str | Markup
    share: float
    note: str = ""


def bar_chart(bars: Sequence[Bar], title: str) -> Markup:
    """Shares of a whole, from nothing to all of it."""
    rows = [
        tag(
            "div",
            tag("span", bar.text, class_="who"),
            tag("span", tag("i", class_="fill", style=f"width:{_percent(100 * bar.share)}"), class_="track"),
            tag("span", f"{bar.share:.0%}", tag("small", bar.note), class_="figure"),
            class_=f"row {bar.name}",
        )
        for bar in bars
    ]
    return tag("figure", tag("figcaption", title), *rows, class_="bars")


def importance_chart(effects: Sequence[Effect], title: str) -> Markup:
    """Bars of the knobs' shares; those that round to nothing are named in a line."""
    seen = [effect for effect in effects if round(100 * effect.share) > 0]
    unseen = ", ".join(effect.knob for effect in effects if effect not in seen)
    return join(
        bar_chart([Bar("winner", tag("code", effect.knob), effect.share) for effect in seen], title)
        if seen
        else None,
        tag("p", f"Not distinguishable from chance: {unseen}.", class_="note") if unseen else None,
    )


def heat_map(heat: HeatMap) -> Markup:
    """A table whose cells are coloured by the fastest time, dark for fast; each has it as a number."""
    times = [cell.best_us for cell in heat.cells.values()]
    # What is far slower would leave the rest in one shade.
    shown = [min(us, _PALEST * min(times)) for us in times]
    axis = around(shown, log=True, margin=0.0) if min(shown) < max(shown) else around(shown, log=True)

    def cell_of(row: Value, column: Value) -> Markup:
        cell = heat.cells.get((row, column))
        if cell is None:
            return tag("td", "·", class_="none")
        shade = round((100 - axis.place(cell.best_us)) / 100 * 6)
        return tag("td", f"{cell.best_us:.1f}", tag("small", f"{cell.count}"), class_=f"h{shade}")

    head = tag(
        "tr",
        tag("th", f"{heat.row} ↓  {heat.column} →"),
        [tag("th", value_text(c), scope="col") for c in heat.columns],
    )
    body = [
        tag("tr", tag("th", value_text(row), scope="row"), [cell_of(row, column) for column in heat.columns])
        for row in heat.rows
    ]
    caption = f"{heat.row} and {heat.column}: fastest µs, and below it the number of configs"
    if max(times) > max(shown):
        caption += f"; palest: {_PALEST:g} times the fastest or more"
    return tag(
        "div",
        tag("table", tag("caption", caption), tag("thead", head), tag("tbody", body), class_="heat"),
        class_="scroll",
        role="region",
        tabindex="0",
        aria_label=caption,
    )
