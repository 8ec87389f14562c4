"""vLLM's own lookup of its fused-MoE file, run on a bundle, and what its kernels need of a machine."""

import ast
from pathlib import Path

from autotune.backends.vllm.calls import VLLM
from autotune.backends.vllm.export import VARIABLE
from autotune.engines.doctor import EngineDoctor
from autotune.engines.verify import FusedMoeVerifier
from autotune.errors import UserError

_ROCM = "vllm/platforms/rocm.py"
_AMD = "0x1002"  # the PCI vendor


class VllmDoctor(EngineDoctor):
    """See `protocol.doctor.Doctor`."""

    engine = VLLM


class VllmVerifier(FusedMoeVerifier):
    """One file for both stages. On ROCm the engine names a GPU by its PCI device id, e.g. 0x74a5."""

    engine = VLLM
    needed = (
        "vllm/envs.py",
        "vllm/utils/platform_utils.py",
        _ROCM,
        "vllm/model_executor/layers/fused_moe/fused_moe.py",
        "vllm/model_executor/layers/fused_moe/configs",
    )
    variable = VARIABLE
    lookup = "autotune.backends.vllm.lookup:vllm_lookup"

    def device_here(self) -> str | None:
        if Path("/dev/kfd").exists():
            for gpu in sorted(Path("/sys/class/drm").glob("card*/device")):
                if (gpu / "vendor").read_text().strip() == _AMD:
                    return (gpu / "device").read_text().strip()
        return super().device_here()

    def device_name(self, root: Path, name: str) -> str:
        if not name.lower().startswith("0x"):
            return name
        known = _pci_names(root / _ROCM).get(name.lower())
        if known is None:
            raise UserError(
                f"vLLM's table of ROCm GPUs has no {name}: give the marketing name with --device-name"
            )
        return known


def _pci_names(path: Path) -> dict[str, str]:
    """The table of PCI device ids in vLLM's platform file, which cannot be imported without ROCm."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        target = node.target if isinstance(node, ast.AnnAssign) else None
        if isinstance(target, ast.Name) and target.id == "_ROCM_DEVICE_ID_NAME_MAP":
            assert isinstance(node, ast.AnnAssign)
            assert node.value is not None
            table: dict[str, str] = ast.literal_eval(node.value)
            return table
    return {}
