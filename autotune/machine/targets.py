"""Targets to compile for and to measure on: the GPU in this machine, or a GPU that is not here."""

import importlib.metadata
import importlib.util
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from autotune import __version__
from autotune.errors import UserError
from autotune.machine.devices import DEFAULT_OFFLINE, DEVICES, Device
from autotune.machine.fingerprint import Fingerprint
from autotune.machine.probe import has_gpu, probe
from autotune.problem.layer import Layer

# ROCm and CUDA builds of torch bring Triton under other names than PyPI's.
TRITON_DISTRIBUTIONS = ("triton", "triton-rocm", "pytorch-triton-rocm", "pytorch-triton")


class Kind(StrEnum):
    """What a time is. Only measured ones can be exported as winners."""

    MEASURED = "measured"
    ESTIMATE = "estimate"
    REPLAYED = "replayed"


@dataclass(frozen=True)
class Target:
    """A device and whether it is here.

    Attributes:
        name: `live`, `offline:NAME` or `replay:TABLE`.
        live: it can be measured on.
        why: how the target was chosen, as one sentence for the user.
        table: the recorded table that answers instead of a device; None: none does.
        routing: that the table was recorded with.
        layer: that the table was recorded of.
    """

    name: str
    device: Device
    live: bool
    why: str
    table: Path | None = None
    routing: str | None = None
    layer: Layer | None = None

    @property
    def kind(self) -> Kind:
        """What its times are."""
        if self.table is not None:
            return Kind.REPLAYED
        return Kind.MEASURED if self.live else Kind.ESTIMATE


def resolve_target(name: str | None, *, described: bool = False) -> Target:
    """The device called `name`; without one the GPU that is here, else the offline MI325X.

    Args:
        described: it is only described, as in a plan or a list of spaces, so any device of the table will do;
            else an offline one must be one that can be prepared for.

    A recorded table is a target too: `autotune.tuning.targets` knows it.

    Raises:
        UserError: unknown target, or `live` on a machine without a usable GPU.
    """
    if name is not None and name.startswith("offline:"):
        device = DEVICES.get(name.removeprefix("offline:"))
        offered = [d for d in DEVICES.values() if d.runtime == "hip" or described]
        if device is None or device not in offered:
            known = ", ".join(f"offline:{d.name}" for d in offered)
            raise UserError(f"unknown target {name!r}: use live, {known} or replay:TABLE")
        return Target(name, device, live=False, why=f"{name} was asked for.")
    if name not in (None, "live"):
        raise UserError(f"unknown target {name!r}: use live, {DEFAULT_OFFLINE} or replay:TABLE")
    if name is None and not has_gpu():
        device = DEVICES[DEFAULT_OFFLINE.removeprefix("offline:")]
        why = f"There is no GPU in this machine, so {DEFAULT_OFFLINE} is prepared; every time is an estimate."
        return Target(DEFAULT_OFFLINE, device, live=False, why=why)
    device = _live_device()
    return Target("live", device, live=True, why=f"Measuring on {device.name}.")


def _live_device() -> Device:
    """The GPU here.

    Raises:
        UserError: there is no torch, or none that can use it.
    """
    if importlib.util.find_spec("torch") is None:
        raise UserError(
            "the GPU here cannot be measured without torch: install this platform's ROCm or CUDA build of"
            f" torch, or prepare offline with `autotune run --target {DEFAULT_OFFLINE}`"
        )
    return Device(**probe())


def offline_fingerprint(target: Target, *, backend: str, kernel_source: str) -> Fingerprint:
    """The stack of times that no device had a part in."""
    return Fingerprint(
        device=target.name,
        arch=target.device.arch,
        compute_units=target.device.compute_units,
        runtime="none",
        triton=package_version(*TRITON_DISTRIBUTIONS),
        backend=backend,
        kernel_source=kernel_source,
        tool_version=__version__,
    )


def package_version(*names: str) -> str | None:
    """Version of the first of the distributions that is installed; None: none is."""
    for name in names:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None
