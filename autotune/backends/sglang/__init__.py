"""SGLang's Triton fused MoE, a backend a dtype."""

from autotune.backends.sglang.calls import SGLANG
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
    Row("sglang", SGLANG, INT8_W8A8, spaces="sglang", per_channel=True),
    Row("sglang_w4a16", SGLANG, INT4_W4A16, spaces="sglang_w4a16"),
    Row("sglang_w4a16_g64", SGLANG, INT4_G64, spaces="sglang_w4a16"),
    Row("sglang_w4a16_g128", SGLANG, INT4_G128, spaces="sglang_w4a16"),
    Row("sglang_fp8", SGLANG, FP8_W8A8, spaces="sglang_fp8", per_channel=True),
    Row("sglang_fp8_block", SGLANG, FP8_BLOCK, spaces="sglang_fp8_block"),
    Row("sglang_bf16", SGLANG, BF16, spaces="sglang"),
    Row("sglang_w8a16", SGLANG, INT8_W8A16, spaces="sglang"),
)

REGISTRATIONS = registrations(
    __name__,
    ROWS,
    Registration(
        "sglang",
        kernels="",
        exporter=f"{__name__}.export:SglangExporter",
        verifiers={"sglang": f"{__name__}.verify:SglangVerifier"},
        doctor=f"{__name__}.verify:SglangDoctor",
    ),
)


def backend(name: str) -> EngineBackend:
    """The backend of a row."""
    return EngineBackend(next(row for row in ROWS if row.name == name))
