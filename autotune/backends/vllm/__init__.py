"""vLLM's Triton fused MoE, a backend a quantisation."""

from autotune.protocol.registry import Registration, WeightBytes

REGISTRATIONS = (
    Registration(
        "vllm",
        kernels="autotune.backends.vllm.backend:VllmInt8",
        weights=WeightBytes(1.0, row=4.0),
        exporter="autotune.backends.vllm.export:VllmExporter",
    ),
    Registration(
        "vllm_w4a16",
        kernels="autotune.backends.vllm.backend:VllmInt4",
        weights=WeightBytes(0.5 + 2 / 32),
        exporter="autotune.backends.vllm.export:VllmExporter",
    ),
    Registration(
        "vllm_fp8",
        kernels="autotune.backends.vllm.backend:VllmFp8",
        weights=WeightBytes(1.0, row=4.0),
        exporter="autotune.backends.vllm.export:VllmExporter",
    ),
    Registration(
        "vllm_bf16",
        kernels="autotune.backends.vllm.backend:VllmBf16",
        weights=WeightBytes(2.0),
        exporter="autotune.backends.vllm.export:VllmExporter",
    ),
    Registration(
        "vllm_w8a16",
        kernels="autotune.backends.vllm.backend:VllmInt8A16",
        weights=WeightBytes(1.0, row=4.0),
        exporter="autotune.backends.vllm.export:VllmExporter",
    ),
)
