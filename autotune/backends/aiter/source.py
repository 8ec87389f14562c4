"""Which AITER there is, told by its files: nothing of it is imported."""

import importlib.util
import os
from enum import StrEnum
from pathlib import Path

from autotune.errors import UserError

SOURCE_VARIABLE = "AUTOTUNE_AITER_SRC"


class AiterGeneration(StrEnum):
    """How AITER's MoE kernels are configured."""

    PUBLISHED = "published"  # 511df6a, b5757d6: process environment
    MAIN = "main"  # kernel names in tuned_fmoe.csv
    OTHER = "neither published nor main"


def generation_of(package: Path) -> AiterGeneration:
    """The generation of the AITER whose folder `aiter/` this is.

    The published one has a switch of its own for INT8 activations; main looks kernels up by name.
    """
    if "AITER_W4A8_USE_INT8" in _text(package / "fused_moe.py"):
        return AiterGeneration.PUBLISHED
    if "get_flydsl_kernel_params" in _text(package / "ops/flydsl/moe_kernels.py"):
        return AiterGeneration.MAIN
    return AiterGeneration.OTHER


def find_package() -> Path | None:
    """The folder `aiter/` that `AUTOTUNE_AITER_SRC` names, or the installed one; None: there is none."""
    named = os.environ.get(SOURCE_VARIABLE)
    if named:
        return Path(named) / "aiter"
    try:
        spec = importlib.util.find_spec("aiter")
    except (ImportError, ValueError):
        return None
    places = list(spec.submodule_search_locations or ()) if spec else []
    return Path(places[0]) if places else None


def require_published() -> None:
    """Makes sure that an AITER that is here is of the generation whose knobs we turn; none is fine offline.

    Raises:
        UserError: it is another.
    """
    package = find_package()
    if package is None or generation_of(package) is AiterGeneration.PUBLISHED:
        return
    raise UserError(
        f"the AITER at {package} is of generation {generation_of(package)}, which has no INT8 x INT4 kernel:"
        " use the image that serves the model (aiter 511df6a or b5757d6)"
    )


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
