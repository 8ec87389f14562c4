"""`autotune ab`: a serving benchmark of two arms."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autotune.cli.options import Json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autotune.ab.compare import Comparison
    from autotune.ab.evals import EvalComparison
    from autotune.ab.results import Repeat


def ab(
    base: Annotated[Path, typer.Argument(help="Results of the baseline arm: a file, or a folder of files.")],
    tuned: Annotated[Path, typer.Argument(help="Results of the tuned arm.")],
    eval_base: Annotated[
        Path | None, typer.Option(help="lm-evaluation-harness results of the baseline arm, e.g. GSM8K.")
    ] = None,
    eval_tuned: Annotated[
        Path | None, typer.Option(help="lm-evaluation-harness results of the tuned arm.")
    ] = None,
    min_effect: Annotated[
        float, typer.Option(min=0.0, max=0.5, help="Least relative difference that counts.")
    ] = 0.01,
    as_json: Json = False,
) -> None:
    """Compare two arms of SGLang's bench_serving or vLLM's bench serve, several repeats each.

    Unequal workloads are refused. Exit code 1: the tuned arm is slower somewhere, or scores lower. A verdict
    needs at least four repeats an arm, taken in turns.

    Example: autotune ab base/ tuned/ --eval-base lm_eval/base --eval-tuned lm_eval/tuned
    """
    from dataclasses import asdict
    from statistics import fmean

    from autotune.ab.compare import compare
    from autotune.ab.evals import compare_evals
    from autotune.ab.results import read_arm
    from autotune.errors import UserError
    from autotune.measure.statistics import Verdict

    if (eval_base is None) != (eval_tuned is None):
        raise UserError("an evaluation of one arm says nothing: give both --eval-base and --eval-tuned")
    arms = read_arm([base]), read_arm([tuned])
    found = compare(*arms, min_effect=min_effect)
    evals = compare_evals(eval_base, eval_tuned) if eval_base and eval_tuned else []
    if as_json:
        content = {"speed": [asdict(one) for one in found], "accuracy": [asdict(one) for one in evals]}
        typer.echo(json.dumps(content, indent=2))
    else:
        _print(found, evals, len(arms[0]), len(arms[1]))
        accepted = [fmean(r.accept_length for r in arm if r.accept_length) for arm in arms if _says(arm)]
        if len(accepted) == 2:
            typer.echo(f"accepted tokens a verify step: {accepted[0]:.2f} -> {accepted[1]:.2f}")
    if any(one.verdict is Verdict.SLOWER for one in found) or any(one.lower for one in evals):
        raise typer.Exit(1)


def _says(arm: "Sequence[Repeat]") -> bool:
    """Whether the server told how many tokens it accepted."""
    return any(repeat.accept_length for repeat in arm)


def _print(found: "Sequence[Comparison]", evals: "Sequence[EvalComparison]", base: int, tuned: int) -> None:
    typer.echo(f"{base} repeats of the baseline, {tuned} of the tuned arm")
    typer.echo(f"{'':<18}{'baseline':>12}{'tuned':>12}{'change':>9}   95 %              p      verdict")
    for one in found:
        ratio = one.ratio
        interval = f"{ratio.low - 1:+.1%} to {ratio.high - 1:+.1%}"
        typer.echo(
            f"{one.metric.name:<18}{one.base:>12.2f}{one.tuned:>12.2f}{ratio.value - 1:>+9.1%}"
            f"   {interval:<17} {one.p:<6.3f} {one.verdict}"
        )
    if min(base, tuned) < 4:
        typer.echo("Fewer than four repeats an arm decide nothing: run more, taking the arms in turns.")
    for score in evals:
        typer.echo(
            f"{score.name}: {score.base:.4f} -> {score.tuned:.4f}"
            f" ({score.change:+.4f}, 95 % ±{score.margin:.4f}): {score.text}"
        )
