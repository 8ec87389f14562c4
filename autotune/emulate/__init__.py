"""Executes gfx942 machine code on the CPU, to check a compiled kernel's numbers without the GPU.

    from autotune.emulate import Fault, Kernel, NotEmulated

    kernel = Kernel.from_asm(compiled.asm["amdgcn"])
    for seed, order in enumerate(("forward", "reverse", "shuffled")):
        kernel.launch(arguments, grid, lds_bytes=compiled.metadata.shared, order=order, seed=seed)

The text is the specification: `parser` reads it, `blocks` binds every instruction to a function of `scalar`,
`vector` and their neighbours, `scheduler` runs the waves of one workgroup from barrier to barrier, `launch`
sets everything up. A `Fault` says that the kernel is wrong; `NotEmulated` that it could not be judged.
Neither is ever a pass.

What is not checked: cycles and hazards that need s_nop, races in global memory, kernels whose workgroups wait
for one another.
"""

from autotune.emulate.errors import EmulationError, Fault, NotEmulated
from autotune.emulate.launch import Counts, Kernel, Pointer, Result
from autotune.emulate.memory import Memory, Traffic
from autotune.emulate.scheduler import Order
from autotune.emulate.waits import WaitSite

__all__ = [
    "Counts",
    "EmulationError",
    "Fault",
    "Kernel",
    "Memory",
    "NotEmulated",
    "Order",
    "Pointer",
    "Result",
    "Traffic",
    "WaitSite",
]
