"""Studies for optuna-dashboard: a copy in Optuna's own storage, so that our database stays ours.

One study a stage of a problem, stack and kind. The copy is a journal file: writing one is much faster than
SQLite through Optuna (see `autotune/search/study.py` for why the search itself keeps its study in memory).
"""

import errno
import importlib.util
import os
import socket
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.errors import UserError
from autotune.problem.layer import Stage
from autotune.report.content import ProblemReport, Report
from autotune.report.effects import effects, ordered
from autotune.results import Status
from autotune.space.config import Value, value_text
from autotune.store.records import StoredTrial

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

HOST = "127.0.0.1"
"""Never another one: the dashboard lets whoever reaches it delete studies, and knows no passwords."""

IMPORTANCES = (
    "The dashboard's importances are other numbers than the report's. The report's are epsilon squared: the"
    " share of the differences in log time that a knob explains by itself, over all tried configs. The"
    " dashboard's are Optuna's PED-ANOVA: what tells the fastest tenth from the rest, scaled to add up to 1."
)


@dataclass(frozen=True)
class Copy:
    """Studies that were copied.

    Attributes:
        studies: trials by the study's name.
    """

    storage: "BaseStorage"
    studies: dict[str, int]


def require_dashboard() -> None:
    """Checks that optuna-dashboard is installed.

    Raises:
        UserError: it is not.
    """
    if importlib.util.find_spec("optuna_dashboard") is None:
        raise UserError(
            "the dashboard needs optuna-dashboard, which is not installed:"
            " pip install 'moe-autotune[dashboard]'"
        )


def copy_studies(report: Report, file: Path) -> Copy:
    """Writes a report's trials as studies to a new journal file.

    Raises:
        UserError: the file exists, or cannot be written.
    """
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    if file.exists():
        raise UserError(f"{file} exists: name a new file with --storage, or delete it")
    try:
        storage = JournalStorage(JournalFileBackend(str(file)))
    except OSError as error:
        raise UserError(
            f"cannot write {file} ({error.strerror}): name another file with --storage"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    names = _names(report)
    studies = {}
    for chapter in report.problems:
        for stage in Stage:
            if trials := chapter.trials[stage]:
                name = names[id(chapter), stage]
                study = optuna.create_study(storage=storage, study_name=name, direction="minimize")
                with warnings.catch_warnings():
                    # A metric's name is experimental in Optuna, and the one way to name the dashboard's axis.
                    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                    study.set_metric_names([_metric(chapter)])
                for attribute, value in _attributes(chapter, stage).items():
                    study.set_user_attr(attribute, value)
                study.add_trials(_frozen(trials))
                _note(study, trials)
                studies[name] = len(trials)
    return Copy(storage, studies)


def _metric(chapter: ProblemReport) -> str:
    """The name and unit of the axis."""
    basis = f", {chapter.conditions.basis}" if chapter.conditions.basis else ""
    return f"{chapter.words.adjective} time per launch in µs{basis}"


def _note(study: "Study", trials: Sequence[StoredTrial]) -> None:
    """Puts the report's importances beside the dashboard's, which are other numbers, and says why."""
    shares = "\n".join(f"| {effect.knob} | {effect.share:.0%} |" for effect in effects(trials))
    text = f"{IMPORTANCES}\n\n| knob | share in the report |\n|---|--:|\n{shares}\n"
    study.set_user_attr("importances", text)
    if importlib.util.find_spec("optuna_dashboard") is not None:
        from optuna_dashboard import save_note

        save_note(study, text)


def _names(report: Report) -> dict[tuple[int, Stage], str]:
    """A name a study that tells shape, stage, kind and device; equal ones are numbered."""
    seen: Counter[str] = Counter()
    names = {}
    for chapter in report.problems:
        for stage in Stage:
            conditions = chapter.conditions
            routing = "" if chapter.problem.routing.key == "uniform" else f" {chapter.problem.routing.key}"
            name = (
                f"{chapter.problem.shape}{routing} {stage}, {conditions.kind},"
                f" {conditions.backend} on {conditions.environment.device}"
            )
            seen[name] += 1
            names[id(chapter), stage] = name if seen[name] == 1 else f"{name} ({seen[name]})"
    return names


def _attributes(chapter: ProblemReport, stage: Stage) -> dict[str, Any]:
    conditions = chapter.conditions
    return {
        "problem": chapter.problem.key,
        "stage": str(stage),
        "kind": str(conditions.kind),
        "conditions": conditions.workload,
        "stack": asdict(conditions.environment),
    }


def _frozen(trials: Sequence[StoredTrial]) -> "list[FrozenTrial]":
    """Optuna's trials; knobs are categorical, since a value may be unset and steps are uneven."""
    from optuna.distributions import BaseDistribution, CategoricalDistribution
    from optuna.trial import TrialState, create_trial

    values: dict[str, set[Value]] = {}
    for trial in trials:
        for knob, value in trial.config.items():
            values.setdefault(knob, set()).add(value)
    distributions: dict[str, BaseDistribution] = {
        knob: CategoricalDistribution([_choice(value) for value in ordered(list(choices))])
        for knob, choices in values.items()
    }
    parts = []
    for trial in trials:
        ok = trial.status is Status.OK
        frozen = create_trial(
            state=TrialState.COMPLETE if ok else TrialState.FAIL,
            value=trial.time_us if ok else None,
            params={knob: _choice(value) for knob, value in trial.config.items()},
            distributions={knob: distributions[knob] for knob in trial.config},
            user_attrs=_of_trial(trial),
        )
        frozen.datetime_start = frozen.datetime_complete = trial.created_at.replace(tzinfo=None)
        parts.append(frozen)
    return parts


def _choice(value: Value) -> int | str:
    """A knob's value as Optuna stores it; JSON would not tell true from 1."""
    return value if isinstance(value, int) and not isinstance(value, bool) else value_text(value)


def _of_trial(trial: StoredTrial) -> dict[str, Any]:
    facts = {name: fact for name, fact in asdict(trial.facts).items() if fact is not None}
    told = {
        "trial": trial.id,
        "status": str(trial.status),
        "reason": trial.reason,
        "origin": trial.origin,
        "gate_error": trial.gate_error,
        **facts,
    }
    return {name: value for name, value in told.items() if value is not None}


def check_port(port: int) -> None:
    """Checks that the port can be listened on.

    Raises:
        UserError: it is taken, or reserved.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            why = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
            raise UserError(f"port {port} {why}: name another one with --port") from error


def has_screen() -> bool:
    """Whether a browser has a window to open; without one a text browser would take over the terminal."""
    if not sys.platform.startswith("linux"):
        return True
    return any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


def serve(copied: Copy, port: int) -> None:
    """Serves studies on this machine only, until interrupted."""
    import optuna_dashboard

    optuna_dashboard.run_server(copied.storage, host=HOST, port=port)
