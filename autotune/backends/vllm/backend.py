"""vLLM's own Triton fused-MoE kernel, a backend a quantisation.

`vllm` (int8_w8a8), `vllm_w4a16`, `vllm_fp8`, `vllm_bf16`, `vllm_w8a16`. One config serves both stages there.
"""

from autotune.engines.backend import EngineBackend
from autotune.engines.moe import INT4_GROUP, Quantisation


class VllmInt8(EngineBackend):
    """INT8 weights by channel, INT8 activations by token."""

    name = "vllm"
    engine = "vllm"
    spaces = "vllm"
    quantisation = Quantisation("int8_w8a8")


class VllmInt4(EngineBackend):
    """INT4 weights in groups along K, bfloat16 activations: Kimi-K2.5 as it is published."""

    name = "vllm_w4a16"
    engine = "vllm"
    spaces = "vllm_w4a16"
    quantisation = Quantisation("int4_w4a16", (0, INT4_GROUP))


class VllmFp8(EngineBackend):
    """FP8 weights by channel, FP8 activations by token, as in checkpoints called FP8-dynamic."""

    name = "vllm_fp8"
    engine = "vllm"
    spaces = "vllm_fp8"
    quantisation = Quantisation("fp8_w8a8")


class VllmBf16(EngineBackend):
    """bfloat16 weights and activations: a model that is not quantised."""

    name = "vllm_bf16"
    engine = "vllm"
    spaces = "vllm"
    quantisation = Quantisation(None)


class VllmInt8A16(EngineBackend):
    """INT8 weights by channel, bfloat16 activations."""

    name = "vllm_w8a16"
    engine = "vllm"
    spaces = "vllm"
    quantisation = Quantisation("int8_w8a16")
