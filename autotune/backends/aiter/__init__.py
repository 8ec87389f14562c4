"""Backend `aiter`: the W4A8 MoE kernels that serve Kimi-K2.5 on MI325X, through AITER."""

from autotune.protocol.registry import Registration, WeightBytes

REGISTRATIONS = (
    Registration(
        "aiter",
        kernels="autotune.backends.aiter.backend:Aiter",
        weights=WeightBytes(0.5, row=4.0),
        exporter="autotune.backends.aiter.export:EnvExporter",
        knobs="autotune.backends.aiter.knobs:knobs_of",
    ),
)
