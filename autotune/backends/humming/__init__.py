"""humming-kernels, the INT4 MoE kernels that vLLM takes on Hopper before Marlin: a backend a format.

They choose their tiles by a heuristic, `humming.tune`, which is the default here. A plugin in vLLM's
processes puts what was tuned in front of it (`autotune.backends.humming.plugin`).
"""

from autotune.backends.humming.rows import ROWS
from autotune.problem.layer import WeightBytes
from autotune.protocol.registry import Registration

REGISTRATIONS = tuple(
    Registration(
        row.name,
        kernels=f"autotune.backends.humming.backend:backend({row.name})",
        weights=WeightBytes(row.weight_bytes, row=row.row_bytes),
        exporter=f"autotune.backends.humming.export:{row.exporter}",
        verifiers={"vllm": "autotune.backends.humming.verify:HummingVerifier"},
        doctor="autotune.backends.humming.doctor:HummingDoctor",
    )
    for row in ROWS
)
