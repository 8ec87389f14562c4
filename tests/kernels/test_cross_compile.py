"""The kernels compile for gfx942 and sm_90 on a machine with neither GPU, and without torch."""

import json
import re
import subprocess
import sys
from functools import cache

import pytest

pytest.importorskip("triton")

from triton.backends.compiler import GPUTarget

from autotune.errors import UserError
from autotune.kernels.chain import place_spec, prepare_spec, quantise_spec
from autotune.kernels.config import LayerDims, Stage1Config, Stage2Config
from autotune.kernels.spec import compile_kernel, compile_options, stage_spec
from autotune.machine.devices import DEVICES
from autotune.problem.layer import Layer, Stage
from autotune.problem.models import preset
from autotune.protocol.registry import load_backend

KIMI = LayerDims(7168, 256, 384, 8)
GPT_OSS = LayerDims(2880, 360, 128, 4)
GFX942 = GPUTarget("hip", "gfx942", 64)
SM_90 = GPUTarget("cuda", 90, 32)
SPLIT = {
    "stage1": {"tile_n": 64, "tile_k": 512, "split_k": 7, "num_stages": 2},
    "arrive": {"tile_n": 64, "tile_k": 256, "reduce": "arrive", "num_stages": 2},
    "atomic": {"tile_n": 64, "tile_k": 256, "reduce": "atomic", "num_stages": 2},
    "loop": {"tile_n": 64, "tile_k": 256, "reduce": "loop", "split_blocks": 2, "num_stages": 2},
}


@cache
def code(name: str, target: GPUTarget, dims: LayerDims = KIMI) -> str:
    config = dict(SPLIT[name])
    if dims is GPT_OSS:
        config["split_k"] = 1
    stage = "stage1" if name == "stage1" else "stage2"
    compiled = compile_kernel(stage_spec(stage, config, dims, target.backend), target)
    return compiled.asm["amdgcn" if target is GFX942 else "ptx"]


@pytest.mark.parametrize("name", SPLIT)
@pytest.mark.parametrize("dims", [KIMI, GPT_OSS], ids=["kimi", "gpt-oss"])
def test_gfx942_uses_int8_matrix_instructions_and_does_not_spill(name: str, dims: LayerDims) -> None:
    text = code(name, GFX942, dims)
    assert re.search(r"v_mfma_i32_(16x16x32|32x32x16)_i8", text)
    assert re.search(r"\.vgpr_spill_count:\s+0", text)
    assert "0xf0f0f0f" in text, "the nibbles must be taken apart four bytes at a time"


@pytest.mark.parametrize(("num_stages", "tile_k"), [(4, 256), (4, 128)])
def test_gfx942_has_the_lds_that_the_space_s_rule_adds_up(num_stages: int, tile_k: int) -> None:
    """What does not fit is refused before it is compiled: deep pipelines compile for a minute."""
    layer = Layer.of(preset("kimi-k2.5-w4a8"), tp=8)
    space = load_backend("triton").space(layer, 4, Stage.STAGE2, DEVICES["mi325x"])
    knobs = {"reduce": "loop", "tile_n": 16, "num_warps": 1, "split_blocks": 1}
    config = space.default.replaced(**knobs, num_stages=num_stages, tile_k=tile_k)
    lds = compile_kernel(stage_spec("stage2", config, KIMI, "hip"), GFX942).metadata.shared
    (rule,) = (rule for rule in space.space.rules if rule.name == "lds")
    assert rule.require({**space._variables, **config, "lds_bytes": lds})
    assert not rule.require({**space._variables, **config, "lds_bytes": lds - 1})


@pytest.mark.parametrize("name", SPLIT)
def test_gfx942_publishes_partial_sums_before_it_counts(name: str) -> None:
    """Every wave waits for its own stores, then meets the others; then one writes L2 back and counts."""
    lines = [line.strip() for line in code(name, GFX942).splitlines()]
    release = max(i for i, line in enumerate(lines) if line.startswith("buffer_wbl2 sc1"))
    wait = max(i for i in range(release) if lines[i] == "s_waitcnt vmcnt(0)")
    between = lines[wait:release]
    assert any(line.startswith("s_barrier") for line in between)
    assert not any(re.match(r"(global|buffer)_(store|atomic)", line) for line in between)
    after = lines[release : release + 8]
    count = next(i for i, line in enumerate(after) if line.startswith("global_atomic_add"))
    assert "s_waitcnt vmcnt(0)" in after[:count]
    assert any(line.startswith("buffer_inv sc1") for line in after[count:])


@pytest.mark.parametrize("name", SPLIT)
def test_sm_90_loads_wide_and_keeps_operands_in_registers(name: str) -> None:
    text = code(name, SM_90)
    assert "mma.sync.aligned.m16n8k32.row.col.satfinite.s32.s8.s8.s32" in text
    assert "atom.global.gpu.acq_rel.add.u32" in text
    assert "cp.async.cg.shared.global" in text or "ld.global.v4.b32" in text or "ld.global.cg.v4" in text
    assert f", {0x0F0F0F0F};" in text, "the nibbles must be taken apart four bytes at a time"


@pytest.mark.parametrize("target", [GFX942, SM_90], ids=["gfx942", "sm_90"])
@pytest.mark.parametrize(
    ("reduce", "partials"), [("arrive", "float32"), ("arrive", "bfloat16"), ("atomic", "float32")]
)
def test_what_is_made_of_absent_experts_compiles_for_both(
    reduce: str, partials: str, target: GPUTarget
) -> None:
    pytest.importorskip("torch")  # the operator's
    from autotune.kernels.operator import absent_spec

    config = Stage2Config(tile_n=64, tile_k=256, reduce=reduce, partials=partials)
    compiled = compile_kernel(absent_spec(config, KIMI, target.backend), target)
    text = compiled.asm["amdgcn" if target is GFX942 else "ptx"]
    stores = len(re.findall(r"(?:global|buffer)_store_dword|st\.global", text))
    assert stores >= (1 if reduce == "atomic" else 2)  # the output's zeros, and those of parts of a sum


def test_dependent_launch_is_an_option_of_cuda_alone() -> None:
    config = {"tile_n": 32, "tile_k": 512, "pdl": True}
    assert stage_spec("stage1", config, KIMI, "cuda").options["launch_pdl"] is True
    assert "launch_pdl" not in stage_spec("stage1", config, KIMI, "hip").options
    compiled = compile_kernel(stage_spec("stage1", config, KIMI, "cuda"), SM_90)
    assert "griddepcontrol.wait" in compiled.asm["ptx"]


def test_scheduler_strategy_changes_the_code_where_the_compiler_has_it() -> None:
    config = {**SPLIT["stage1"], "sched_strategy": "max-ilp"}
    spec = stage_spec("stage1", config, KIMI, "hip")
    if "llvm_fn_attrs" in compile_options(GFX942):
        assert compile_kernel(spec, GFX942).asm["amdgcn"] != code("stage1", GFX942)
    else:
        with pytest.raises(UserError, match="llvm_fn_attrs"):
            compile_kernel(spec, GFX942)


@pytest.mark.parametrize("target", [GFX942, SM_90], ids=["gfx942", "sm_90"])
def test_the_small_kernels_compile(target: GPUTarget) -> None:
    for spec in (
        quantise_spec(360, GPT_OSS, target.backend),
        prepare_spec(Stage1Config(pdl=True), KIMI, 4, target.backend),
        prepare_spec(Stage1Config(tile_m=32), GPT_OSS, 100, target.backend),
        prepare_spec(Stage1Config(), KIMI, 4096, target.backend),
        place_spec(Stage1Config(), KIMI, 4096, target.backend),
    ):
        assert compile_kernel(spec, target).asm


def test_the_quantiser_rounds_as_ieee_does() -> None:
    text = compile_kernel(quantise_spec(7168, KIMI, "cuda"), SM_90).asm["ptx"]
    assert "div.rn.f32" in text
    assert not re.search(r"\bfma\.", text)


WITHOUT_TORCH = """
import json, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch":
            raise ImportError("torch is not installed here")
sys.meta_path.insert(0, Blocked())
from triton.backends.compiler import GPUTarget
from autotune.kernels.config import LayerDims
from autotune.backends.triton.backend import kernel_source
from autotune.kernels.spec import compile_kernel, stage_spec
target = GPUTarget("hip", "gfx942", 64)
layer = LayerDims(7168, 256, 384, 8)
one = compile_kernel(stage_spec("stage1", json.loads(sys.argv[1]), layer, "hip"), target)
two = compile_kernel(stage_spec("stage2", json.loads(sys.argv[2]), layer, "hip"), target)
print(len(one.asm["hsaco"]), len(two.asm["hsaco"]), kernel_source(), "torch" in sys.modules)
"""


def test_compiling_needs_no_torch() -> None:
    command = [sys.executable, "-c", WITHOUT_TORCH, json.dumps(SPLIT["stage1"]), json.dumps(SPLIT["loop"])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two, source_hash, torch_there = done.stdout.split()
    assert int(one) > 1000
    assert int(two) > 1000
    assert len(source_hash) == 64
    assert torch_there == "False"
