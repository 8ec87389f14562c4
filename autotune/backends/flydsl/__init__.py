"""Backend `flydsl`: the W4A8 MoE kernels of a FlyDSL source tree, compiled without a GPU.

The `flydsl` wheel ships no MoE kernel. They come from a tree, which `--flydsl-root` or `DSL2_ROOT` names
(AITER reads the same variable), and are compiled by the wheel that belongs to it, in whichever Python has it.
"""

from autotune.protocol.registry import Registration, WeightBytes

REGISTRATIONS = (
    Registration(
        "flydsl",
        kernels="autotune.backends.flydsl.backend:Flydsl",
        weights=WeightBytes(0.5, row=4.0),
        exporter="autotune.backends.aiter.export:EnvExporter",
        knobs="autotune.backends.flydsl.backend:knobs_of",
    ),
)
