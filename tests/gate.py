"""The gate on one launch."""

from autotune.measure.gate import Case, check_launches
from autotune.protocol.runtime import Launch, Path, What


def check_launch(launch: Launch, case: Case, what: What, path: Path) -> float:
    return check_launches([launch], [case], what, path)
