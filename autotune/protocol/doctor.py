"""Types of a diagnosis: a machine's findings and each backend's abilities, as `autotune doctor` lists."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, runtime_checkable

from autotune.protocol.host import Host


class State(StrEnum):
    """How a finding bears on tuning."""

    YES = "yes"
    NO = "no"
    WARNING = "could lie"  # works, and may give another kernel than the one that was asked for
    NOTE = "note"


@dataclass(frozen=True)
class Finding:
    """One thing.

    Attributes:
        detail: what is there, or why not; one sentence or less.
        remedy: the one thing to do; empty: nothing needs to be done.
    """

    name: str
    state: State
    detail: str
    remedy: str = ""

    @property
    def there(self) -> bool:
        """Whether the answer is yes."""
        return self.state is State.YES


def contract_finding(source: str, misfits: list[str], fitting: str) -> Finding:
    """Whether a source is what the adapters rely on.

    Args:
        misfits: what is not, one sentence each.
        fitting: commits that are.
    """
    name = f"{source} as expected"
    if not misfits:
        return Finding(name, State.YES, "what the adapter relies on is there")
    return Finding(
        name, State.NO, "; ".join(misfits), f"use a commit that fits ({fitting}), or report this list"
    )


class Can(StrEnum):
    """The most that a backend can do on a machine."""

    MEASURE = "measures"
    COMPILE = "compiles only"
    NOTHING = "not available"
    UNKNOWN = "says nothing of what it needs"  # it brings no doctor


@dataclass(frozen=True)
class Ability:
    """What a backend can do on a machine.

    Attributes:
        remedy: the one thing to do for more; empty: there is no more.
    """

    can: Can
    remedy: str = ""


@dataclass(frozen=True)
class HostGpu:
    """The first GPU of a machine.

    Attributes:
        runtime: `hip` or `cuda`.
    """

    name: str
    arch: str
    runtime: str
    compute_units: int | None
    driver: str | None


@dataclass(frozen=True)
class HostTorch:
    """An installed torch.

    Attributes:
        build: `hip 7.2`, `cuda 13.0` or `cpu`.
    """

    version: str
    build: str

    def drives(self, gpu: HostGpu) -> bool:
        """Whether it is a build for that GPU."""
        return self.build.startswith(gpu.runtime)


@dataclass(frozen=True)
class Machine:
    """What every backend's doctor starts from.

    Attributes:
        host: to look for more: its files, environment and packages.
        gpu: None: there is none, or its driver is not loaded.
        torch: None: not installed.
        triton: it is installed.
    """

    host: Host
    gpu: HostGpu | None
    torch: HostTorch | None
    triton: bool

    @property
    def has_instinct(self) -> bool:
        """Whether the GPU is one of AMD's."""
        return self.gpu is not None and self.gpu.runtime == "hip"

    def able(self, without: Can = Can.COMPILE) -> Ability:
        """What a backend can do that has everything but perhaps a GPU and its torch.

        Args:
            without: what it can do without these.
        """
        if self.gpu is None:
            return Ability(without, "run it on the machine with the GPU")
        if self.torch is None or not self.torch.drives(self.gpu):
            kind = "ROCm" if self.gpu.runtime == "hip" else "CUDA"
            return Ability(without, f"install the {kind} build of torch")
        return Ability(Can.MEASURE)

    def able_with_triton(self) -> Ability:
        """What a backend can do whose kernels Triton compiles."""
        return self.able() if self.triton else Ability(Can.NOTHING, "pip install 'moe-autotune[local]'")


@runtime_checkable
class Doctor(Protocol):
    """What a backend registers as its `doctor`: `module:class`, made without arguments.

    Several backends may share one, and are then listed once. Nothing heavy is imported: files are looked at.
    """

    def findings(self, machine: Machine) -> Sequence[Finding]:
        """What its kernels need, there or not, and what would make a search of them lie."""
        return ()

    def ability(self, machine: Machine) -> Ability:
        """What it can do there, and the one thing to do for more."""
        ...
