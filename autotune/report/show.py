"""Writes the winners at a glance, or all that is known of one trial, for `autotune show`."""

from collections.abc import Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

from autotune.errors import UserError
from autotune.machine.targets import Kind
from autotune.report.configs import layer_changes
from autotune.report.text_table import Column, text_table, wrapped
from autotune.report.winners import WinnerSummary, as_json, summarise
from autotune.store.records import StoredTrial
from autotune.store.store import Store
from autotune.text import duration, percent

COLUMNS = (
    Column("model"),
    Column("shape"),
    Column("tokens", right=True),
    Column("routing"),
    Column("backend"),
    Column("device"),
    Column("kind"),
    Column("default µs", right=True),
    Column("winner µs", right=True),
    Column("gain", right=True),
    Column("95% CI"),
    Column("changed"),
)


def winners_at_a_glance(
    store: Store, *, device: str | None = None, newest: int | None = None
) -> list[WinnerSummary]:
    """The latest winner of each problem, backend, stack and kind, by backend, device and tokens.

    Args:
        device: part of the device's name; None: any.
        newest: so many of them at most; None: all.
    """
    winners = store.winners(device=device, newest=newest)
    winners.sort(key=lambda w: (w.backend, w.environment.device, w.kind, w.problem.tokens, w.created_at))
    return summarise(store, winners)


def winner_lines(summaries: Sequence[WinnerSummary], width: int | None = None) -> list[str]:
    """A table of winners for people, in lines of at most `width` characters."""
    rows = []
    for summary in summaries:
        winner = summary.winner
        interval = (
            ""
            if winner.gain_low is None or winner.gain_high is None or winner.kept_default
            else f"{percent(winner.gain_low, signed=True)} to {percent(winner.gain_high, signed=True)}"
        )
        kept = "kept default" if winner.kept_default else layer_changes(winner.config, winner.default)
        rows.append(
            [
                winner.problem.layer.title,
                winner.problem.shape,
                str(winner.problem.tokens),
                winner.problem.routing.key,
                winner.backend,
                winner.environment.device,
                str(winner.kind),
                _microseconds(summary.default_us),
                _microseconds(summary.winner_us),
                "" if winner.kept_default else percent(winner.gain, signed=True),
                interval,
                kept,
            ]
        )
    estimates = [summary.winner.kind is Kind.ESTIMATE for summary in summaries]
    chosen = "listed first µs" if all(estimates) else "winner or listed first µs" if any(estimates) else None
    columns = [Column(chosen, right=True) if chosen and c.name == "winner µs" else c for c in COLUMNS]
    lines = text_table(columns, rows, width)
    if any(estimates):
        note = "An estimate is a formula on the compiled code: nothing ran on that device."
        lines += ["", *wrapped(note, width)]
    return lines


def winner_json(summary: WinnerSummary) -> dict[str, Any]:
    """A winner as JSON values."""
    winner = summary.winner
    return {
        **as_json(summary),
        "backend": winner.backend,
        "layer": winner.problem.layer.key,
        "run": winner.run,
        "environment": winner.environment.key,
        "made_at": winner.created_at.isoformat(),
    }


def _microseconds(us: dict[str, float]) -> str:
    """The layer's time; an estimate has only its stages', whose sum it is."""
    total = us["layer"] if "layer" in us else sum(us.values())
    return f"{total:.2f}" if us else ""


def find_trial(store: Store, number: int) -> StoredTrial:
    """The trial with an id.

    Raises:
        UserError: there is none.
    """
    try:
        return store.trial(number)
    except LookupError:
        raise UserError(
            f"there is no trial {number} in {store.location}: `autotune top` lists trials with their numbers"
        ) from None


def trial_json(store: Store, trial: StoredTrial) -> dict[str, Any]:
    """A trial with its samples, as JSON values."""
    samples = store.samples(trial.id)
    return {
        "trial": trial.id,
        "run": trial.run,
        "number": trial.number,
        "problem": trial.problem.key,
        "shape": trial.problem.shape,
        "tokens": trial.problem.tokens,
        "stage": str(trial.stage),
        "backend": trial.backend,
        "device": trial.environment.device,
        "environment": trial.environment.key,
        "workload": trial.workload,
        "config": dict(trial.config),
        "origin": trial.origin,
        "status": str(trial.status),
        "kind": str(trial.kind),
        "us": trial.time_us,
        "gate_error": trial.gate_error,
        "reason": trial.reason,
        "facts": {name: fact for name, fact in asdict(trial.facts).items() if fact is not None},
        "binary_hash": trial.binary_hash,
        "compile_s": trial.compile_s,
        "measure_s": trial.measure_s,
        "merged_into": trial.merged_into,
        "host": None if trial.gpu is None else trial.gpu.host,
        "gpu": None if trial.gpu is None else trial.gpu.uuid,
        "made_at": trial.created_at.isoformat(),
        "samples_us": [sample.us for sample in samples],
        "throttled_samples": sum(sample.throttled for sample in samples),
    }


def trial_lines(store: Store, trial: StoredTrial, width: int | None = None) -> list[str]:
    """All that is known of a trial, for people, in lines of at most `width` characters."""
    samples = [sample.us for sample in store.samples(trial.id)]
    facts = {name: fact for name, fact in asdict(trial.facts).items() if fact is not None}
    known = {
        "trial": f"{trial.id}, number {trial.number} of run {trial.run}, {trial.origin}",
        "problem": f"{trial.problem.shape} {trial.stage}, {trial.problem.key}",
        "backend": trial.backend,
        "device": f"{trial.environment.device}, {trial.environment.runtime}",
        "GPU": "" if trial.gpu is None else str(trial.gpu),
        "config": str(trial.config),
        "status": str(trial.status) + (f": {trial.reason}" if trial.reason else ""),
        "time": "" if trial.time_us is None else f"{trial.time_us:.2f} µs, {trial.kind}",
        "samples": _spread(samples),
        "merged": f"its machine code is trial {trial.merged_into}'s, whose time this is"
        if trial.merged_into is not None
        else "",
        "gate error": "" if trial.gate_error is None else f"{trial.gate_error:.2e}",
        "code": ", ".join(f"{name} {fact}" for name, fact in facts.items()),
        "cost": f"compile {duration(trial.compile_s)}, device {trial.measure_s:.2f} s",
        "conditions": trial.workload,
    }
    return [
        line
        for name, text in known.items()
        if text
        for line in wrapped(f"{name:<11} {text}", width, indent=12)
    ]


def _spread(us: Sequence[float]) -> str:
    return f"{len(us)}, {min(us):.2f} to {max(us):.2f} µs, median {median(us):.2f}" if us else ""
