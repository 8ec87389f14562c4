"""Tells of the GPUs of a run that had several, and whether they agree."""

from typing import Any

from autotune.measure.calibration import calibration_of
from autotune.store.store import Store


def as_json(store: Store, run: int) -> dict[str, Any] | None:
    """What a run found of its GPUs, as JSON values; None: it compared none."""
    calibration = calibration_of(store.calibration(run))
    if calibration is None:
        return None
    return {
        "agree": calibration.agree,
        "spread": calibration.spread,
        "configs": calibration.configs,
        "gpus": [
            {"host": gpu.host, "gpu": gpu.uuid, "factor": factor}
            for gpu, factor in calibration.factors.items()
        ],
    }
