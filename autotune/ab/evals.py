"""Accuracy beside speed: lm-evaluation-harness results of both arms.

Fields as in lm-evaluation-harness of August 2026 (`evaluator_utils.py`, `loggers/evaluation_tracker.py`). A
score counts where it has a standard error. Of a group that has one, as MMLU, the group's is judged and its
tasks' are not; the p of what is judged is corrected for how much that is (Holm).
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from math import erfc
from pathlib import Path
from typing import Any, Final

from autotune.errors import UserError
from autotune.quantities import is_number, load_json, not_negative, shown

LEVEL: Final = 0.95
_SIGMAS: Final = 1.96
_SAME: Final = ("n-shot", "n-samples", "versions", "group_subtasks", "task_hashes")
"""By task."""
_SAME_RUN: Final = ("limit", "gen_kwargs", "fewshot_seed")
"""Of the run's `config`."""
_SAME_PROMPT: Final = ("chat_template_sha", "system_instruction_sha", "fewshot_as_multiturn")
_STAMP: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d(\.\d+)?")

# The harness's own, where a file does not tell (its registry, but TER, which is an error rate).
_HIGHER: Final = (
    *("acc", "acc_norm", "acc_mutual_info", "acc_bytes", "acc_all", "exact_match", "em", "likelihood", "mcc"),
    *("f1", "bleu", "chrf", "rouge1", "rouge2", "rougeL", "pass@1", "pass_at_1"),
    *("prompt_level_strict_acc", "inst_level_strict_acc", "prompt_level_loose_acc", "inst_level_loose_acc"),
)
_LOWER: Final = (
    "perplexity",
    "word_perplexity",
    "byte_perplexity",
    "bits_per_byte",
    "brier_score",
    "ter",
    "wer",
)


class Change(StrEnum):
    """What is said of the tuned arm's score."""

    WORSE = "WORSE"
    BETTER = "better"
    NONE = "no difference found"
    UNKNOWN = "differs, and neither the file nor lm-evaluation-harness says which direction is better"


@dataclass(frozen=True)
class EvalComparison:
    """One score of both arms.

    Attributes:
        name: task and metric, e.g. `gsm8k exact_match,strict-match`.
        change: tuned - base.
        margin: half-width of its 95 % interval, from both standard errors.
        p: of a difference at least as large if the arms did not differ, corrected for the scores judged.
        higher_is_better: None: not known.
    """

    name: str
    base: float
    tuned: float
    change: float
    margin: float
    p: float
    higher_is_better: bool | None

    @property
    def verdict(self) -> Change:
        """Whether the scores differ at `LEVEL`, and for better or worse where it is known which is better."""
        if self.p >= 1 - LEVEL:
            return Change.NONE
        if self.higher_is_better is None:
            return Change.UNKNOWN
        return Change.BETTER if (self.change > 0) is self.higher_is_better else Change.WORSE


@dataclass(frozen=True)
class Results:
    """A results file.

    Attributes:
        notes: which other files were passed over.
    """

    where: str
    raw: Mapping[str, Any]
    notes: tuple[str, ...] = ()

    @cached_property
    def scores(self) -> dict[tuple[str, str], tuple[float, float | None]]:
        """By task and metric the score and its standard error, None where it has none.

        Raises:
            UserError: one is no finite number.
        """
        entries = {**_dict(self.raw.get("groups")), **self.raw["results"]}
        return {
            (task, name): score
            for task, of_task in entries.items()
            for name, score in _scores(_dict(of_task), f"{self.where}: {task}")
        }

    @property
    def tasks(self) -> set[str]:
        """The tasks that have scores."""
        return {task for task, _ in self.scores}

    @property
    def model(self) -> str | None:
        """The model's name as the file has it; None: it has none."""
        name = self.raw.get("model_name")
        if isinstance(name, str):
            return name
        asked = _dict(self.raw.get("config")).get("model_args")
        if isinstance(asked, dict):
            asked = ",".join(f"{key}={value}" for key, value in asked.items())
        told = re.search(r"(?:^|,)(?:pretrained|model)=([^,]+)", asked) if isinstance(asked, str) else None
        return told[1] if told else None


@dataclass(frozen=True)
class Evals:
    """What came of it.

    Attributes:
        scores: those that were judged.
        notes: what is to be known of the rest.
    """

    scores: tuple[EvalComparison, ...]
    notes: tuple[str, ...] = field(default=())


def compare_evals(base: Path, tuned: Path) -> Evals:
    """Every score with a standard error that both arms have, a group's in place of its tasks'.

    Raises:
        UserError: a file is no result, a score is no number, or the arms were not asked the same.
    """
    mine, theirs = _read(base), _read(tuned)
    _check_equal(mine, theirs)
    shared = {key: (*mine.scores[key], *theirs.scores[key]) for key in mine.scores if key in theirs.scores}
    judged = {
        key: (a, error_a, b, error_b)
        for key, (a, error_a, b, error_b) in shared.items()
        if error_a is not None and error_b is not None
    }
    unjudged = [
        f"{task} {metric} {a:.4f} -> {b:.4f}"
        for (task, metric), (a, _, b, _) in sorted(shared.items())
        if (task, metric) not in judged
    ]
    if not judged:
        unjudged_text = f", only {_few(unjudged)}" if unjudged else ": run the same tasks"
        raise UserError(
            f"{mine.where} and {theirs.where} share no score with a standard error{unjudged_text}"
        )
    groups = {key: _ancestors(key[0], mine.raw) for key in judged}
    own = [key for key in judged if not any((group, key[1]) in judged for group in groups[key])]
    compared = []
    for key in own:
        a, error_a, b, error_b = judged[key]
        sigma = (error_a**2 + error_b**2) ** 0.5
        p = erfc(abs(b - a) / sigma / 2**0.5) if sigma else float(a == b)
        name = f"{key[0]} {key[1]}"
        compared.append(EvalComparison(name, a, b, b - a, _SIGMAS * sigma, p, _higher(key, mine, theirs)))
    notes = _notes(mine, theirs, unjudged, len(judged), len(own))
    return Evals(tuple(_corrected(compared)), tuple(notes))


def _corrected(compared: list[EvalComparison]) -> list[EvalComparison]:
    """Holm's step-down p: the k-th smallest of n times n - k + 1, and never below a smaller one's."""
    corrected, highest = list(compared), 0.0
    for rank, place in enumerate(sorted(range(len(compared)), key=lambda place: compared[place].p)):
        highest = min(1.0, max(highest, compared[place].p * (len(compared) - rank)))
        corrected[place] = replace(compared[place], p=highest)
    return corrected


def _notes(mine: Results, theirs: Results, unjudged: list[str], judged: int, tested: int) -> Iterator[str]:
    yield from (*mine.notes, *theirs.notes)
    if mine.model != theirs.model:
        yield f"the model is {mine.model} in {mine.where} and {theirs.model} in {theirs.where}"
    alone = mine.scores.keys() ^ theirs.scores.keys()
    whole_tasks = mine.tasks ^ theirs.tasks
    if alone:
        names = sorted({task if task in whole_tasks else f"{task} {metric}" for task, metric in alone})
        yield f"in one arm alone and not compared: {_few(names)}"
    if unjudged:
        yield f"without a standard error and not judged: {_few(unjudged)}"
    if judged > tested:
        yield f"{judged - tested} scores of tasks are judged by their group's"
    if tested > 1:
        yield f"p is corrected for {tested} scores (Holm)"


def _ancestors(task: str, raw: Mapping[str, Any]) -> set[str]:
    """The groups that a task is in, directly or not."""
    children = {
        name: members
        for name, members in _dict(raw.get("group_subtasks")).items()
        if isinstance(members, list)
    }
    ancestors: set[str] = set()
    reached = [task]
    while reached:
        child = reached.pop()
        parents = {group for group, members in children.items() if child in members} - ancestors - {task}
        ancestors |= parents
        reached += parents
    return ancestors


def _higher(key: tuple[str, str], *arms: Results) -> bool | None:
    """Whether more is better, by the files, else by the harness's own rule.

    Raises:
        UserError: the files contradict each other.
    """
    task, metric = key
    stem = metric.partition(",")[0]
    directions: dict[str, bool | None] = {}
    for arm in arms:
        of_task = _dict(_dict(arm.raw.get("higher_is_better")).get(task))
        listed = _dict(_dict(arm.raw.get("configs")).get(task)).get("metric_list")
        for entry in listed if isinstance(listed, list) else ():
            if isinstance(entry, dict) and entry.get("metric") == stem:
                of_task = {"": entry.get("higher_is_better"), **of_task}
        directions[arm.where] = next(
            (of_task[name] for name in (metric, stem, "") if isinstance(of_task.get(name), bool)), None
        )
    known = {direction for direction in directions.values() if direction is not None}
    if len(known) > 1:
        raise UserError(
            f"higher_is_better of {task} {metric} is"
            f" {' and '.join(f'{v} in {k}' for k, v in directions.items())}"
        )
    if known:
        return known.pop()
    return True if stem in _HIGHER else False if stem in _LOWER else None


def _check_equal(mine: Results, theirs: Results) -> None:
    """Refuses arms that were not asked the same.

    Raises:
        UserError: names the first difference.
    """
    pairs = [(name, mine.raw.get(name), theirs.raw.get(name)) for name in _SAME_PROMPT]
    asked_a, asked_b = (_dict(arm.raw.get("config")) for arm in (mine, theirs))
    pairs += [(name, asked_a.get(name), asked_b.get(name)) for name in _SAME_RUN]
    for task in sorted(mine.tasks & theirs.tasks):
        for name in _SAME:
            a, b = (_dict(arm.raw.get(name)).get(task) for arm in (mine, theirs))
            if name != "task_hashes" or (a and b):  # logged with the samples alone
                pairs.append((f"{name} of {task}", a, b))
    for name, a, b in pairs:
        if json.dumps(a, sort_keys=True) != json.dumps(b, sort_keys=True):
            raise UserError(
                f"unequal evaluations: {name} is {a} in {mine.where} and {b} in {theirs.where}: run both arms"
                " with the same tasks and options"
            )


def _read(path: Path) -> Results:
    """A results file, or the newest one below a folder, by the date in it.

    Raises:
        UserError: there is none, one is none, or none can be told to be the newest.
    """
    if not path.is_dir():
        return _results(path)
    files = sorted(path.rglob("results*.json")) or [
        file for file in sorted(path.rglob("*.json")) if _STAMP.search(file.stem)
    ]
    if not files:
        raise UserError(f"{path} has no results*.json: give lm-evaluation-harness's output folder")
    every = [_results(file) for file in files]
    if len(every) == 1:
        return every[0]
    dates = [each.raw.get("date") for each in every]
    if not all(is_number(date) for date in dates):
        stamps = [_STAMP.search(file.stem) for file in files]
        dates = [_seconds(stamp[0]) if stamp else None for stamp in stamps]
    newest = max((date for date in dates if date is not None), default=None)
    if None in dates or dates.count(newest) > 1:
        raise UserError(
            f"{path} has {len(files)} results and no date tells the newest: give one, e.g. {files[-1]}"
        )
    chosen = every[dates.index(newest)]
    models = sorted({str(each.model) for each in every})
    of = f" of the models {_few(models)}" if len(models) > 1 else ""
    note = f"{path} has {len(files)} results{of}: the newest is taken, {chosen.where}, of {chosen.model}"
    return replace(chosen, notes=(note,))


def _seconds(stamp: str) -> float | None:
    try:
        return datetime.strptime(stamp[:19], "%Y-%m-%dT%H-%M-%S").timestamp() + float(f"0{stamp[19:]}")
    except (ValueError, OverflowError):
        return None


def _results(path: Path) -> Results:
    try:
        raw = load_json(path.read_bytes())
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{path} is not a result file ({reason}): give lm-evaluation-harness's") from error
    if not isinstance(raw, dict) or not isinstance(raw.get("results"), dict):
        raise UserError(f"{path} has no results: give lm-evaluation-harness's results file")
    return Results(str(path), raw)


def _scores(of_task: Mapping[str, Any], where: str) -> Iterator[tuple[str, tuple[float, float | None]]]:
    """A task's scores with their standard errors, by `metric,filter`; by metric alone in older files."""
    for name, value in of_task.items():
        stem, comma, kind = name.partition(",")
        error_name = f"{stem}_stderr{comma}{kind}"
        if stem.endswith("_stderr") or not (comma or error_name in of_task) or _absent(value):
            continue
        error = of_task.get(error_name)
        if not is_number(value):
            raise UserError(f"{where} {name} is {shown(value)}: the evaluation failed there, run it again")
        yield name, (float(value), None if _absent(error) else not_negative(error, f"{where} {error_name}"))


def _absent(raw: Any) -> bool:
    """Whether a task has no such score, or the score no standard error."""
    return raw is None or (isinstance(raw, str) and raw.strip() in ("", "N/A"))


def _dict(raw: Any) -> dict[str, Any]:
    return raw if isinstance(raw, dict) else {}


def _few(names: list[str], most: int = 5) -> str:
    text = ", ".join(names[:most])
    return text if len(names) <= most else f"{text} and {len(names) - most} more"
