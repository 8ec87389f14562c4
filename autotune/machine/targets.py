"""What is compiled for and measured on: the GPU in this machine, or a GPU that is not here."""

import importlib.metadata
import importlib.util
import json
import subprocess
import sys
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from autotune import __version__
from autotune.errors import UserError
from autotune.machine.devices import DEVICES, Device
from autotune.machine.fingerprint import Fingerprint

DEFAULT_OFFLINE = "offline:mi325x"
# ROCm and CUDA builds of torch bring Triton under other names than PyPI's.
TRITON_DISTRIBUTIONS = ("triton", "triton-rocm", "pytorch-triton-rocm", "pytorch-triton")
_GPU_NODES = ("/dev/kfd", "/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg")


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
    """

    name: str
    device: Device
    live: bool
    why: str
    table: Path | None = None
    routing: str | None = None

    @property
    def kind(self) -> Kind:
        """What its times are."""
        if self.table is not None:
            return Kind.REPLAYED
        return Kind.MEASURED if self.live else Kind.ESTIMATE


def resolve_target(name: str | None) -> Target:
    """The device called `name`; without one the GPU that is here, else the offline MI325X.

    A recorded table is a target too: `autotune.tuning.targets` knows it.

    Raises:
        UserError: unknown target, or `live` on a machine without a usable GPU.
    """
    if name is not None and name.startswith("offline:"):
        device = DEVICES.get(name.removeprefix("offline:"))
        if device is None or device.runtime != "hip":
            known = ", ".join(f"offline:{d.name}" for d in DEVICES.values() if d.runtime == "hip")
            raise UserError(f"unknown target {name!r}: use live, {known} or replay:TABLE")
        return Target(name, device, live=False, why=f"{name} was asked for.")
    if name not in (None, "live"):
        raise UserError(f"unknown target {name!r}: use live, {DEFAULT_OFFLINE} or replay:TABLE")
    if name is None and not any(Path(node).exists() for node in _GPU_NODES):
        device = DEVICES[DEFAULT_OFFLINE.removeprefix("offline:")]
        why = f"There is no GPU in this machine, so {DEFAULT_OFFLINE} is prepared; every time is an estimate."
        return Target(DEFAULT_OFFLINE, device, live=False, why=why)
    device = _live_device()
    return Target("live", device, live=True, why=f"Measuring on {device.name}.")


def _live_device() -> Device:
    """Asks torch, in a process of its own: the driver never holds a GPU context."""
    if importlib.util.find_spec("torch") is None:
        raise UserError(
            "the GPU here cannot be measured without torch: install this platform's ROCm or CUDA build of"
            f" torch, or prepare offline with `autotune run --target {DEFAULT_OFFLINE}`"
        )

    def ask() -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "autotune.machine.probe"]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    probe = ask()
    if probe.returncode < 0:  # killed, by the OOM killer say: that tells nothing of the GPU
        probe = ask()
    if probe.returncode != 0:
        last = (probe.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(
            f"torch cannot use a GPU here ({last}): go to a machine with a GPU, its driver and its build of"
            f" torch, or prepare offline with `autotune run --target {DEFAULT_OFFLINE}`"
        )
    return Device(**json.loads(probe.stdout))


def known_device(marketing_name: str) -> Device | None:
    """The entry of the device table whose name appears in a marketing name, e.g. `AMD Instinct MI325X`."""
    squeezed = marketing_name.lower().replace(" ", "")
    return next((device for device in DEVICES.values() if device.name in squeezed), None)


def offline_fingerprint(target: Target, *, backend: str, kernel_source: str) -> Fingerprint:
    """The stack of times that no device had a part in."""
    return Fingerprint(
        device=target.name,
        arch=target.device.arch,
        compute_units=target.device.compute_units,
        compute_partition=None,
        memory_partition=None,
        power_cap_w=None,
        driver=None,
        runtime="none",
        torch=None,
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
