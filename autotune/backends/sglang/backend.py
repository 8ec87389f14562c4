"""SGLang's own Triton fused-MoE kernel, a backend a quantisation.

`sglang` (int8_w8a8), `sglang_w4a16`, `sglang_fp8`, `sglang_bf16`, `sglang_w8a16`.
"""

from autotune.engines.backend import EngineBackend
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
    spaces = "sglang_w4a16"
    quantisation = Quantisation("int4_w4a16", (0, INT4_GROUP))


class SglangFp8(EngineBackend):
    """FP8 weights by channel, FP8 activations by token, as in checkpoints called FP8-dynamic."""

    name = "sglang_fp8"
    engine = "sglang"
    spaces = "sglang_fp8"
    quantisation = Quantisation("fp8_w8a8", per_channel=True)


class SglangBf16(EngineBackend):
    """bfloat16 weights and activations: a model that is not quantised."""

    name = "sglang_bf16"
    engine = "sglang"
    spaces = "sglang"
    quantisation = Quantisation(None)


class SglangInt8A16(EngineBackend):
    """INT8 weights by channel, bfloat16 activations."""

    name = "sglang_w8a16"
    engine = "sglang"
    spaces = "sglang"
    quantisation = Quantisation("int8_w8a16")
