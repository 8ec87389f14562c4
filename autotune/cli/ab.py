"""`autotune ab`: a serving benchmark of two arms."""

from pathlib import Path
from typing import Annotated

import typer

from autotune.cli.options import Json, Quiet
from autotune.cli.output import print_json


def ab(
    base: Annotated[
        Path | None, typer.Argument(help="Results of the baseline arm: a file, or a folder of files.")
    ] = None,
    tuned: Annotated[Path | None, typer.Argument(help="Results of the tuned arm.")] = None,
    eval_base: Annotated[
        Path | None, typer.Option(help="lm-evaluation-harness results of the baseline arm, e.g. GSM8K.")
    ] = None,
    eval_tuned: Annotated[
        Path | None, typer.Option(help="lm-evaluation-harness results of the tuned arm.")
    ] = None,
    min_effect: Annotated[
        float, typer.Option(min=0.0, max=0.5, help="Smallest relative difference that counts.")
    ] = 0.01,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Compare two arms of SGLang's bench_serving or vLLM's bench serve, at least four repeats each, in turns.

    Unequal workloads are refused. The folders of vLLM's bench sweep serve are read as they are.

    Exit code 0: nothing is worse. 1: the tuned arm is surely slower somewhere, accepts fewer drafts, or
    scores worse. 2: no verdict (too few repeats, or no time or rate decides), or the input is refused.

    Example: autotune ab base/ tuned/ --eval-base lm_eval/base --eval-tuned lm_eval/tuned
    """
    from autotune.ab.outcome import compare_arms
    from autotune.errors import UserError
    from autotune.quantities import not_negative

    if (eval_base is None) != (eval_tuned is None):
        raise UserError("an evaluation of one arm says nothing: give both --eval-base and --eval-tuned")
    if (base is None) != (tuned is None):
        raise UserError("a benchmark of one arm says nothing: give the results of both, baseline first")
    arms = (base, tuned) if base and tuned else None
    evals = (eval_base, eval_tuned) if eval_base and eval_tuned else None
    if arms is None and evals is None:
        raise UserError("nothing is there to compare: give the results of both arms, baseline first")
    outcome = compare_arms(arms, evals, min_effect=not_negative(min_effect, "--min-effect"))
    if as_json:
        print_json(outcome.as_json())
    elif not quiet or outcome.exit_code:
        for line in outcome.lines():
            typer.echo(line)
    raise typer.Exit(outcome.exit_code)
