"""A captured launch is compiled to the binary that Triton's launcher will look for, not to a like one."""

from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from triton.runtime import driver

from autotune.compile.isa import gpu_target
from autotune.engines.kernels import AbsentGpu, CapturedLaunch, compile_launch
from autotune.machine.devices import DEVICES, Device


@triton.jit
def _add(x_ptr, missing_ptr, scale_ptr, out_ptr, n, odd, one, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    offsets = tl.program_id(0) * BLOCK * one + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + offsets, mask=offsets < n, other=0)
    if missing_ptr is not None:
        x += tl.load(missing_ptr + offsets)
    tl.store(out_ptr + offsets, x * tl.load(scale_ptr) + odd, mask=offsets < n)


def test_what_is_used_of_tritons_inside_is_there() -> None:
    """None of it is documented. Without it no engine's kernel is compiled for a GPU that is not here:

    see `compile_launch` and `_compiling_for` in engines/kernels.py.
    """
    assert "_active" in vars(driver), "the driver's place has another name: AbsentGpu cannot be put there"
    assert callable(driver.set_active)
    assert hasattr(_add, "device_caches"), "what a kernel remembers cannot be forgotten: workers grow"
    assert "warmup" in signature(_add.run).parameters, "a launch cannot stop before the GPU"


def compiled_for(folder: Path) -> int:
    return sum(1 for entry in folder.iterdir() if entry.is_dir())


def arguments_on(device: str, n: int) -> tuple[Any, ...]:
    x, scale, out = (
        torch.empty(64, dtype=dtype, device=device) for dtype in (torch.int8, torch.float32, torch.bfloat16)
    )
    return x, None, scale, out, n, 7, 1


@pytest.mark.parametrize("device", [DEVICES["mi325x"], DEVICES["h100"]], ids=lambda device: device.name)
def test_a_launch_on_real_tensors_finds_what_was_compiled_from_tensors_without_storage(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton.knobs.cache, "dir", str(tmp_path))
    keywords = {"BLOCK": 64, "num_warps": 2}
    target = gpu_target(device)
    for n in (64, 61):  # a multiple of 16, and none
        before = compiled_for(tmp_path)
        kernel = compile_launch(CapturedLaunch(_add, arguments_on("meta", n), keywords), target)
        assert ("amdgcn" if device.runtime == "hip" else "ptx") in kernel.asm
        ours = compiled_for(tmp_path)
        assert ours > before
        _add.device_caches.clear()  # what the launcher remembers without looking at the disk
        monkeypatch.setattr(driver, "_active", AbsentGpu(target))
        _add.run(*arguments_on("cpu", n), grid=(1,), warmup=True, **keywords)
        monkeypatch.setattr(driver, "_active", None)
        assert compiled_for(tmp_path) == ours


def test_the_process_keeps_its_own_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton.knobs.cache, "dir", str(tmp_path))
    own = AbsentGpu(None)
    monkeypatch.setattr(driver, "_active", own)
    compile_launch(
        CapturedLaunch(_add, arguments_on("meta", 64), {"BLOCK": 64}), gpu_target(DEVICES["mi325x"])
    )
    assert driver._active is own
