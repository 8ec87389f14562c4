"""Backends `aiter_main` and `aiter_main_w4a16`: INT4 experts through AITER's current main.

Main has no INT8 x INT4 kernel (aiter e4048607a5, aiter/ops/flydsl/moe_kernels.py:696 refuses it). What it has
for INT4 weights on gfx942 are two other numeric formats, which need other checkpoints than W4A8:

    aiter_main         FP8 activations, a scale per channel: Composable Kernel, two stages, by kernel name
    aiter_main_w4a16   bfloat16 activations, a scale every 32 values of K (a16wmix): FlyDSL, by tile
"""

from autotune.problem.arithmetic import GROUPED_INT4, W4A8
from autotune.problem.layer import WeightBytes
from autotune.protocol.registry import Registration

_VERIFIERS = {"aiter": "autotune.backends.aiter_main.verify:AiterVerifier"}

REGISTRATIONS = (
    Registration(
        "aiter_main",
        kernels="autotune.backends.aiter_main.backend:AiterMain",
        weights=WeightBytes.of(W4A8[0]),
        exporter="autotune.backends.aiter_main.export:TableExporter",
        verifiers=_VERIFIERS,
        doctor="autotune.backends.aiter_main.doctor:AiterMainDoctor",
    ),
    Registration(
        "aiter_main_w4a16",
        kernels="autotune.backends.aiter_main.backend:AiterMainGrouped",
        weights=WeightBytes.of(GROUPED_INT4),
        exporter="autotune.backends.aiter_main.export:GroupedTableExporter",
        checker="autotune.backends.aiter_main.check:GroupedChecker",
        verifiers=_VERIFIERS,
        doctor="autotune.backends.aiter_main.doctor:AiterMainGroupedDoctor",
        variables=("AUTOTUNE_FLYDSL_PYTHON",),
    ),
)
