"""A captured launch is compiled to the binary that Triton's launcher will look for, not to a like one."""

from pathlib import Path
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from triton.runtime import driver

from autotune.backends.triton_w4a8 import gpu_target
from autotune.devices import DEVICES, Device
from autotune.engines.kernels import Launch
from autotune.engines.specialise import compile_launch


@triton.jit
def _add(x_ptr, missing_ptr, scale_ptr, out_ptr, n, odd, one, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    offsets = tl.program_id(0) * BLOCK * one + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + offsets, mask=offsets < n, other=0)
    if missing_ptr is not None:
        x += tl.load(missing_ptr + offsets)
    tl.store(out_ptr + offsets, x * tl.load(scale_ptr) + odd, mask=offsets < n)


class AbsentCard:
    """Enough of a driver for Triton's launcher to compile for a card that is not here."""

    def __init__(self, target: Any) -> None:
        self._target = target

    def get_current_target(self) -> Any:
        return self._target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int = 0) -> int:
        return 0


def compiled_for(folder: Path) -> int:
    return sum(1 for entry in folder.iterdir() if entry.is_dir())


@pytest.mark.parametrize("device", [DEVICES["mi325x"], DEVICES["h100"]], ids=lambda device: device.name)
def test_the_launcher_finds_what_was_compiled_beforehand(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton.knobs.cache, "dir", str(tmp_path))
    x, scale, out = (torch.zeros(64, dtype=dtype) for dtype in (torch.int8, torch.float32, torch.bfloat16))
    keywords = {"BLOCK": 64, "num_warps": 2}
    for n in (64, 61):  # a multiple of 16, and none
        arguments = (x, None, scale, out, n, 7, 1)
        before = compiled_for(tmp_path)
        compile_launch(Launch(_add, arguments, keywords), gpu_target(device))
        ours = compiled_for(tmp_path)
        assert ours > before
        monkeypatch.setattr(driver, "_active", AbsentCard(gpu_target(device)))
        _add.device_caches.clear()
        _add.warmup(*arguments, grid=(1,), **keywords)
        assert compiled_for(tmp_path) == ours
