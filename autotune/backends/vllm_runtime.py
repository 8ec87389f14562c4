"""vLLM's int8_w8a8 kernel on the device; see `engine_runtime`."""

from autotune.backends.engine_runtime import EngineRuntime, make_runtime
from autotune.backends.vllm import VllmInt8


def make() -> EngineRuntime:
    """The runtime, for the measure worker."""
    return make_runtime(VllmInt8())
