"""Our own W4A8 kernels in Triton."""

from autotune.problem.arithmetic import W4A8
from autotune.problem.layer import WeightBytes
from autotune.protocol.registry import Registration

REGISTRATIONS = (
    Registration(
        "triton",
        kernels="autotune.backends.triton.backend:TritonW4A8",
        weights=WeightBytes.of(W4A8[0]),
        exporter="autotune.backends.triton.export:OperatorExporter",
        verifiers={"triton": "autotune.backends.triton.verify:OperatorVerifier"},
        checker="autotune.backends.triton.check:TritonChecker",
        doctor="autotune.backends.triton.verify:TritonDoctor",
    ),
)
