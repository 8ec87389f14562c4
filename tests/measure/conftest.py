"""A tiny layer and quick settings, so that the real worker, pool and gate run in tests without a GPU."""

from collections.abc import Iterator
from typing import Any

import pytest

from autotune.measure.pool import Measurer
from autotune.measure.settings import MeasureSettings
from autotune.problem.layer import Layer, Problem

TINY = Layer("tiny", model_dim=128, inter_dim=64, experts=8, top_k=2, tp=1)
PROBLEM = Problem(TINY, verify_tokens=4)
FAKE = "tests.measure.fake_runtime:make"
QUICK = MeasureSettings(
    cold=0.5,
    steps=4,
    window_s=0.05,
    warmup_s=0.05,
    timeout_s=20.0,
    prepare_timeout_s=60.0,
    select_rounds=4,
    judge_rounds=8,
    resamples=1000,
)


@pytest.fixture(scope="module")
def measurer() -> Iterator[Measurer]:
    """One measurer for a module's tests: what one of them breaks must not harm the next."""
    with Measurer(FAKE, [PROBLEM], QUICK) as made:
        yield made


@pytest.fixture
def gpu() -> Any:
    """Torch's properties of the GPU here; skips without one."""
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    return torch.cuda.get_device_properties(0)
