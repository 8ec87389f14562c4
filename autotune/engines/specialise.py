"""Compiles a captured launch through Triton's own launcher, for a GPU that need not be here.

Whatever a version of Triton puts in the key of its disk cache, the launch on the GPU then finds this binary.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from autotune.engines.kernels import CapturedLaunch


class AbsentCard:
    """Enough of a driver for Triton's launcher to compile for a target without touching a device."""

    def __init__(self, target: Any) -> None:
        self._target = target

    def get_current_target(self) -> Any:
        return self._target

    def get_current_device(self) -> Any:
        return self._target  # the launcher keeps what it made by device: two targets, two devices

    def get_current_stream(self, device: Any = None) -> int:
        return 0


def compile_launch(launch: CapturedLaunch, target: Any) -> Any:
    """Triton's compiled kernel: `.asm`, `.metadata`.

    Args:
        launch: tensors may be without storage: their dtypes, alignment and sizes are what counts.

    Raises:
        Exception: whatever the compiler raises.
    """
    kernel = launch.kernel
    with _compiling_for(target):
        made = kernel.run(*launch.arguments, grid=(1,), warmup=True, **launch.keywords)
    kernel.device_caches.clear()  # a worker compiles hundreds, each once
    return made


@contextmanager
def _compiling_for(target: Any) -> Iterator[None]:
    from triton.runtime import driver

    before = driver._active  # what `active` gives would look for a GPU
    driver.set_active(AbsentCard(target))
    try:
        yield
    finally:
        driver.set_active(before)
