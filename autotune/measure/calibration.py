"""Whether equal GPUs agree: what the same configs took on each of them."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, log
from statistics import fmean, median
from typing import Final

from autotune.problem.layer import Problem, Stage
from autotune.results import Gpu
from autotune.space.config import Config
from autotune.store.records import CalibrationWindow
from autotune.text import counted

TOLERANCE: Final = 0.005
"""GPUs whose times differ by more do not share a problem."""
WINDOWS: Final = 3
"""Of each config on each GPU: single windows of one config differ by 0.1 to 3 % (H100)."""


@dataclass(frozen=True)
class Calibration:
    """What the same configs took on each GPU.

    A GPU's factor is the geometric mean, over the configs, of its time against the GPUs' mean.

    Attributes:
        factors: a GPU's time against the mean of all.
        configs: that were timed on every GPU.
    """

    factors: Mapping[Gpu, float]
    configs: int

    @property
    def spread(self) -> float:
        """By which fraction the slowest GPU is slower than the fastest."""
        return max(self.factors.values()) / min(self.factors.values()) - 1

    @property
    def agree(self) -> bool:
        """Whether one problem may be shared among the GPUs."""
        return self.spread <= TOLERANCE

    @property
    def text(self) -> str:
        """A sentence."""
        of = f"({counted(self.configs, 'config')}, {WINDOWS} windows each)"
        gpus = f"{len(self.factors)} GPUs"
        if self.agree:
            return f"{gpus} agree within {self.spread:.2%} {of}: they share every problem"
        slowest = max(self.factors, key=lambda gpu: self.factors[gpu])
        return (
            f"{gpus} differ by {self.spread:.2%} {of}, {slowest} is the slowest: each problem is measured on"
            " one of them"
        )


def calibration_of(windows: Sequence[CalibrationWindow]) -> Calibration | None:
    """A calibration from its windows; None: no config was timed on two GPUs."""
    taken: dict[tuple[Problem, Stage, Config], dict[Gpu, list[float]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for window in windows:
        taken[window.problem, window.stage, window.config][window.gpu].append(window.us)
    gpus = {gpu for by_gpu in taken.values() for gpu in by_gpu}
    everywhere = [by_gpu for by_gpu in taken.values() if by_gpu.keys() == gpus]
    if len(gpus) < 2 or not everywhere:
        return None
    logs = [{gpu: log(median(us)) for gpu, us in by_gpu.items()} for by_gpu in everywhere]
    return Calibration(
        {gpu: exp(fmean(each[gpu] - fmean(each.values()) for each in logs)) for gpu in sorted(gpus, key=str)},
        len(everywhere),
    )
