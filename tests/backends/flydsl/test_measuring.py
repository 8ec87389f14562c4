"""A tree's kernels end to end: through real measure workers and the gate, over both stand-in trees."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from autotune.backends.flydsl.launch import make_order
from autotune.errors import UserError
from autotune.measure.pool import Measurer
from autotune.problem.layer import Stage
from autotune.protocol.process_knobs import layer_environment
from autotune.protocol.registry import load_backend
from autotune.protocol.runtime import load_runtime
from autotune.results import Failure, Finalist, LayerConfig, Measurement
from autotune.space.config import Config
from tests.backends.flydsl.on_cpu import LAYER, NAME, PROBLEM
from tests.measure.conftest import QUICK
from tests.spaces import MI325X
from tests.standins import WHEEL

pytestmark = pytest.mark.slow

BACKEND = load_backend("flydsl")
# The stand-in is slow and its times mean nothing.
FEW = replace(
    QUICK, steps=1, cold=0.0, window_s=0.01, warmup_s=0.01, min_sample_us=1.0, select_rounds=2, judge_rounds=2
)
Launches = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def launches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Launches:
    """The stand-in wheel in this Python, without its stand-in torch; what was launched so far."""
    log, site = tmp_path / "launches.jsonl", tmp_path / "wheel"
    log.touch()
    site.mkdir()
    (site / "flydsl").symlink_to(WHEEL / "flydsl")
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("STANDIN_LOG", str(log))
    monkeypatch.setenv("AUTOTUNE_FLYDSL_CACHE", str(tmp_path / "cache"))
    return lambda: [json.loads(line) for line in log.read_text().splitlines()]


def config(stage: Stage, **knobs: Any) -> Config:
    return BACKEND.space(LAYER, 4, stage, MI325X).complete(knobs)


def measured(*wanted: tuple[Stage, Config]) -> list[Measurement | Failure]:
    with Measurer(NAME, [PROBLEM], FEW) as measurer:
        return [
            measurer.submit(PROBLEM, stage, one, BACKEND.environment(one)).result() for stage, one in wanted
        ]


def confirmed(*configs: LayerConfig) -> list[float | None]:
    labels = ("default", "other")
    finalists = [Finalist(label, one) for label, one in zip(labels, configs, strict=True)]
    with Measurer(NAME, [PROBLEM], FEW) as measurer:
        return list(measurer.confirm(PROBLEM, finalists, layer_environment(BACKEND.environment)).errors)


@pytest.mark.usefixtures("main")
def test_mains_parameters_and_hints_reach_the_kernels_and_the_numbers_are_right(launches: Launches) -> None:
    for answer in measured(
        (Stage.STAGE1, config(Stage.STAGE1, tile_n=256)),
        (Stage.STAGE1, config(Stage.STAGE1, waves_per_eu=2, sched_strategy="max-ilp")),
        (Stage.STAGE2, config(Stage.STAGE2, tile_n=128)),
        (Stage.STAGE2, config(Stage.STAGE2, mode="reduce", tile_k=128)),
    ):
        assert isinstance(answer, Measurement), answer
        assert answer.error < 0.01
    ran = launches()
    hints = {"waves_per_eu": 2, "llvm_options": {"amdgpu-sched-strategy": "max-ilp"}}
    assert hints in [launch["hints"] for launch in ran]
    assert {(one["tile_n"], one["tile_k"]) for one in ran if one["stage"] == 1} == {(256, 256), (128, 256)}
    assert {(one["tile_n"], one["accumulate"]) for one in ran if one["stage"] == 2} == {
        (128, True),
        (256, False),
    }


@pytest.mark.usefixtures("main")
def test_a_layer_of_mains_kernels_is_confirmed(launches: Launches) -> None:
    one = config(Stage.STAGE1)
    errors = confirmed(*(LayerConfig(one, config(Stage.STAGE2, mode=mode)) for mode in ("atomic", "reduce")))
    assert all(error is not None and error < 0.02 for error in errors)


@pytest.mark.usefixtures("published")
def test_the_published_kernels_run_with_each_gate_in_a_cache_of_its_own(
    launches: Launches, tmp_path: Path
) -> None:
    answers = measured(
        (Stage.STAGE1, config(Stage.STAGE1)),
        (Stage.STAGE1, config(Stage.STAGE1, sched=False)),
        (Stage.STAGE2, config(Stage.STAGE2, mode="reduce")),
    )
    for answer in answers:
        assert isinstance(answer, Measurement), answer
    assert {(one["stage"], one["gate"]) for one in launches()} == {(1, True), (1, False), (2, True)}
    assert (tmp_path / "cache/stage1-off.stage2-on").is_dir()


@pytest.mark.usefixtures("published")
def test_a_layer_of_the_published_kernels_is_confirmed(launches: Launches) -> None:
    plain, other = (
        LayerConfig(config(Stage.STAGE1, **one), config(Stage.STAGE2, **two))
        for one, two in (({}, {}), ({"sched": False}, {"tile_k": 256, "mode": "reduce"}))
    )
    assert all(error is not None and error < 0.02 for error in confirmed(plain, other))


@pytest.mark.usefixtures("published")
def test_an_illegal_tile_is_refused_before_it_is_launched(launches: Launches) -> None:
    (answer,) = measured((Stage.STAGE1, config(Stage.STAGE1, tile_n=32)))
    assert isinstance(answer, Failure)
    assert "16 columns at a time" in answer.reason
    assert launches() == []


def test_slots_are_sorted_as_aiters_sort_does() -> None:
    ids = torch.tensor([[3, 0], [0, 2], [3, 2]], dtype=torch.int32)
    router = torch.arange(6.0).view(3, 2)
    order = make_order(ids, router, experts=4, tile_m=2)
    pad = 2 << 24 | 3
    assert order.ids.tolist()[:6] == [1 << 24 | 0, 1, 1 << 24 | 1, 1 << 24 | 2, 0, 2]
    assert set(order.ids.tolist()[6:]) == {pad}
    assert order.router.tolist()[:6] == [1.0, 2.0, 3.0, 5.0, 0.0, 4.0]
    assert order.experts.tolist()[:3] == [0, 2, 3]
    assert (int(order.valid), order.blocks) == (6, 6)


def test_without_an_amd_gpu_it_only_compiles() -> None:
    with pytest.raises(UserError, match="offline:mi325x"):
        load_runtime(load_backend("flydsl").runtime)
