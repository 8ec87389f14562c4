"""SGLang's and vLLM's own lookup of a fused-MoE file, run on a bundle."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autotune.engines.diagnose import Answer, diagnose
from autotune.engines.source import EngineSource
from autotune.engines.verify_process import run_worker
from autotune.errors import UserError
from autotune.protocol.bundle import Bundle
from autotune.protocol.lookup import Check, Verification, short

_NEEDED = {
    "sglang": ("sglang/srt/layers/moe/moe_runner/triton_utils",),
    "vllm": (
        "vllm/envs.py",
        "vllm/utils/platform_utils.py",
        "vllm/platforms/rocm.py",
        "vllm/model_executor/layers/fused_moe/fused_moe.py",
        "vllm/model_executor/layers/fused_moe/configs",
    ),
}
_VARIABLES = {"sglang": "SGLANG_MOE_CONFIG_DIR", "vllm": "VLLM_TUNED_CONFIG_FOLDER"}


def verify_fused_moe(
    bundle: Bundle,
    engine: str,
    source: EngineSource,
    *,
    device_name: str | None = None,
    triton_version: str | None = None,
    asked: Mapping[str, Any] | None = None,
) -> Verification:
    """Runs the engine's lookup with the bundle's environment, and compares with what the export meant.

    Args:
        engine: `sglang` or `vllm`.
        device_name: the serving GPU's name as the engine makes it; for vLLM on ROCm also its PCI device id,
            e.g. 0x74a5; None: what the bundle was exported for.
        triton_version: of the serving stack; None: what the bundle was exported for.
        asked: what the engine asks by for the model that is served, where the export meant something else.

    Raises:
        UserError: the bundle is not for this engine, or the source lacks what is run.
    """
    lookup = bundle.lookup(engine)
    intended: Mapping[str, Mapping[str, Any]] = lookup["intended"]
    tokens = sorted({int(m) for table in intended.values() for m in table})
    with tempfile.TemporaryDirectory(prefix="autotune-verify-") as scratch:
        root = source.unpack(Path(scratch), *_NEEDED[engine])
        request = {
            **lookup,
            **(asked or {}),
            "engine": engine,
            "root": str(root),
            "tokens": tokens,
            "device_name": _device_name(engine, root, device_name or lookup["device_name"]),
            "triton_version": triton_version or lookup.get("triton_version"),
        }
        variable = _VARIABLES[engine]
        answer = Answer(**_run(request, variable, bundle.here(variable)))
    checks = tuple(_checks(intended, answer))
    reasons = [
        *diagnose(bundle, engine, variable, request["triton_version"], intended, answer),
        *bundle.changed(),
    ]
    notes = [message for message in answer.messages if "suboptimal" not in message.lower()]
    return Verification(f"{engine} at {source.root}", checks, tuple(dict.fromkeys(reasons)), tuple(notes))


def _checks(intended: Mapping[str, Mapping[str, Any]], answer: Answer) -> list[Check]:
    made = []
    for what, table in intended.items():
        for m in sorted(table, key=int):
            selected = answer.selected.get(m, {}).get(what)
            ok = selected == table[m]
            name = "both stages" if what == "both" else what
            made.append(Check(f"{name} at M = {m}", short(selected), ok, "" if ok else short(table[m])))
    return made


def _run(request: Mapping[str, Any], variable: str, value: str | None) -> dict[str, Any]:
    """The worker's answer with `variable` set, and without it where `value` is None."""
    return run_worker(request, {} if value is None else {variable: value}, without=_VARIABLES.values())


def _device_name(engine: str, root: Path, name: str) -> str:
    """The GPU's name; a PCI id is looked up in vLLM's own table.

    Raises:
        UserError: the table has no such id.
    """
    if engine != "vllm" or not name.lower().startswith("0x"):
        return name
    found = _pci_names(root / "vllm/platforms/rocm.py").get(name.lower())
    if found is None:
        raise UserError(
            f"vLLM's table of ROCm GPUs has no {name}: give the marketing name with --device-name"
        )
    return found


def _pci_names(path: Path) -> dict[str, str]:
    """The table of PCI device ids in vLLM's platform file, which cannot be imported without ROCm."""
    import ast

    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        target = node.target if isinstance(node, ast.AnnAssign) else None
        if isinstance(target, ast.Name) and target.id == "_ROCM_DEVICE_ID_NAME_MAP":
            assert isinstance(node, ast.AnnAssign)
            assert node.value is not None
            table: dict[str, str] = ast.literal_eval(node.value)
            return table
    return {}


def known_engines() -> Sequence[str]:
    """Engines with a fused-MoE file."""
    return tuple(_NEEDED)
