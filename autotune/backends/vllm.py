"""Backends `vllm`, `vllm_fp8`: vLLM's own Triton fused-MoE kernel. One config serves both stages there."""

from autotune.backends.engine_backend import EngineBackend
from autotune.engines.moe import Quantisation


class VllmInt8(EngineBackend):
    """INT8 weights by channel, INT8 activations by token."""

    name = "vllm"
    engine = "vllm"
    spaces = "vllm"
    quantisation = Quantisation("int8_w8a8")


class VllmFp8(EngineBackend):
    """FP8 weights and activations, one scale a tensor."""

    name = "vllm_fp8"
    engine = "vllm"
    spaces = "vllm_fp8"
    quantisation = Quantisation("fp8_w8a8")
