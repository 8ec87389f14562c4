"""Backend `aiter`: the W4A8 MoE kernels that serve Kimi-K2.5 on MI325X, through AITER."""

from autotune.problem.arithmetic import W4A8
from autotune.problem.layer import WeightBytes
from autotune.protocol.registry import Registration

REGISTRATIONS = (
    Registration(
        "aiter",
        kernels="autotune.backends.aiter.backend:Aiter",
        weights=WeightBytes.of(W4A8[0]),
        exporter="autotune.backends.aiter.export:EnvExporter",
        knobs="autotune.backends.aiter.knobs:knobs_of",
        verifiers={"env": "autotune.backends.aiter.verify:EnvVerifier"},
        doctor="autotune.backends.aiter.doctor:AiterDoctor",
        variables=("DSL2_ROOT", "AUTOTUNE_FLYDSL_PYTHON"),
    ),
)
