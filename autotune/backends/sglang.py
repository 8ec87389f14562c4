"""Backends `sglang`, `sglang_w4a16`, `sglang_fp8`: SGLang's own Triton fused-MoE kernel."""

from autotune.backends.engine_backend import EngineBackend
from autotune.engines.moe import INT4_GROUP, Quantisation


class SglangInt8(EngineBackend):
    """INT8 weights by channel, INT8 activations by token: what a W4A8 checkpoint widened to INT8 is."""

    name = "sglang"
    engine = "sglang"
    spaces = "sglang"
    quantisation = Quantisation("int8_w8a8", per_channel=True)


class SglangInt4(EngineBackend):
    """INT4 weights in groups along K, bfloat16 activations."""

    name = "sglang_w4a16"
    engine = "sglang"
    spaces = "sglang"
    quantisation = Quantisation("int4_w4a16", (0, INT4_GROUP))


class SglangFp8(EngineBackend):
    """FP8 weights and activations, one scale a tensor."""

    name = "sglang_fp8"
    engine = "sglang"
    spaces = "sglang_fp8"
    quantisation = Quantisation("fp8_w8a8")
