"""SGLang's and vLLM's own kernels: compiled without a GPU, run through the numeric gate by the interpreter.

Needs the engines' files: see `tests.verify.engines`.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.backends import load_backend
from autotune.backends.base import CompileRefused
from autotune.devices import DEVICES
from autotune.engines.moe import Quantisation
from autotune.engines.order import align
from autotune.engines.sglang_calls import SglangCalls
from autotune.engines.source import SOURCE_VARIABLES, find_source
from autotune.engines.vllm_calls import VllmCalls
from autotune.measure.runtime import load_runtime
from autotune.problem import Problem, Stage
from tests.export.winners import KIMI

MI325X, H100 = DEVICES["mi325x"], DEVICES["h100"]


def needs(engine: str) -> pytest.MarkDecorator:
    reason = f"no {engine} here: set {SOURCE_VARIABLES[engine]} to its wheel"
    return pytest.mark.skipif(find_source(engine) is None, reason=reason)


needs_sglang = needs("sglang")
ENGINES = [pytest.param(name, marks=needs(name)) for name in ("sglang", "vllm")]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("device", [MI325X, H100], ids=lambda device: device.name)
@pytest.mark.parametrize("stage", Stage)
def test_the_engines_kernel_compiles_for_a_card_that_is_not_here(
    device: object, stage: Stage, engine: str
) -> None:
    backend = load_backend(engine)
    config = backend.space(KIMI, 4, stage, device).default  # type: ignore[arg-type]
    compiled = backend.compile(KIMI, 4, stage, config, device)  # type: ignore[arg-type]
    other = backend.compile(KIMI, 4, stage, config.replaced(tile_n=128), device)  # type: ignore[arg-type]
    assert compiled.binary_hash != other.binary_hash
    assert compiled.facts.lds_bytes


@needs_sglang
def test_on_the_mi325x_its_registers_and_matrix_instructions_are_known() -> None:
    backend = load_backend("sglang")
    config = backend.space(KIMI, 4, Stage.STAGE1, MI325X).default
    facts = backend.compile(KIMI, 4, Stage.STAGE1, config, MI325X).facts
    assert facts.vgprs
    assert facts.mfma
    assert facts.spills == 0
    assert facts.workgroups_per_cu


@needs_sglang
def test_what_is_not_run_yet_is_refused_with_a_reason() -> None:
    backend = load_backend("sglang_w4a16")
    config = backend.space(KIMI, 4, Stage.STAGE1, MI325X).default
    with pytest.raises(CompileRefused, match="not run yet"):
        backend.compile(KIMI, 4, Stage.STAGE1, config, MI325X)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_engines_kernel_passes_the_numeric_gate(engine: str) -> None:
    program = "tests.backends.interpret_engine"
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-m", program, engine],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.endswith("ok\n"), done.stderr[-2000:]


def test_the_runtime_is_found_by_the_backends_name() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    from autotune.errors import UserError

    with pytest.raises(UserError, match="GPU"):
        load_runtime("sglang")


def test_an_estimate_needs_no_engine() -> None:
    backend = load_backend("sglang")
    config = backend.space(KIMI, 4, Stage.STAGE1, MI325X).default
    work = backend.work(Problem(KIMI, 4), Stage.STAGE1, config)
    # INT8 weights of 31 experts.
    assert work.bytes_moved == pytest.approx(31 * 512 * 7168, rel=0.05)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 12), st.sampled_from([16, 32, 64]), st.integers(0, 9))
def test_every_slot_is_sorted_into_a_block_of_its_expert(tokens: int, block: int, seed: int) -> None:
    experts, top_k = 12, 3
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand((tokens, experts), generator=generator)
    ids = scores.topk(top_k, dim=1).indices.int()
    size = SglangCalls(None, Quantisation(None)).slots_size(tokens, top_k, experts, block)
    made = align(ids, experts, block, size)
    assert made.slots is not None
    assert (len(made.slots), len(made.experts)) == (size, -(-size // block))
    padded = int(made.padded)
    assert padded % block == 0
    used = made.slots[:padded]
    real = used[used < tokens * top_k]
    assert sorted(real.tolist()) == list(range(tokens * top_k))
    for index in range(padded // block):
        rows = made.slots[index * block : (index + 1) * block]
        mine = rows[rows < tokens * top_k].long()
        assert len(mine)
        assert set(ids.flatten()[mine].tolist()) == {int(made.experts[index])}


def test_vllm_does_not_sort_a_few_tokens() -> None:
    calls = VllmCalls(None, None, Quantisation(None))
    # A quarter of 384 experts is 96 slots, which 12 tokens have.
    assert calls.slots_size(12, 8, 384, 16) is None
    assert calls.slots_size(13, 8, 384, 16) == 13 * 8 * 16
