"""Tells whether a machine can run an engine's Triton kernels."""

from autotune.engines.rows import Engine
from autotune.engines.source import source_variable
from autotune.protocol.doctor import Ability, Can, Doctor, Machine


class EngineDoctor(Doctor):
    """See `protocol.doctor.Doctor`.

    Attributes:
        engine: whose source is installed or named.
    """

    engine: Engine

    def ability(self, machine: Machine) -> Ability:
        variable = source_variable(self.engine.name)
        if not machine.host.environ.get(variable) and machine.host.package(self.engine.name) is None:
            return Ability(Can.NOTHING, f"install {self.engine.name}, or name its wheel with {variable}")
        return machine.able_with_triton()
