"""Our own W4A8 kernels in Triton."""

from autotune.protocol.registry import Registration, WeightBytes

REGISTRATIONS = (
    Registration(
        "triton",
        kernels="autotune.backends.triton.backend:TritonW4A8",
        weights=WeightBytes(0.5, row=4.0),
        exporter="autotune.backends.triton.export:OperatorExporter",
    ),
)
