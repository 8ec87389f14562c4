"""Times process-wide settings at every shape and guard, where knobs are variables of the process.

One setting then serves every shape, prefill too, and the shapes' own winners contradict each other. So the
settings that did well at some shape are timed at every shape of the run and at the guards, each against the
default in the same rounds. `autotune export` chooses among them by the traffic that it is told.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Protocol, runtime_checkable

from autotune.problem.layer import Problem, Stage
from autotune.problem.routing import UNIFORM
from autotune.processes import interrupt
from autotune.protocol.backend import Backend, program_key
from autotune.protocol.process_knobs import (
    ProcessKnobs,
    Setting,
    process_knobs,
    setting_text,
    shared_finalists,
    shared_settings,
)
from autotune.results import SETTING, Confirmation, Finalist, LayerConfig
from autotune.store.records import WinnerRecord
from autotune.text import counted
from autotune.tuning.context import Judge, RunRequest, Tuning

MOST_SETTINGS = 6


@runtime_checkable
class TimesAll(Protocol):
    """A judge that can time many configs beside each other without a decision."""

    def time_all(
        self, problem: Problem, finalists: Sequence[Finalist], twins: Mapping[int, int]
    ) -> Confirmation:
        """See `autotune.measure.table`."""


def guard_problems(request: RunRequest, backend: Backend) -> list[Problem]:
    """The guards that are no shape of the run, where the backend's knobs are variables; else none.

    A guard stands for prefill: every token is a sequence of its own, so a routing that lets a sequence's
    draft tokens share experts draws each anew. A recording has as many tokens as the verify shape.
    """
    if not request.target.live or process_knobs(request.backend, backend.source_digest()) is None:
        return []
    first = request.problems[0]
    routing = UNIFORM if first.routing.kind in ("file", "correlated") else first.routing
    known = {problem.tokens for problem in request.problems}
    return [Problem(first.layer, 1, tokens, routing) for tokens in request.guards if tokens not in known]


@dataclass(frozen=True)
class Refusal:
    """A setting that did well somewhere and is not legal everywhere."""

    setting: Setting
    reason: str


def time_settings(current: Tuning, judge: Judge, winners: Sequence[WinnerRecord]) -> list[str]:
    """Times the best settings at every shape and guard, and stores the tables.

    Args:
        winners: of this run.

    Returns:
        Sentences for the user; none where the backend's knobs are no variables, or nothing may be decided.
    """
    knobs = process_knobs(current.request.backend, current.environment.kernel_source)
    decides = current.request.measuring.decides
    if knobs is None or not isinstance(judge, TimesAll) or not decides or not winners:
        return []
    guards = guard_problems(current.request, current.backend)
    # Of two problems with as many tokens the later one stands for both, as it does in an export.
    problems = list({each.tokens: each for each in [*current.request.problems, *guards]}.values())
    defaults = {problem: current.default(problem) for problem in problems}
    best = {winner.problem: _leaders(current, winner) for winner in winners}
    settings, refused = _legal(current, knobs, defaults, shared_settings(knobs, defaults, best))
    lines = [f"{setting_text(each.setting)} cannot serve every shape: {each.reason}" for each in refused]
    if not settings:
        return [*lines, "no process-wide setting was faster than the default and legal at every shape"]
    for problem, configs in shared_finalists(knobs, defaults, settings).items():
        interrupt.look()
        finalists = [
            Finalist(f"{SETTING} {index}" if index else "default", config)
            for index, config in enumerate(configs)
        ]
        current.listener.on_confirm(problem, len(finalists))
        table = judge.time_all(problem, finalists, _twins(current, problem, configs))
        current.store.record_confirmation(
            current.id,
            table,
            backend=current.backend.name,
            environment=current.environment,
            workload=judge.workload,
            kind=judge.kind,
        )
    tokens = ", ".join(str(problem.tokens) for problem in problems)
    timed = counted(len(settings), "process-wide setting")
    return [*lines, f"timed {timed} at {tokens} tokens: export chooses"]


def _leaders(current: Tuning, winner: WinnerRecord) -> list[LayerConfig]:
    """A final's winner, then the others that were faster than the default in it, the fastest first."""
    assert winner.confirmation is not None
    final = current.store.confirmation(winner.confirmation).confirmation
    ratios = {}
    for index, finalist in enumerate(final.finalists):
        both = [paired.us for paired in final.rounds if paired.us[index] and paired.us[0]]
        if index and both and final.errors[index] is not None:
            ratios[finalist.config] = median(us[index]["layer"] / us[0]["layer"] for us in both)
    faster = [config for config, ratio in ratios.items() if ratio < 1 or config == winner.config]
    return sorted(faster, key=lambda config: (config != winner.config, ratios[config]))


def _legal(
    current: Tuning,
    knobs: ProcessKnobs,
    defaults: Mapping[Problem, LayerConfig],
    settings: Sequence[Setting],
) -> tuple[list[Setting], list[Refusal]]:
    """The first few that are legal at every shape, and those before the last of them that are not.

    What is not legal somewhere would be launched there all the same: wrong numbers, or the server's end.
    """
    legal: list[Setting] = []
    refused: list[Refusal] = []
    for setting in settings:
        if len(legal) == MOST_SETTINGS:
            break
        reason = next(
            filter(None, (_broken(current, knobs, p, d, setting) for p, d in defaults.items())), None
        )
        if reason is None:
            legal.append(setting)
        else:
            refused.append(Refusal(setting, reason))
    return legal, refused


def _broken(
    current: Tuning, knobs: ProcessKnobs, problem: Problem, default: LayerConfig, setting: Setting
) -> str | None:
    config = knobs.overlay(default, dict(setting))
    for stage in Stage:
        space = current.space(problem, stage)
        rule = space.broken_rule(config.of(stage))
        if rule is not None:
            return f"at {problem.tokens_text} it breaks {stage}'s rule {rule.name}, {rule.reason}"
    return None


def _twins(current: Tuning, problem: Problem, configs: Sequence[LayerConfig]) -> dict[int, int]:
    """Positions of configs that are the same program as an earlier one, with that one's position."""
    first: dict[tuple[str, ...], int] = {}
    twins = {}
    for index, config in enumerate(configs):
        program = program_key(current.backend, problem.layer, problem.tokens, config)
        if first.setdefault(program, index) != index:
            twins[index] = first[program]
    return twins
