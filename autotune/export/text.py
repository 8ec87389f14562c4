"""Plans of exports as text for people: names and key tables, and the table that decided a global setting."""

from collections.abc import Iterable, Iterator
from itertools import groupby

from autotune.export.global_env import setting_text
from autotune.export.settings_table import Setting
from autotune.protocol.content import Preview
from autotune.protocol.mix import Decision
from autotune.text import percent, percent_interval


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
    """The decision table: a line a setting, gains over the default by tokens; then the test of the best."""
    if not decision.candidates:
        yield "Every shape kept the default, so every knob stays unset."
        return
    mix = ", ".join(f"{tokens}: {share:.0%}" for tokens, share in decision.mix.weights.items())
    guards = ", ".join(map(str, decision.mix.guards))
    margin = percent(decision.mix.margin)
    guarded = f"guards {guards} may lose {margin}" if guards else "no guards: nothing is known of prefill"
    yield f"One setting for every shape, over the mix {mix}; {guarded}."
    for note in decision.notes:
        yield f"  {note}"
    columns = sorted({*decision.mix.weights, *decision.mix.guards})
    yield "  " + "".join(f"{m:>9}" for m in columns) + f"{'mix':>9}  setting"
    for line in decision.candidates:
        cells = [percent(line.gains[m], signed=True) if m in line.gains else "-" for m in columns]
        mean = "-" if line.mean is None else percent(line.mean, signed=True)
        name = setting_text(line.setting)
        mark = "chosen: " if line.setting == decision.setting else ""
        why = f" (refused: {line.refused})" if line.refused else ""
        yield "  " + "".join(f"{cell:>9}" for cell in cells) + f"{mean:>9}  {mark}{name}{why}"
    if decision.tested:
        tested = decision.tested
        gain = percent_interval(tested.mean.value, tested.mean.low, tested.mean.high, signed=True)
        end = f"kept default: {tested.failed}" if tested.failed else "confirmed"
        yield f"  Tested on other routings: {setting_text(tested.setting)}: mix {gain}; {end}"
        for tokens, one in tested.gains.items():
            yield f"    {tokens:>6} tokens {percent_interval(one.value, one.low, one.high, signed=True)}"
