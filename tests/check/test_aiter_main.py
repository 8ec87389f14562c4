"""AITER main's FlyDSL kernels: layouts of the cases, and with real trees what both stages compute.

The second half is skipped unless AUTOTUNE_AITER_SRC names trees of AITER main and AUTOTUNE_FLYDSL_PYTHON a
Python with the wheel.
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autotune.backends.aiter.source import AiterGeneration
from autotune.backends.aiter_main import check
from autotune.backends.aiter_main.backend import AiterMainGrouped, stage2_misfit
from autotune.backends.aiter_main.pack import grouped_scales
from autotune.check.check import execute
from autotune.check.compare import bf16
from autotune.check.operands import blocks_of, served
from autotune.emulate import Memory
from autotune.kernels.formats import GROUP
from autotune.problem.layer import Layer, Stage, gemm_dims
from autotune.protocol.backend import CompileRefused
from autotune.results import CheckVerdict, VerdictStatus
from tests.aiter_trees import given
from tests.spaces import KIMI, MI325X

SMALL = replace(KIMI, model_dim=512, inter_dim=256, experts=9, top_k=4)


def operands(layer: Layer, stage: Stage) -> check.GroupedOperands:
    rng = np.random.default_rng(1)
    k = gemm_dims(layer, stage)[1]
    ids = served(layer, 3, rng)
    return check.GroupedOperands(layer, stage, ids, lambda packed, rows: check.unpack(packed, rows, k), rng)


@pytest.mark.parametrize("stage", Stage)
def test_scales_lie_as_the_runtime_on_the_card_lays_them(stage: Stage) -> None:
    made, memory = operands(SMALL, stage), Memory()
    made.map_scales(memory, blocks_of(made.ids, 16, by_token=False))
    expert = int(made.ids[0, 0])
    theirs = grouped_scales(torch.from_numpy(made.scales(expert))[None].bfloat16()).view(torch.uint16)
    words = memory.read_scalar(check.SCALES + expert * theirs.nbytes, theirs.numel() // 2)
    np.testing.assert_array_equal(np.array(words, np.uint32).view(np.uint16), theirs.numpy())


@pytest.mark.parametrize("stage", Stage)
def test_a_weight_times_its_scale_is_a_bfloat16(stage: Stage) -> None:
    made = operands(SMALL, stage)
    by_k = np.repeat(made.scales(0), GROUP, axis=0).T
    exact = check.unpack(made.packed(0), np.arange(by_k.shape[0]), by_k.shape[1]) * by_k.astype(np.float64)
    bits = (exact.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    np.testing.assert_array_equal(bf16(bits), exact)
    assert 0.1 < made.gemm(np.arange(3), 0, np.arange(64)).std() < 3


@pytest.mark.parametrize("tiles", [1, 7, 8, 9, 56, 61])
def test_every_tile_of_stage_2_has_one_workgroup(tiles: int) -> None:
    assert sorted(check.spread(tiles)) == list(range(tiles))


real = pytest.mark.skipif(
    "AUTOTUNE_FLYDSL_PYTHON" not in os.environ, reason="give AUTOTUNE_FLYDSL_PYTHON, a Python with the wheel"
)


@pytest.fixture
def backend(tree: Path, monkeypatch: pytest.MonkeyPatch) -> AiterMainGrouped:
    monkeypatch.setenv("AUTOTUNE_AITER_SRC", str(tree))
    return AiterMainGrouped()


def verdict(backend: AiterMainGrouped, stage: Stage, **knobs: Any) -> CheckVerdict:
    config = backend.space(SMALL, 4, stage, MI325X).complete(knobs)
    listing = backend.listing(SMALL, 4, stage, config, MI325X)
    return execute(backend.name, SMALL, 4, stage, config, listing)[0]


@real
@given(AiterGeneration.MAIN)
@pytest.mark.parametrize(
    "knobs", [{}, {"tile_m": 32, "tile_n": 64, "tile_k": 256}, {"tile_n": 32, "k_wave": 4}], ids=str
)
def test_stage_1_computes_what_it_should(backend: AiterMainGrouped, knobs: dict[str, Any]) -> None:
    said = verdict(backend, Stage.STAGE1, **knobs)
    assert said.status is VerdictStatus.PASS, said.text


@real
@given(AiterGeneration.MAIN)
@pytest.mark.parametrize("tile_k", [128, 256])
def test_stage_2_computes_what_it_should_where_it_has_code(
    backend: AiterMainGrouped, tree: Path, tile_k: int
) -> None:
    if stage2_misfit(tree / "aiter", MI325X.arch):
        config = backend.space(SMALL, 4, Stage.STAGE2, replace(MI325X, arch="gfx950")).default
        with pytest.raises(CompileRefused, match="BUFFER_ATOMIC_FADD"):
            backend.listing(SMALL, 4, Stage.STAGE2, config, MI325X)
        return
    said = verdict(backend, Stage.STAGE2, tile_k=tile_k)
    assert said.status is VerdictStatus.PASS, said.text


@real
@given(AiterGeneration.MAIN)
def test_scales_of_the_neighbouring_group_are_wrong(
    backend: AiterMainGrouped, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = check.GroupedOperands.map_scales

    def swapped(self: check.GroupedOperands, memory: Memory, blocks: Any) -> None:
        own = self.scales
        monkeypatch.setattr(self, "scales", lambda expert: own(expert)[::-1])
        right(self, memory, blocks)
        monkeypatch.setattr(self, "scales", own)

    monkeypatch.setattr(check.GroupedOperands, "map_scales", swapped)
    assert verdict(backend, Stage.STAGE1).status is VerdictStatus.INCORRECT
