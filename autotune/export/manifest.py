"""`manifest.json`: what a bundle holds, where it was measured, against what, and its files' hashes."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from autotune import __version__
from autotune.machine.fingerprint import Fingerprint
from autotune.machine.targets import Kind
from autotune.problem.layer import Stage
from autotune.protocol.bundle import VERSION
from autotune.protocol.exporter import estimate_note
from autotune.results import CheckVerdict, LayerConfig
from autotune.store.records import WinnerRecord


def manifest_json(
    winners: Sequence[WinnerRecord],
    files: Mapping[str, str],
    *,
    serving_folder: str | None = None,
    variables: Mapping[str, str] | None = None,
    lookups: Mapping[str, Any] | None = None,
    decision: Mapping[str, Any] | None = None,
    requantised: bool = False,
    checks: Mapping[int, Mapping[Stage, CheckVerdict]] | None = None,
) -> str:
    """The manifest's text; equal winners and files give equal bytes.

    Args:
        winners: what the bundle deploys, in its order.
        files: the other files, name to text.
        serving_folder: the path under which the serving process finds the bundle.
        variables: the process environment.
        lookups: what each engine must find in the files: what `autotune verify` goes by.
        decision: how a process-global setting was chosen.
        requantised: the experts that are served are in the backend's numbers, not in the checkpoint's.
        checks: by a winner's id, what executing its stages' machine code on the CPU has shown.
    """
    note = estimate_note(winners)
    content = {
        "format": "autotune-bundle",
        "version": VERSION,
        **({"note": note} if note else {}),
        "tool_version": __version__,
        "model": winners[0].problem.layer.model,
        "layer": winners[0].problem.layer.dims,
        **({"requantised": True} if requantised else {}),
        "backend": winners[0].backend,
        "measured": all(winner.kind is Kind.MEASURED for winner in winners),
        "winners": [_winner(winner, (checks or {}).get(winner.id, {})) for winner in winners],
        "environments": {
            stack.key: asdict(stack) | {"tool_version": _versions(winners, stack)}
            for stack in sorted({w.environment for w in winners}, key=lambda stack: stack.key)
        },
        "serving_folder": serving_folder,
        "variables": dict(sorted((variables or {}).items())),
        "lookups": lookups or {},
        **({"decision": decision} if decision else {}),
        "files": {
            name: {"bytes": len(text.encode()), "sha256": hashlib.sha256(text.encode()).hexdigest()}
            for name, text in sorted(files.items())
        },
    }
    return json.dumps(content, indent=2) + "\n"


def _versions(winners: Sequence[WinnerRecord], stack: Fingerprint) -> str:
    """The versions of this tool that measured on a stack."""
    return ", ".join(sorted({w.environment.tool_version for w in winners if w.environment == stack}))


def _winner(winner: WinnerRecord, checks: Mapping[Stage, CheckVerdict]) -> dict[str, Any]:
    problem = winner.problem
    return {
        "shape": f"m{problem.verify_tokens}",
        "concurrency": problem.concurrency,
        "tokens": problem.tokens,
        "routing": problem.routing.key,
        "kind": str(winner.kind),
        "kept_default": winner.kept_default,
        "config": _stages(winner.config),
        "default": _stages(winner.default),
        "gain": winner.gain,
        "gain_95": None if winner.gain_low is None else [winner.gain_low, winner.gain_high],
        # null: that stage's machine code was not executed.
        "executed_on_cpu": {
            str(stage): _verdict(checks[stage]) if stage in checks else None for stage in Stage
        },
        "environment": winner.environment.key,
        "made_at": winner.created_at.isoformat(),
    }


def _verdict(verdict: CheckVerdict) -> dict[str, Any]:
    return {"verdict": str(verdict.status), "error": verdict.error, "reason": verdict.reason}


def _stages(config: LayerConfig) -> dict[str, Any]:
    return {"stage1": dict(config.stage1), "stage2": dict(config.stage2)}
