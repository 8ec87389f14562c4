"""How good a search was on a recorded problem, by equal rules for all: costs, and distance from the optimum.

An evaluation is one config measured at one token count; looking at a config again is free. Seconds are those
that were recorded: every compile divided by the number of compile processes, every measurement in full.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotune.problem.layer import Stage
from autotune.replay.table import Recorded, Table

PROCESSES = 16
WITHIN = 1.01
AT = (20, 50, 100)


@dataclass(frozen=True)
class Recording:
    """One problem of a table, as arrays.

    Attributes:
        name: `kimi/stage1/m4`.
        rows: the configs.
        seen: what a search is told, microseconds; NaN: failed.
        true: what counts, microseconds: settled where it was; NaN: failed.
        compile_s, device_s: costs.
    """

    name: str
    stage: Stage
    tokens: int
    rows: Sequence[Recorded]
    seen: NDArray[np.float64]
    true: NDArray[np.float64]
    compile_s: NDArray[np.float64]
    device_s: NDArray[np.float64]

    @cached_property
    def optimum(self) -> float:
        """Microseconds of the fastest; of the settled ones alone where there are any."""
        settled = [row.settled[self.tokens] for row in self.rows if self.tokens in row.settled]
        return min(settled) if settled else float(np.nanmin(self.true))


def recordings(table: Table, label: str) -> list[Recording]:
    """All problems of a table."""
    made = []
    for stage, part in table.stages.items():
        for tokens in table.tokens:
            outcomes = [row.outcomes.get(tokens) for row in part.rows]
            seen = [float(getattr(outcome, "us", np.nan)) for outcome in outcomes]
            made.append(
                Recording(
                    name=f"{label}/{stage}/m{tokens}",
                    stage=stage,
                    tokens=tokens,
                    rows=part.rows,
                    seen=np.array(seen),
                    true=np.array([row.us(tokens) or np.nan for row in part.rows]),
                    compile_s=np.array([row.compiled.seconds for row in part.rows]),
                    device_s=np.array([outcome.seconds if outcome else 0.0 for outcome in outcomes]),
                )
            )
    return made


@dataclass(frozen=True)
class Run:
    """One seed's search of one problem: rows in the order of first evaluation."""

    order: Sequence[int]

    def to_optimum(self, recording: Recording) -> tuple[int, float, bool]:
        """Evaluations and seconds until one is within 1 %, and whether one was.

        A search that gave up is charged with the whole table: that is what certainty costs.
        """
        good = recording.true <= WITHIN * recording.optimum
        order = np.array(self.order, np.intp)
        hits = np.flatnonzero(good[order])
        count = int(hits[0]) + 1 if len(hits) else len(recording.rows)
        paid = order[:count] if len(hits) else np.arange(len(recording.rows))
        seconds = recording.compile_s[paid].sum() / PROCESSES + recording.device_s[paid].sum()
        return count, float(seconds), bool(len(hits))

    def fractions(self, recording: Recording, at: Sequence[int]) -> list[float]:
        """Optimum / best so far, after so many evaluations; 0 while nothing worked."""
        times = recording.true[np.array(self.order, np.intp)]
        best = np.fmin.accumulate(np.where(np.isnan(times), np.inf, times))
        return [recording.optimum / float(best[min(n, len(best)) - 1]) if len(best) else 0.0 for n in at]


@dataclass(frozen=True)
class Score:
    """A searcher on a problem, over seeds; a record of `compare_searchers.py`.

    Attributes:
        table: `kimi/stage1/m4`; `kimi/stage1/all`: all token counts together; `kimi/all`: both stages too.
        held_back: no choice of ours was made on it.
        reached: fraction of the seeds that came within 1 %.
        evaluations_...: measurements, one config at one token count each.
        compiled_...: candidates compiled.
        size: configs of the table; of a joint one, of all its stages.
        gpu_seconds_...: compile seconds / 16 + device seconds.
    """

    table: str
    held_back: bool
    searcher: str
    seeds: int
    size: int
    reached: float
    evaluations_to_1pct_p50: float
    evaluations_to_1pct_p90: float
    compiled_to_1pct_p50: float
    compiled_to_1pct_p90: float
    gpu_seconds_to_1pct_p50: float
    fraction_at_20: float
    fraction_at_50: float
    fraction_at_100: float

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        return {k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(self).items()}


def score(recording: Recording, searcher: str, runs: Sequence[Run], *, held_back: bool) -> Score:
    """A searcher's score on one problem."""
    found = [run.to_optimum(recording) for run in runs]
    evaluations = [count for count, _, _ in found]
    fractions = np.median([run.fractions(recording, AT) for run in runs], axis=0)
    return Score(
        table=recording.name,
        held_back=held_back,
        searcher=searcher,
        seeds=len(runs),
        size=len(recording.rows),
        reached=float(np.mean([reached for _, _, reached in found])),
        evaluations_to_1pct_p50=float(np.median(evaluations)),
        evaluations_to_1pct_p90=float(np.quantile(evaluations, 0.9)),
        compiled_to_1pct_p50=float(np.median(evaluations)),
        compiled_to_1pct_p90=float(np.quantile(evaluations, 0.9)),
        gpu_seconds_to_1pct_p50=float(np.median([seconds for _, seconds, _ in found])),
        fraction_at_20=float(fractions[0]),
        fraction_at_50=float(fractions[1]),
        fraction_at_100=float(fractions[2]),
    )


@dataclass(frozen=True)
class JointRun:
    """One seed's search of several problems at once.

    Attributes:
        events: (index of the problem, row) in the order of evaluation.
    """

    events: Sequence[tuple[int, int]]

    def to_optimum(self, problems: Sequence[Recording]) -> tuple[int, int, float, bool]:
        """Evaluations, compiled candidates and seconds until every problem is within 1 %."""
        missing = set(range(len(problems)))
        compiled: set[tuple[Stage, int]] = set()
        seconds = 0.0
        for count, (index, row) in enumerate(self.events, 1):
            problem = problems[index]
            if (problem.stage, row) not in compiled:
                compiled.add((problem.stage, row))
                seconds += float(problem.compile_s[row]) / PROCESSES
            seconds += float(problem.device_s[row])
            if problem.true[row] <= WITHIN * problem.optimum:
                missing.discard(index)
            if not missing:
                return count, len(compiled), seconds, True
        sizes = {problem.stage: len(problem.rows) for problem in problems}
        whole = sum(float(p.compile_s.sum()) for p in _one_a_stage(problems)) / PROCESSES
        whole += sum(float(problem.device_s.sum()) for problem in problems)
        return sum(len(problem.rows) for problem in problems), sum(sizes.values()), whole, False

    def fractions(self, problems: Sequence[Recording], at: Sequence[int]) -> list[float]:
        """The worst problem's optimum / best, after so many compiled candidates a stage."""
        best = np.full(len(problems), np.inf)
        compiled: set[tuple[Stage, int]] = set()
        stages = len({problem.stage for problem in problems})
        made: list[float] = []
        for index, row in self.events:
            key = (problems[index].stage, row)
            while len(made) < len(at) and key not in compiled and len(compiled) >= at[len(made)] * stages:
                made.append(_worst(problems, best))
            compiled.add(key)
            best[index] = np.fmin(best[index], problems[index].true[row])
        return made + [_worst(problems, best)] * (len(at) - len(made))


def score_joint(
    name: str, problems: Sequence[Recording], searcher: str, runs: Sequence[JointRun], *, held_back: bool
) -> Score:
    """A searcher's score on several problems that must all come within 1 %."""
    found = [run.to_optimum(problems) for run in runs]
    fractions = np.median([run.fractions(problems, AT) for run in runs], axis=0)
    return Score(
        table=name,
        held_back=held_back,
        searcher=searcher,
        seeds=len(runs),
        size=sum(len(problem.rows) for problem in _one_a_stage(problems)),
        reached=float(np.mean([reached for *_, reached in found])),
        evaluations_to_1pct_p50=float(np.median([count for count, *_ in found])),
        evaluations_to_1pct_p90=float(np.quantile([count for count, *_ in found], 0.9)),
        compiled_to_1pct_p50=float(np.median([compiled for _, compiled, *_ in found])),
        compiled_to_1pct_p90=float(np.quantile([compiled for _, compiled, *_ in found], 0.9)),
        gpu_seconds_to_1pct_p50=float(np.median([seconds for *_, seconds, _ in found])),
        fraction_at_20=float(fractions[0]),
        fraction_at_50=float(fractions[1]),
        fraction_at_100=float(fractions[2]),
    )


def one_after_the_other(runs: Sequence[Run]) -> JointRun:
    """Searches of single problems as one search of all: the peers know no other way."""
    return JointRun([(index, row) for index, run in enumerate(runs) for row in run.order])


def _one_a_stage(problems: Sequence[Recording]) -> list[Recording]:
    return list({problem.stage: problem for problem in problems}.values())


def _worst(problems: Sequence[Recording], best: NDArray[np.float64]) -> float:
    return float(min(problem.optimum / us for problem, us in zip(problems, best, strict=True)))
