"""SGLang's and vLLM's own kernels: compiled without a GPU, run through the numeric gate by the interpreter.

Needs the engines' files: see `tests.verify.engines`.
"""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.backends import sglang, vllm
from autotune.backends.sglang.calls import SglangCalls
from autotune.backends.vllm.calls import VllmCalls
from autotune.engines.calls import align, make_order
from autotune.engines.dtypes import BF16, INT4_W4A16
from autotune.engines.source import find_source, source_variable
from autotune.kernels.formats import Format
from autotune.machine.devices import DEVICES, Device
from autotune.problem.layer import Layer, Problem, Stage
from autotune.protocol.backend import CompileRefused, one_config
from autotune.protocol.registry import load_backend
from autotune.protocol.runtime import load_runtime
from tests.export.winners import KIMI

MI325X, H100 = DEVICES["mi325x"], DEVICES["h100"]


def needs(engine: str) -> pytest.MarkDecorator:
    reason = f"no {engine} here: set {source_variable(engine)} to its wheel"
    return pytest.mark.skipif(find_source(engine) is None, reason=reason)


needs_sglang = needs("sglang")
BACKENDS = [pytest.param(row.name, marks=needs(row.engine.name)) for row in (*sglang.ROWS, *vllm.ROWS)]


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("device", [MI325X, H100], ids=lambda device: device.name)
@pytest.mark.parametrize("stage", Stage)
def test_the_engines_kernel_compiles_for_a_card_that_is_not_here(
    device: Device, stage: Stage, name: str
) -> None:
    backend = load_backend(name)
    # On NVIDIA's cards vLLM has its Triton kernel serve grouped weights from 289 tokens on.
    tokens = 320 if name.startswith("vllm_w4a16") and device is H100 else 4
    config = backend.space(KIMI, tokens, stage, device).default
    # Of fewer rows SGLang's kernel swaps its operands, which Triton 3.6 compiles for blocks and 3.9 does not.
    rows = 64 if name == "sglang_fp8_block" and device is H100 else 16
    other = config.replaced(tile_m=rows, tile_n=128 if config["tile_n"] != 128 else 64, tile_k=64)
    hashes = [backend.compile(KIMI, tokens, stage, c, device) for c in (config, other)]
    assert hashes[0].binary_hash != hashes[1].binary_hash
    assert hashes[0].facts.lds_bytes


@needs_sglang
def test_on_the_mi325x_its_registers_and_matrix_instructions_are_known() -> None:
    backend = load_backend("sglang")
    config = backend.space(KIMI, 4, Stage.STAGE1, MI325X).default
    facts = backend.compile(KIMI, 4, Stage.STAGE1, config, MI325X).facts
    assert facts.vgprs
    assert facts.mfma
    assert facts.spills == 0
    assert facts.workgroups_per_cu


@needs("vllm")
@pytest.mark.parametrize("stage", Stage)
def test_where_vllm_serves_grouped_weights_by_cuda_its_triton_kernel_is_refused(stage: Stage) -> None:
    backend = load_backend("vllm_w4a16")
    config = backend.space(KIMI, 288, stage, H100).default
    with pytest.raises(CompileRefused, match="compiled CUDA kernel"):
        backend.compile(KIMI, 288, stage, config, H100)


@pytest.mark.parametrize("spread", [[], ["ep"]], ids=["", "ep"])
@pytest.mark.parametrize("name", BACKENDS)
def test_the_engines_kernel_passes_the_numeric_gate(name: str, spread: list[str]) -> None:
    program = "tests.backends.interpret_engine"
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-m", program, name, *spread],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.endswith("ok\n"), done.stderr[-2000:]


@pytest.mark.parametrize("name", ["sglang_w4a16", "vllm_w4a16"])
@pytest.mark.parametrize("device", [MI325X, H100], ids=lambda device: device.name)
def test_a_tile_of_grouped_weights_divides_k(device: Device, name: str) -> None:
    space = load_backend(name).space(KIMI, 4, Stage.STAGE2, device)
    config = space.default.replaced(tile_m=16, tile_n=32, num_warps=4)
    assert all(space.is_legal(config.replaced(tile_k=tile_k)) for tile_k in (32, 64, 128, 256))
    # Down's K is 256 at this split; with 192 a tile of 128 would end outside of the last expert.
    narrow = replace(KIMI, inter_dim=192)
    broken = load_backend(name).space(narrow, 4, Stage.STAGE2, device).broken_rule
    assert broken(config.replaced(tile_k=64)) is None
    rule = broken(config.replaced(tile_k=128))
    assert rule is not None
    assert rule.name == "tile-k-divides-k"


def test_the_runtime_is_found_by_the_backends_name() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    from autotune.errors import UserError

    for name in ("sglang", "vllm_w4a16"):
        with pytest.raises(UserError, match="GPU"):
            load_runtime(load_backend(name).runtime)


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
    layer = Layer("any", 64, 64, experts, top_k, 1)
    size = SglangCalls(None, None, BF16, False, Format.BF16).slots_size(layer, tokens, block)
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
    calls = VllmCalls(None, None, BF16, False, Format.BF16)
    # A quarter of 384 experts is 96 slots, which 12 tokens have.
    assert calls.slots_size(KIMI, 12, 16) is None
    assert calls.slots_size(KIMI, 13, 16) == 13 * 8 * 16
    spread = replace(KIMI, experts=48, ep=8)
    assert calls.slots_size(spread, 4, 16) == 4 * 8 * 16, "with an expert map it always sorts"


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 12), st.sampled_from([16, 32]), st.integers(0, 9), st.sampled_from([2, 3, 4]))
def test_under_expert_parallelism_each_engine_sorts_other_gpus_experts_its_own_way(
    tokens: int, block: int, seed: int, ep: int
) -> None:
    layer = Layer("any", 64, 64, 12 // ep, 3, ep, ep=ep)
    ids = torch.from_numpy(Problem(layer, 1, tokens).draw(1, seed)[0])
    elsewhere = ids.flatten() < 0
    form = Format.BF16
    sglang_calls = SglangCalls(None, None, BF16, False, form)
    vllm_calls = VllmCalls(None, None, BF16, False, form)
    grouped = VllmCalls(None, None, INT4_W4A16, False, form)
    blocks = {}
    for name, calls in (("sglang", sglang_calls), ("vllm", vllm_calls), ("grouped", grouped)):
        order = make_order(calls, layer, ids, block)
        assert order.slots is not None
        count = int(order.padded) // block
        assert len(order.slots) >= int(order.padded)
        blocks[name] = order.experts[:count].tolist()
        for expert, mine in zip(blocks[name], order.slots[: count * block].view(-1, block), strict=True):
            slots = mine[mine < ids.numel()].long()
            wanted = {int(i) if i >= 0 else -1 for i in ids.flatten()[slots]}
            assert wanted == {expert}
    here = int((~elsewhere).sum())
    ours = [e for e in blocks["vllm"] if e >= 0]
    assert blocks["vllm"] == ours, "vLLM drops what is elsewhere"
    assert [e for e in blocks["sglang"] if e >= 0] == ours
    assert [e for e in blocks["grouped"] if e >= 0] == ours
    # SGLang: one expert -1, first. vLLM's grouped weights: a block or more an expert, last.
    assert blocks["sglang"] == [-1] * -(-int(elsewhere.sum()) // block) + ours
    counts = torch.unique(ids[ids < 0], return_counts=True)[1].tolist()
    assert blocks["grouped"] == ours + [-1] * sum(-(-n // block) for n in counts)
    assert (here > 0) == bool(ours)


@pytest.mark.parametrize("name", [row.name for row in vllm.ROWS])
def test_what_vllm_ships_is_one_config_for_both_stages(name: str) -> None:
    backend = load_backend(name)
    assert one_config(backend)
    assert not one_config(load_backend(name.replace("vllm", "sglang")))
    for tokens in (1, 4, 40, 64, 100, 160, 512, 4096):
        one, two = (backend.space(KIMI, tokens, stage, MI325X).default for stage in Stage)
        assert one == two
