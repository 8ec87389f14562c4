"""Checks in other processes: verdicts come back, and what hangs, dies or does not compile is a failure."""

import os
from typing import Any

import pytest

from autotune.check.judged import Checked, CheckPool
from autotune.errors import UserError
from autotune.machine.devices import DEVICES
from autotune.problem.layer import Stage
from autotune.results import Failure, Status, VerdictStatus
from autotune.space.config import Config
from tests.spaces import KIMI, MI325X

pytest.importorskip("triton")
from autotune.backends.triton.backend import TritonW4A8


def default(stage: Stage, **knobs: Any) -> Config:
    return TritonW4A8().space(KIMI, 4, stage, MI325X).complete(knobs)


@pytest.mark.slow
def test_a_binary_is_checked_once_and_has_the_hash_that_the_compile_pool_gives() -> None:
    config = default(Stage.STAGE2)
    with CheckPool("triton", MI325X, workers=1) as pool:
        future = pool.submit(KIMI, 4, Stage.STAGE2, config)
        assert pool.submit(KIMI, 2, Stage.STAGE2, config) is future
        checked = future.result()
    assert isinstance(checked, Checked)
    assert checked.verdict.status is VerdictStatus.PASS
    compiled = TritonW4A8().compile(KIMI, 4, Stage.STAGE2, config, MI325X)
    assert checked.compiled.binary_hash == compiled.binary_hash


@pytest.mark.fault
def test_what_takes_too_long_is_no_verdict() -> None:
    with CheckPool("triton", MI325X, workers=1, time_limit_s=0.05) as pool:
        outcome = pool.submit(KIMI, 4, Stage.STAGE1, default(Stage.STAGE1)).result()
    assert isinstance(outcome, Failure)
    assert outcome.status is Status.TIMEOUT


def test_what_does_not_compile_is_no_verdict() -> None:
    with CheckPool("triton", MI325X, workers=1) as pool:
        config = default(Stage.STAGE2, num_warps=3)  # no power of two
        outcome = pool.submit(KIMI, 4, Stage.STAGE2, config).result()
    assert isinstance(outcome, Failure)
    assert outcome.reason


@pytest.mark.parametrize(
    ("backend", "device", "words"),
    [("vllm", MI325X, "backend vllm brings no checker"), ("triton", DEVICES["h100"], "h100 is sm_90: only")],
)
def test_what_cannot_be_executed_here_is_said(backend: str, device: Any, words: str) -> None:
    assert os.cpu_count()
    with pytest.raises(UserError, match=words):
        CheckPool(backend, device, workers=1)
