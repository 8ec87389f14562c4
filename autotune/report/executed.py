"""Sets what two candidates' machine code executes side by side: per executed workgroup, not a time."""

from collections.abc import Sequence
from typing import Any

from autotune.check.execution import Executed
from autotune.check.judged import Judged
from autotune.report.checks import verdict_json
from autotune.text import counted

_WAITS = 12  # of each candidate's waits, those with most bytes in flight


def facts_of(executed: Executed) -> dict[str, float]:
    """Averages over the executed workgroups: instructions of all waves by class, bytes and segments."""
    groups = executed.workgroups
    named = {f"{name} instructions": count / groups for name, count in executed.classes.items()}
    for kind, (_, nbytes, segments) in executed.traffic.items():
        if nbytes:
            named[f"{kind} bytes requested"] = nbytes / groups
            named[f"{kind} 64-byte segments"] = segments / groups
    if executed.load_coalescing is not None:
        named["load bytes / (64 * segments)"] = executed.load_coalescing
    named["load bytes in flight a wave"] = executed.bytes_in_flight
    return named


def executed_json(judged: Sequence[Judged]) -> dict[str, Any]:
    """Both verdicts, both columns, and every wait that was reached, as JSON values.

    The columns are null where an execution did not end: the verdict says why.
    """
    columns = [None if each.executed is None else facts_of(each.executed) for each in judged]
    names = dict.fromkeys(name for column in columns for name in column or ())
    return {
        "verdicts": [
            {"text": each.text, "verdict": verdict_json(each.verdict) if each.verdict else None}
            for each in judged
        ],
        "workgroups": [each.executed.workgroups if each.executed else None for each in judged],
        "facts": {
            name: {
                key: None if column is None else round(column.get(name, 0.0), 3)
                for key, column in zip("ab", columns, strict=True)
            }
            for name in names
        },
        "waits": [
            [
                {
                    "line": wait.line,
                    "reached": wait.reached,
                    "mean_bytes": round(wait.mean_bytes, 1),
                    "max_bytes": wait.max_bytes,
                }
                for wait in (each.executed.waits if each.executed else ())
            ]
            for each in judged
        ],
    }


def _shown(name: str) -> str:
    """A fact's name for people; in JSON it keeps the older one."""
    return name.replace(" a wave", " per wave")


def print_executed(content: dict[str, Any]) -> None:
    """Prints what `executed_json` made, for people."""
    from rich.table import Table

    from autotune.report.console import Console

    console = Console()
    console.print("\nExecuted on the CPU, average per workgroup", style="bold", highlight=False)
    for name, verdict, groups in zip("AB", content["verdicts"], content["workgroups"], strict=True):
        of = f" ({counted(groups, 'workgroup')})" if groups else ""
        console.print(f"  {name}: {verdict['text']}{of}", highlight=False, soft_wrap=True)
    table = Table("", "[bold]A", "[bold]B", box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, row in content["facts"].items():
        table.add_row(_shown(name), *("" if row[key] is None else f"{row[key]:,.6g}" for key in "ab"))
    console.print(table, highlight=False)
    for name, waits in zip("AB", content["waits"], strict=True):
        most = sorted(waits, key=lambda wait: -wait["mean_bytes"])[:_WAITS]
        if most:
            console.print(f"{name}: load bytes in flight per wave at its waits", highlight=False)
            for wait in sorted(most, key=lambda wait: int(wait["line"])):
                mean, most_bytes = f"{wait['mean_bytes']:,.0f}", f"{wait['max_bytes']:,}"
                text = f"{mean} on average, {most_bytes} at most, reached {counted(wait['reached'], 'time')}"
                console.print(f"  line {wait['line']}: {text}", highlight=False)
