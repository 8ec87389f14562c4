"""vLLM's Triton fused MoE, a backend a dtype. One config serves both stages there."""

from autotune.backends.vllm.calls import VLLM
from autotune.engines.backend import EngineBackend, registrations
from autotune.engines.dtypes import (
    BF16,
    FP8_BLOCK,
    FP8_W8A8,
    INT4_G64,
    INT4_G128,
    INT4_W4A16,
    INT8_W8A8,
    INT8_W8A16,
)
from autotune.engines.rows import Row
from autotune.protocol.registry import Registration

ROWS = (
    Row("vllm", VLLM, INT8_W8A8, spaces="vllm"),
    Row("vllm_w4a16", VLLM, INT4_W4A16, spaces="vllm_w4a16"),
    Row("vllm_w4a16_g64", VLLM, INT4_G64, spaces="vllm_w4a16"),
    Row("vllm_w4a16_g128", VLLM, INT4_G128, spaces="vllm_w4a16"),
    Row("vllm_fp8", VLLM, FP8_W8A8, spaces="vllm_fp8"),
    Row("vllm_fp8_block", VLLM, FP8_BLOCK, spaces="vllm_fp8_block"),
    Row("vllm_bf16", VLLM, BF16, spaces="vllm"),
    Row("vllm_w8a16", VLLM, INT8_W8A16, spaces="vllm"),
)

REGISTRATIONS = registrations(
    __name__,
    ROWS,
    Registration(
        "vllm",
        kernels="",
        exporter=f"{__name__}.export:VllmExporter",
        verifiers={"vllm": f"{__name__}.verify:VllmVerifier"},
        doctor=f"{__name__}.verify:VllmDoctor",
    ),
)


def backend(name: str) -> EngineBackend:
    """The backend of a row."""
    return EngineBackend(next(row for row in ROWS if row.name == name))
