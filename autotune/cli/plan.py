"""`autotune run --dry-run`: what would be searched."""

from typing import Any

import typer

from autotune.cli.output import print_json
from autotune.machine.targets import Kind
from autotune.problem.layer import Stage
from autotune.protocol.registry import load_backend
from autotune.replay.files import read_table
from autotune.replay.target import ReplayBackend
from autotune.text import counted
from autotune.tuning.context import RunRequest
from autotune.tuning.searches import asked_configs, searched_spaces


def plan_of(request: RunRequest, database: str) -> dict[str, Any]:
    """What a run of the request would do, as JSON values; nothing is compiled, measured or stored.

    Raises:
        UserError: the run would be refused.
    """
    backend = load_backend(request.backend)
    if request.target.table is not None:
        backend = ReplayBackend(backend, read_table(request.target.table))
    searches = []
    for problem in request.problems:
        spaces = searched_spaces(request, backend, problem)
        asked = asked_configs(request, backend, None, problem)
        for stage in Stage:
            part, tried = spaces[stage], [ask.config for ask in asked[stage]]
            legal = part.size
            budget = min(max(request.trials, 1 + len(tried)), legal + (not part.is_legal(part.default)))
            searches.append(
                {
                    "shape": problem.shape,
                    "tokens": problem.tokens,
                    "routing": problem.routing.key,
                    "stage": str(stage),
                    "space": part.whole.size if part.whole is not part else legal,
                    "searched": legal,
                    "trials": budget,
                    "swept": legal <= budget,
                    "knobs": {
                        p.name: list(p.values)
                        for p, whole in zip(part.params, part.whole.params, strict=True)
                        if p != whole
                    },
                    "tried": [str(config) for config in tried],
                }
            )
    return {
        "target": request.target.name,
        "device": request.target.device.name,
        "kind": str(request.target.kind),
        "backend": request.backend,
        "layer": request.problems[0].layer.key,
        "sampler": request.sampler,
        "seed": request.seed,
        "allow_spills": request.allow_spills,
        "stop_when": request.stop_when,
        "database": database,
        "workers": request.workers,
        "timeout_s": request.timeout_s,
        "compile_timeout_s": request.compile_timeout_s,
        "finals": 0 if request.target.kind is Kind.ESTIMATE else len(request.problems),
        "gpus": list(request.devices),
        "searches": searches,
    }


def print_plan(request: RunRequest, database: str, *, as_json: bool, quiet: bool) -> None:
    """Prints the plan of a run."""
    planned = plan_of(request, database)
    if as_json:
        print_json(planned)
        return
    if not quiet:
        typer.echo(request.target.why)
        typer.echo(f"{planned['layer']}, backend {planned['backend']}, database {database}")
    for search in planned["searches"]:
        part = "" if search["searched"] == search["space"] else f" of {search['space']:,}"
        how = "all are tried" if search["swept"] else counted(search["trials"], "trial")
        typer.echo(
            f"{search['shape']} {search['stage']} ({counted(search['tokens'], 'token')}):"
            f" {search['searched']:,}{part} legal configs, {how}"
        )
        for config in search["tried"]:
            typer.echo(f"  tried first: {config}")
    trials = sum(search["trials"] for search in planned["searches"])
    limit = "" if planned["timeout_s"] is None else f", at most {planned['timeout_s']:g} s of search"
    processes = counted(planned["workers"], "compile process")
    what = [counted(trials, "trial")]
    what += [counted(planned["finals"], "final")] if planned["finals"] else []
    what += [f"on GPUs {', '.join(map(str, planned['gpus']))}"] if planned["gpus"] else []
    compiling = f"{processes}, at most {planned['compile_timeout_s']:g} s per compile"
    if request.target.table is not None:
        compiling = "nothing is compiled"
    typer.echo(f"{', '.join(what)}; {compiling}{limit}")
    spilling = "are tried" if request.allow_spills else "are refused"
    ends = "" if request.stop_when is None else f", ends when a gain below {request.stop_when:g} is expected"
    typer.echo(f"sampler {request.sampler}, seed {request.seed}; spilling candidates {spilling}{ends}")
    if not quiet:
        typer.echo("Nothing was compiled, measured or stored; leave out --dry-run to run it.")
