"""What the card says of itself: clock, throttling, power cap, driver, partitions.

NVIDIA: NVML through its C library, which comes with the driver, so no package is needed. AMD: the amdgpu
driver's sysfs, and `amdsmi` for throttling where ROCm's Python package is installed. What a machine does
not tell is None; a missing sensor never stops a measurement.
"""

import ctypes
import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from autotune.measure.runtime import Clock

SYSFS = Path("/sys/bus/pci/devices")

# nvml.h, nvmlClocksEventReason*: software power cap, hardware slowdown, software and hardware thermal
# slowdown, power brake. Idle (1), application clocks (2) and sync boost (16) are no throttling.
_NVML_THROTTLED = 0x4 | 0x8 | 0x20 | 0x40 | 0x80
_NVML_CLOCK_SM = 1


@dataclass(frozen=True)
class Card:
    """What does not change while a process runs. None: not told."""

    driver: str | None = None
    power_cap_w: int | None = None
    compute_partition: str | None = None
    memory_partition: str | None = None


class Sensors(Protocol):
    """One card's sensors."""

    def card(self) -> Card: ...

    def clock(self) -> Clock: ...


class NoSensors:
    """A device that tells nothing."""

    def card(self) -> Card:
        return Card()

    def clock(self) -> Clock:
        return Clock()


class NvmlSensors:
    """NVIDIA.

    Args:
        uuid: the card's, as NVML writes it: `GPU-…`.

    Raises:
        OSError: there is no NVML, or it does not know the card.
    """

    def __init__(self, uuid: str) -> None:
        self._nvml = ctypes.CDLL("libnvidia-ml.so.1")
        self._handle = ctypes.c_void_p()
        self._checked("nvmlInit_v2")
        self._checked("nvmlDeviceGetHandleByUUID", uuid.encode(), ctypes.byref(self._handle))

    def card(self) -> Card:
        driver = ctypes.create_string_buffer(96)
        told = self._call("nvmlSystemGetDriverVersion", driver, ctypes.c_uint(96)) == 0
        milliwatts = self._number("nvmlDeviceGetEnforcedPowerLimit", ctypes.c_uint())
        return Card(
            driver.value.decode() if told else None, milliwatts // 1000 if milliwatts is not None else None
        )

    def clock(self) -> Clock:
        mhz = ctypes.c_uint()
        told = self._call("nvmlDeviceGetClockInfo", self._handle, _NVML_CLOCK_SM, ctypes.byref(mhz)) == 0
        # The older name; newer drivers keep it.
        reasons = self._number("nvmlDeviceGetCurrentClocksThrottleReasons", ctypes.c_ulonglong())
        return Clock(mhz.value if told else None, bool((reasons or 0) & _NVML_THROTTLED))

    def _number(self, function: str, into: Any) -> int | None:
        return int(into.value) if self._call(function, self._handle, ctypes.byref(into)) == 0 else None

    def _call(self, function: str, *arguments: Any) -> int:
        return int(getattr(self._nvml, function)(*arguments))

    def _checked(self, function: str, *arguments: Any) -> None:
        if status := self._call(function, *arguments):
            raise OSError(f"NVML: {function} answered {status}")


class AmdSensors:
    """AMD.

    Args:
        device: the card's folder in sysfs.
        violations: whether the card is throttled now, of `amdsmi`; None without it.

    Raises:
        OSError: there is no such folder.
    """

    def __init__(self, device: Path, violations: Callable[[], bool] | None = None) -> None:
        if not device.is_dir():
            raise OSError(f"{device} is no folder")
        self._device = device
        self._violations = violations

    @cached_property
    def _hwmon(self) -> Path:
        return next(iter(sorted(self._device.glob("hwmon/hwmon*"))), self._device / "hwmon")

    def card(self) -> Card:
        microwatts = _read(self._hwmon / "power1_cap")
        return Card(
            driver=_read(Path("/sys/module/amdgpu/version")) or _kernel_release(),
            power_cap_w=int(microwatts) // 1_000_000 if microwatts and microwatts.isdecimal() else None,
            compute_partition=_read(self._device / "current_compute_partition"),
            memory_partition=_read(self._device / "current_memory_partition"),
        )

    def clock(self) -> Clock:
        hertz = _read(self._hwmon / "freq1_input")
        if hertz and hertz.isdecimal():
            mhz: int | None = int(hertz) // 1_000_000
        else:  # the line of the level that is on: `1: 2100Mhz *`
            level = re.search(r"(\d+)\s*mhz\s*\*", _read(self._device / "pp_dpm_sclk") or "", re.IGNORECASE)
            mhz = int(level[1]) if level else None
        return Clock(mhz, self._violations() if self._violations else False)


def open_sensors(properties: Any, *, hip: bool) -> Sensors:
    """The sensors of the card with torch's device properties; `NoSensors` where it cannot be asked."""
    try:
        if not hip:
            return NvmlSensors("GPU-" + str(properties.uuid).removeprefix("GPU-"))
        pci = pci_address(properties)
        return AmdSensors(SYSFS / pci, _amdsmi_violations(pci))
    except (OSError, AttributeError):  # no library or folder; a library or torch that lacks what is asked
        return NoSensors()


def pci_address(properties: Any) -> str:
    """`0000:1a:00.0` from torch's device properties.

    Raises:
        AttributeError: this torch does not tell.
    """
    at = [int(getattr(properties, f"pci_{part}_id")) for part in ("domain", "bus", "device")]
    return "{:04x}:{:02x}:{:02x}.0".format(*at)


def _amdsmi_violations(pci: str) -> Callable[[], bool] | None:
    """Asks `amdsmi` whether the card was limited since the last time it was asked, by power or temperature.

    From the residency counters of the GPU's metrics, which only grow. `amdsmi_get_violation_status` would
    tell the same, but sleeps 100 ms between two readings of its own, in which the clocks fall.
    """
    try:
        amdsmi: Any = importlib.import_module("amdsmi")
    except (ImportError, KeyError, OSError):  # it looks for its library and its environment at import
        return None
    if not hasattr(amdsmi, "amdsmi_get_gpu_metrics_info"):
        return None

    def counters() -> dict[str, int]:
        metrics = amdsmi.amdsmi_get_gpu_metrics_info(handle)
        return {
            name: value
            for name, value in metrics.items()
            if name.endswith("_residency_acc") and isinstance(value, int)
        }

    try:
        amdsmi.amdsmi_init()
        handle = amdsmi.amdsmi_get_processor_handle_from_bdf(pci)
        last = counters()
    except amdsmi.AmdSmiException:  # not told on this card or in this container
        return None
    if not last:
        return None

    def violated() -> bool:
        nonlocal last
        try:
            now = counters()
        except amdsmi.AmdSmiException:  # a missing sensor never stops a measurement
            return False
        grown = any(value > last.get(name, value) for name, value in now.items())
        last = now
        return grown

    return violated


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip() or None
    except OSError:
        return None


def _kernel_release() -> str | None:
    """The kernel's release stands for the driver that is built into it."""
    release = _read(Path("/proc/sys/kernel/osrelease"))
    return f"amdgpu in Linux {release}" if release else None
