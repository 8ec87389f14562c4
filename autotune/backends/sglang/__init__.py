"""SGLang's Triton fused MoE, a backend a quantisation."""

from autotune.protocol.registry import Registration, WeightBytes

REGISTRATIONS = (
    Registration(
        "sglang",
        kernels="autotune.backends.sglang.backend:SglangInt8",
        weights=WeightBytes(1.0, row=4.0),
        exporter="autotune.backends.sglang.export:SglangExporter",
    ),
    Registration(
        "sglang_w4a16",
        kernels="autotune.backends.sglang.backend:SglangInt4",
        weights=WeightBytes(0.5 + 2 / 32),
        exporter="autotune.backends.sglang.export:SglangExporter",
    ),
    Registration(
        "sglang_fp8",
        kernels="autotune.backends.sglang.backend:SglangFp8",
        weights=WeightBytes(1.0, row=4.0),
        exporter="autotune.backends.sglang.export:SglangExporter",
    ),
    Registration(
        "sglang_bf16",
        kernels="autotune.backends.sglang.backend:SglangBf16",
        weights=WeightBytes(2.0),
        exporter="autotune.backends.sglang.export:SglangExporter",
    ),
    Registration(
        "sglang_w8a16",
        kernels="autotune.backends.sglang.backend:SglangInt8A16",
        weights=WeightBytes(1.0, row=4.0),
        exporter="autotune.backends.sglang.export:SglangExporter",
    ),
)
