"""Parts of the report for a notebook."""

from pathlib import Path

from autotune.report.markup import Markup, join, tag


def stylesheet() -> str:
    """The report's style, as it stands in the page."""
    return Path(__file__).with_name("report.css").read_text()


class Frame(Markup):
    """HTML that a notebook shows when it is a cell's last value."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        return str(self)

    def __repr__(self) -> str:
        return "<chart>"  # a notebook keeps this beside the HTML


def frame(*parts: Markup, height: int) -> Frame:
    """Parts in a frame of their own, whose style does not touch what is around it.

    Args:
        height: pixels.

    Example:
        A notebook's cell that ends with `frame(bar_chart(bars, "Shares"), height=300)` shows the chart.
    """
    head = tag("head", tag("meta", charset="utf-8"), tag("style", Markup(stylesheet())))
    page = f"<!DOCTYPE html>{tag('html', head, tag('body', tag('main', join(parts))), lang='en')}"
    style = f"width:100%;height:{height}px;border:0"
    return Frame(tag("iframe", "", srcdoc=page, style=style, title="chart"))
