"""Whether equal GPUs agree, from windows of the same configs on each."""

from types import SimpleNamespace
from typing import Any

import pytest

from autotune.measure.calibration import Calibration, calibration_of
from autotune.problem.layer import Stage
from autotune.results import Gpu
from autotune.space.config import Config
from tests.measure.conftest import PROBLEM

ONE, TWO = Gpu("host", "GPU-1"), Gpu("host", "GPU-2")


def windows(*taken: tuple[int, Gpu, float]) -> list[Any]:
    """Windows of configs by number."""
    return [
        SimpleNamespace(problem=PROBLEM, stage=Stage.STAGE1, config=Config({"n": n}), gpu=gpu, us=us)
        for n, gpu, us in taken
    ]


def test_a_gpus_factor_is_the_geometric_mean_of_its_medians_against_all() -> None:
    made = calibration_of(
        windows(
            *[(0, ONE, us) for us in (10.0, 10.0, 99.0)],
            *[(0, TWO, us) for us in (40.0, 1.0, 40.0)],
            *[(1, ONE, 20.0), (1, TWO, 20.0)],
            (2, ONE, 5.0),  # not on every GPU
        )
    )
    assert made is not None
    assert made.configs == 2
    assert list(made.factors) == [ONE, TWO]
    assert made.factors[ONE] == pytest.approx(0.5**0.5)
    assert made.factors[TWO] == pytest.approx(2**0.5)
    assert made.spread == pytest.approx(1.0)


def test_without_a_config_on_two_gpus_nothing_is_known() -> None:
    assert calibration_of([]) is None
    assert calibration_of(windows((0, ONE, 1.0), (1, ONE, 1.0))) is None
    assert calibration_of(windows((0, ONE, 1.0), (1, TWO, 1.0))) is None


@pytest.mark.parametrize(
    ("slower", "configs", "agree", "text"),
    [
        (1.005, 1, True, "2 GPUs agree within 0.50% (1 config, 3 windows each): they share every problem"),
        (1.0, 3, True, "2 GPUs agree within 0.00% (3 configs, 3 windows each): they share every problem"),
        (
            1.006, 3, False,
            f"2 GPUs differ by 0.60% (3 configs, 3 windows each), {TWO} is the slowest: each problem is"
            " measured on one of them",
        ),
    ],
)  # fmt: skip
def test_gpus_agree_within_half_a_percent(slower: float, configs: int, agree: bool, text: str) -> None:
    made = Calibration({ONE: 1.0, TWO: slower - 1e-12}, configs)
    assert (made.agree, made.text) == (agree, text)
