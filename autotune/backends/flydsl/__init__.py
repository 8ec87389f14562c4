"""Backend `flydsl`: the W4A8 MoE kernels of a FlyDSL source tree, compiled without a GPU.

The `flydsl` wheel ships no MoE kernel. They come from a tree, which `--flydsl-root` or `DSL2_ROOT` names
(AITER reads the same variable), and are compiled by the wheel that belongs to it, in whichever Python has it.
"""

from autotune.problem.arithmetic import W4A8
from autotune.problem.layer import WeightBytes
from autotune.protocol.registry import Registration

REGISTRATIONS = (
    Registration(
        "flydsl",
        kernels="autotune.backends.flydsl.backend:Flydsl",
        weights=WeightBytes.of(W4A8[0]),
        exporter="autotune.backends.aiter.export:EnvExporter",
        knobs="autotune.backends.flydsl.backend:knobs_of",
        verifiers={"env": "autotune.backends.aiter.verify:EnvVerifier"},
        checker="autotune.backends.flydsl.check:FlydslChecker",
        doctor="autotune.backends.flydsl.doctor:FlydslDoctor",
        variables=("DSL2_ROOT", "AUTOTUNE_FLYDSL_PYTHON"),
    ),
)
