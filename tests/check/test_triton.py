"""Our kernels at their real dimensions: every way to reduce and to split passes, planted bugs do not."""

from itertools import product
from typing import Any

import numpy as np
import pytest

from autotune.check.check import execute, execute_beside, run_cases
from autotune.problem.layer import Stage
from autotune.protocol.backend import Listing
from autotune.protocol.runtime import Path
from autotune.results import VerdictStatus
from autotune.space.config import Config
from tests.emulate import mutate
from tests.spaces import KIMI, MI325X

pytest.importorskip("triton")
from autotune.backends.triton.backend import TritonW4A8
from autotune.backends.triton.check import TritonChecker, _tile_of

BACKEND = TritonW4A8()
ONE, TWO = Stage


def listing(stage: Stage, tokens: int = 4, **knobs: Any) -> tuple[Config, Listing]:
    space = BACKEND.space(KIMI, tokens, stage, MI325X)
    config = space.complete(knobs)
    assert space.is_legal(config), space.broken_rule(config)
    return config, BACKEND.listing(KIMI, tokens, stage, config, MI325X)


@pytest.mark.parametrize(
    ("stage", "tokens", "knobs"),
    [
        (ONE, 4, {}),
        (ONE, 1, {"split_k": 7, "tile_n": 32, "num_warps": 2}),
        pytest.param(ONE, 160, {"tile_m": 32, "group": 4, "xcds": 8, "split_k": 2}, marks=pytest.mark.slow),
        (ONE, 4, {"requantise": "last", "num_warps": 2}),
        pytest.param(ONE, 160, {"requantise": "last", "tile_m": 32, "split_k": 2}, marks=pytest.mark.slow),
        (TWO, 4, {}),
        (TWO, 4, {"tile_k": 128, "split_k": 2, "xcds": 8}),
        (TWO, 160, {"reduce": "atomic", "tile_m": 32, "group": 16}),
        (TWO, 4, {"reduce": "loop"}),
        (TWO, 8, {"reduce": "loop", "split_blocks": 3, "num_stages": 4}),
        (TWO, 160, {"tile_n": 128, "partials": "bfloat16"}),
    ],
)
def test_it_passes(stage: Stage, tokens: int, knobs: dict[str, Any]) -> None:
    config, made = listing(stage, tokens, **knobs)
    verdict, executed = execute("triton", KIMI, tokens, stage, config, made)
    assert verdict.status is VerdictStatus.PASS, verdict.text
    assert verdict.error is not None
    assert 1e-3 < verdict.error < 3e-3
    assert executed is not None
    assert executed.classes["mfma"] > 0
    assert verdict.counts == executed.summary()


@pytest.mark.parametrize("stage", [pytest.param(ONE, marks=pytest.mark.slow), TWO])
def test_planted_bugs_are_no_pass(stage: Stage) -> None:
    """A few of each class; tests/emulate plants them all in smaller kernels.

    Missed are waits and barriers that order global memory between workgroups: here one runs after another.
    """
    config, made = listing(stage)
    tried, missed = 0, []
    for kind, mutants in mutate.CLASSES.items():
        found = list(mutants(made.text))
        for what, text in found[:: max(1, len(found) // 4)][:4]:
            tried += 1
            verdict, _ = execute("triton", KIMI, 4, stage, config, Listing(text, made.compiled))
            if verdict.status is VerdictStatus.PASS:
                missed.append(f"{kind}: {what}")
    assert tried >= 16
    assert len(missed) <= 0.2 * tried, missed
    assert not [miss for miss in missed if "shifted" in miss or "wrong row" in miss]


@pytest.mark.parametrize(
    ("tokens", "names"),
    [
        (4, ["prepare", "quantise"]),
        pytest.param(160, ["prepare", "place", "quantise"], marks=pytest.mark.slow),
    ],
)
def test_the_sort_and_the_quantiser_pass(tokens: int, names: list[str]) -> None:
    verdicts = list(execute_beside("triton", KIMI, tokens, Config({"tile_m": 32}), MI325X))
    assert [launch.name for launch, _ in verdicts] == names
    for launch, verdict in verdicts:
        assert verdict.status is VerdictStatus.PASS, f"{launch.name}: {verdict.text}"
        assert verdict.error == 0


def test_planted_bugs_of_the_sort_are_no_pass() -> None:
    """Missed are bugs where a value does not matter, such as the order of two stores to different places."""
    tried, missed = 0, []
    text = next(launches()).text
    for kind, mutants in mutate.CLASSES.items():
        found = list(mutants(text))
        for what, mutant in found[:: max(1, len(found) // 3)][:3]:
            tried += 1
            launch = next(launches())
            verdict, _ = run_cases(mutant, launch.lds_bytes, launch.cases, Path())
            if verdict.status is VerdictStatus.PASS:
                missed.append(f"{kind}: {what}")
    assert tried >= 10
    assert len(missed) <= 0.25 * tried, missed


def launches() -> Any:
    return TritonChecker().beside(KIMI, 4, Config({"tile_m": 16}), MI325X, 0)


def test_another_configs_binary_is_found_out() -> None:
    """Its column tiles are twice as wide: what should be written is not, or what should not be is."""
    _, wide = listing(ONE, tile_n=128, tile_k=256)
    config, _ = listing(ONE, tile_k=256)
    verdict, _ = execute("triton", KIMI, 4, ONE, config, wide)
    assert verdict.wrong


def test_an_unknown_instruction_is_named_and_no_pass() -> None:
    config, made = listing(TWO)
    text = made.text.replace("v_mfma_i32_16x16x32_i8", "v_mfma_i32_99x99x99_i8", 1)
    verdict, executed = execute("triton", KIMI, 4, TWO, config, Listing(text, made.compiled))
    assert verdict.status is VerdictStatus.NOT_EMULATED
    assert verdict.reason is not None
    assert verdict.reason.startswith("v_mfma_i32_99x99x99_i8")
    assert executed is None


@pytest.mark.parametrize(("group", "xcds"), list(product((1, 4, 16), (1, 8))))
@pytest.mark.parametrize(("blocks", "n_tiles", "split_k"), [(32, 8, 1), (31, 7, 3), (5, 448, 2)])
def test_every_tile_has_as_many_programs_as_parts(
    blocks: int, n_tiles: int, split_k: int, group: int, xcds: int
) -> None:
    block, n_tile = _tile_of(np.arange(blocks * n_tiles * split_k), n_tiles, split_k, group, xcds)
    tiles, counts = np.unique(block * n_tiles + n_tile, return_counts=True)
    np.testing.assert_array_equal(tiles, np.arange(blocks * n_tiles))
    assert (counts == split_k).all()


@pytest.mark.parametrize("stage", Stage)
@pytest.mark.slow
def test_a_few_configs_of_the_covering_array(stage: Stage) -> None:
    """scripts/check_coverage.py executes all of it."""
    from bench.covering import pairwise

    array = pairwise(BACKEND.space(KIMI, 4, stage, MI325X))
    # The others take minutes to compile.
    quick = [c for c in array if c["num_warps"] < 8 and c["num_stages"] < 5 and c["sched_strategy"] is None]
    for config in quick[:2]:
        made = BACKEND.listing(KIMI, 4, stage, config, MI325X)
        verdict, _ = execute("triton", KIMI, 4, stage, config, made)
        assert verdict.status is VerdictStatus.PASS, f"{config}: {verdict.text}"
