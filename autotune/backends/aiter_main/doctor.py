"""Tells whether a machine can run AITER main's two kinds of kernels; `aiter` tells which AITER is there."""

from autotune.backends.aiter.doctor import find_aiter
from autotune.backends.aiter.source import AiterGeneration
from autotune.backends.aiter_main.backend import stage2_misfit
from autotune.backends.flydsl.doctor import find_flydsl
from autotune.backends.flydsl.tree import TreeGeneration
from autotune.backends.flydsl.wheel import fits, remedy
from autotune.protocol.doctor import Ability, Can, Doctor, Machine

_NO_MAIN = Ability(Can.NOTHING, "install AITER main; it has no W4A8, only other formats")
_OFFLINE = "gfx942"  # what is compiled for where no GPU is
_ON_INSTINCT = "run it on a machine with an AMD Instinct GPU"


class AiterMainDoctor(Doctor):
    """Of the Composable Kernel instances, which AITER builds on the machine that serves."""

    def ability(self, machine: Machine) -> Ability:
        aiter = find_aiter(machine.host)
        if aiter is None or aiter.generation is not AiterGeneration.MAIN:
            return _NO_MAIN
        return machine.able(Can.NOTHING) if machine.has_instinct else Ability(Can.NOTHING, _ON_INSTINCT)


class AiterMainGroupedDoctor(AiterMainDoctor):
    """Of the FlyDSL kernels in AITER itself, which the wheel compiles with a GPU or without."""

    def ability(self, machine: Machine) -> Ability:
        aiter, flydsl = find_aiter(machine.host), find_flydsl(machine.host)
        if aiter is None or aiter.generation is not AiterGeneration.MAIN:
            return _NO_MAIN
        if flydsl.wheel is None or not fits(TreeGeneration.AITER, flydsl.wheel):
            return Ability(Can.NOTHING, remedy(TreeGeneration.AITER, flydsl.python))
        here = machine.gpu if machine.has_instinct else None
        able = machine.able() if here else Ability(Can.COMPILE, _ON_INSTINCT)
        reason = stage2_misfit(aiter.package, here.arch if here else _OFFLINE)
        return (
            Ability(able.can, f"stage 1 only: {reason}") if reason and able.can is not Can.NOTHING else able
        )
