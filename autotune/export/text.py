"""Plans of exports as text for people: names and key tables, and the table that decided a global setting."""

from collections.abc import Iterable, Iterator
from itertools import groupby

from autotune.export.content import Preview
from autotune.export.global_env import Setting
from autotune.export.mix import Decision


def preview_lines(previews: Iterable[Preview]) -> Iterator[str]:
    """A file's name, then a line for each run of token counts that one key serves."""
    for preview in previews:
        yield preview.file
        width = max((len(str(row.key)) for row in preview.rows), default=1)
        for _, run in groupby(preview.rows, key=lambda row: row.key):
            rows = list(run)
            tokens = ", ".join(str(row.tokens) for row in rows)
            yield f"  key {rows[0].key:>{width}} for M = {tokens} ({rows[0].source}): {rows[0].text}"


def decision_lines(decision: Decision[Setting]) -> Iterator[str]:
    """The decision table: a line a setting, gains over the default by tokens."""
    mix = ", ".join(f"{tokens}: {share:.0%}" for tokens, share in decision.mix.weights.items())
    guards = ", ".join(map(str, decision.mix.guards))
    margin = f"{decision.mix.margin:.1%}"
    yield f"One setting for every shape, over the mix {mix}; guards {guards} may lose {margin}."
    columns = sorted({*decision.mix.weights, *decision.mix.guards})
    yield "  " + "".join(f"{m:>9}" for m in columns) + f"{'mix':>9}  setting"
    for line in decision.candidates:
        cells = [f"{line.gains[m]:+.1%}" if m in line.gains else "-" for m in columns]
        mean = "-" if line.mean is None else f"{line.mean:+.1%}"
        name = " ".join(f"{k}={v}" for k, v in line.setting) or "every knob unset"
        mark = "chosen: " if line.setting == decision.setting else ""
        why = f" (refused: {line.refused})" if line.refused else ""
        yield "  " + "".join(f"{cell:>9}" for cell in cells) + f"{mean:>9}  {mark}{name}{why}"
