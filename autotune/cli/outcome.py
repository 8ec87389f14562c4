"""Prints what `autotune run` found, and what to do next."""

from collections.abc import Sequence
from typing import Any

import typer

from autotune.cli.output import print_json
from autotune.cli.progress import Progress
from autotune.machine.targets import Target
from autotune.protocol import DEFAULT_BACKEND
from autotune.report.checks import judged_json, lines, summary
from autotune.report.gpus import as_json as gpus_json
from autotune.report.winners import WinnerSummary, print_winners, summarise
from autotune.report.winners import as_json as winner_json
from autotune.store.store import Store
from autotune.text import command_line, counted
from autotune.tuning.run import RunResult


def print_outcome(
    store: Store,
    result: RunResult,
    progress: Progress,
    target: Target,
    as_json: bool,
    quiet: bool,
    db: str | None,
) -> None:
    """Tells what a run found, and what to do next; or, with `as_json`, an object for machines.

    Raises:
        typer.Exit: with 1, where the default itself failed.
    """
    summaries = summarise(store, result.best)
    if as_json:
        print_json(_content(store, result, progress, target, summaries))
    else:
        _print(store, result, progress, target, summaries, quiet, db)
    if result.failed:
        whose = "; ".join(f"{problem.shape}, {reason}" for problem, reason in result.failed.items())
        remedy = "`autotune isa --config default` with this run's options compiles it alone"
        if target.live:
            remedy = (
                "`autotune measure --config default` with this run's options tries it alone, and `autotune"
                " doctor` looks at the machine"
            )
        if target.table is not None:
            remedy = "replay another table, or record this one again"
        typer.echo(
            f"error: the default itself failed, so there is nothing to compare with ({whose}): {remedy}",
            err=True,
        )
        raise typer.Exit(1)


def _content(
    store: Store,
    result: RunResult,
    progress: Progress,
    target: Target,
    summaries: Sequence[WinnerSummary],
) -> dict[str, Any]:
    return {
        "run": result.run,
        "target": target.name,
        "device": result.environment.device,
        "environment": result.environment.key,
        "complete": result.complete,
        "trials": {str(status): count for status, count in progress.counts.items()},
        "merged": progress.merged,
        "resumed": progress.resumed,
        "stopped": list(result.stopped),
        "gpus": gpus_json(store, result.run),
        "contended": len(store.trials_of(result.run, contended=True)),
        "left_out": {problem.key: list(reasons) for problem, reasons in result.left_out.items()},
        "settings": list(result.settings),
        "default_failed": {problem.key: reason for problem, reason in result.failed.items()},
        "no_winner": {problem.key: reason for problem, reason in progress.no_winner.items()},
        "checks": [judged_json(judged) for judged in result.checks],
        "winners": [winner_json(summary) for summary in summaries],
    }


def _print(
    store: Store,
    result: RunResult,
    progress: Progress,
    target: Target,
    summaries: Sequence[WinnerSummary],
    quiet: bool,
    db: str | None,
) -> None:
    if not quiet:
        typer.echo(
            f"\n{progress.spoken()}; compile {progress.compile_s:.0f} s, device {progress.measure_s:.0f} s"
        )
    if beside := store.trials_of(result.run, contended=True):
        windows = counted(len(beside), "disturbed window")
        typer.echo(f"{windows} marked and measured again: {beside[-1].contended}")
    for line in result.stopped:
        typer.echo(f"stopped early: {line}")
    if not result.complete:
        typer.echo(
            "The time limit was reached before all trials were done: run the same command to continue."
        )
    print_winners(summaries)
    for problem, reasons in result.left_out.items():
        for reason in reasons:
            typer.echo(f"{problem.shape}: left out of the final: {reason}")
    if result.checks:
        typer.echo(f"\nMachine code of the short list, executed on the CPU: {summary(result.checks)}")
        for line in lines(result.checks, result.defaults):
            typer.echo(line)
    for problem, reason in progress.no_winner.items():
        if problem in result.failed:
            continue
        typer.echo(f"\n{problem.shape}: no winner, {reason}")
    if result.settings:
        typer.echo("\nOne process-wide setting for every shape:")
    for line in result.settings:
        typer.echo(f"  {line}")
    if not summaries or quiet:
        return
    backend = result.environment.backend
    named = [*([] if backend == DEFAULT_BACKEND else ["--backend", backend]), *(["--db", db] if db else [])]
    export = command_line(["export", *named, "--out", "deploy"])
    if target.live:
        typer.echo(f"\nNext: {export}")
    elif target.table is not None:
        typer.echo("\nReplayed times cannot be exported: run the same command on the GPU.")
    else:
        typer.echo(
            "\nNext: run the same command on the GPU; it starts from this short list."
            f"\n      {export} --allow-estimates writes it out unmeasured."
        )
