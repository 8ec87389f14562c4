"""SGLang's kernels on the device, a function a quantisation; see `engine_runtime`."""

from autotune.backends.sglang import backend as sglang
from autotune.engines.runtime import EngineRuntime, make_runtime


def make() -> EngineRuntime:
    """int8_w8a8's runtime, for the measure worker."""
    return make_runtime(sglang.SglangInt8())


def make_w4a16() -> EngineRuntime:
    """int4_w4a16's."""
    return make_runtime(sglang.SglangInt4())


def make_fp8() -> EngineRuntime:
    """fp8_w8a8's."""
    return make_runtime(sglang.SglangFp8())


def make_bf16() -> EngineRuntime:
    """That of weights which are not quantised."""
    return make_runtime(sglang.SglangBf16())


def make_w8a16() -> EngineRuntime:
    """int8_w8a16's."""
    return make_runtime(sglang.SglangInt8A16())
