"""Tells whether a machine can run humming's kernels."""

from collections.abc import Sequence

from autotune.backends.humming import library
from autotune.protocol.doctor import Ability, Can, Doctor, Finding, Machine, State

_HOPPER = ("sm_90", "90", "9.0")


class HummingDoctor(Doctor):
    """See `protocol.doctor.Doctor`."""

    def findings(self, machine: Machine) -> Sequence[Finding]:
        version = machine.host.version(library.DISTRIBUTION) or machine.host.version("humming_kernels")
        if version is None or version == library.READ:
            return ()
        return (
            Finding(
                "humming's version",
                State.WARNING,
                f"it is {version}, and the rules of its space are those of {library.READ}",
                f"pip install humming-kernels=={library.READ}",
            ),
        )

    def ability(self, machine: Machine) -> Ability:
        if machine.host.package("humming") is None:
            return Ability(Can.NOTHING, "pip install 'moe-autotune[humming]'")
        if machine.gpu is None or machine.gpu.runtime != "cuda":
            return Ability(Can.NOTHING, "run it on a machine with an NVIDIA GPU of compute capability 9.0")
        return machine.able(Can.NOTHING) if machine.triton else machine.able_with_triton()
