"""Reads the GPU's sensors: clock, throttling, power cap, driver, partitions.

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

from autotune.measure.neighbours import Occupancy
from autotune.protocol.runtime import ClockReading

SYSFS = Path("/sys/bus/pci/devices")
KFD = Path("/sys/class/kfd/kfd")

# nvml.h, nvmlClocksEventReason*: software power cap, hardware slowdown, software and hardware thermal
# slowdown, power brake. Idle (1), application clocks (2) and sync boost (16) are no throttling.
_NVML_THROTTLED = 0x4 | 0x8 | 0x20 | 0x40 | 0x80
_NVML_CLOCK_SM = 1
_NVML_TOO_SMALL = 7
_NO_FUNCTION = 13


class _Process(ctypes.Structure):
    """nvmlProcessInfo_t since its second version."""

    _fields_ = (
        ("pid", ctypes.c_uint),
        ("used", ctypes.c_ulonglong),
        ("gpu_instance", ctypes.c_uint),
        ("compute_instance", ctypes.c_uint),
    )


class _Memory(ctypes.Structure):
    """nvmlMemory_v2_t: `used` is without what the driver keeps for itself."""

    _fields_ = (
        ("version", ctypes.c_uint),
        ("total", ctypes.c_ulonglong),
        ("reserved", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    )


class _Utilization(ctypes.Structure):
    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


@dataclass(frozen=True)
class Card:
    """What does not change while a process runs. None: not told."""

    driver: str | None = None
    power_cap_w: int | None = None
    compute_partition: str | None = None
    memory_partition: str | None = None


class Sensors(Protocol):
    """One GPU's sensors."""

    def card(self) -> Card: ...

    def clock(self) -> ClockReading: ...

    def occupancy(self) -> Occupancy: ...


class NoSensors:
    """A device that tells nothing."""

    def card(self) -> Card:
        return Card()

    def clock(self) -> ClockReading:
        return ClockReading()

    def occupancy(self) -> Occupancy:
        return Occupancy()


class NvmlSensors:
    """NVIDIA.

    Args:
        uuid: the GPU's, as NVML writes it: `GPU-…`.

    Raises:
        OSError: there is no NVML, or it does not know the GPU.
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

    def clock(self) -> ClockReading:
        mhz = ctypes.c_uint()
        told = self._call("nvmlDeviceGetClockInfo", self._handle, _NVML_CLOCK_SM, ctypes.byref(mhz)) == 0
        # The older name; newer drivers keep it.
        reasons = self._number("nvmlDeviceGetCurrentClocksThrottleReasons", ctypes.c_ulonglong())
        return ClockReading(mhz.value if told else None, bool((reasons or 0) & _NVML_THROTTLED))

    def occupancy(self) -> Occupancy:
        graphics = {process.pid: process.used for process in self._processes("Graphics")}
        compute = [*self._processes("Compute"), *self._processes("MPSCompute")]
        memory = _Memory(version=ctypes.sizeof(_Memory) | 2 << 24)
        rates = _Utilization()
        told = self._call("nvmlDeviceGetMemoryInfo_v2", self._handle, ctypes.byref(memory)) == 0
        busy = self._call("nvmlDeviceGetUtilizationRates", self._handle, ctypes.byref(rates)) == 0
        return Occupancy(
            {
                process.pid: process.gpu_instance << 32 | process.compute_instance
                for process in compute
                if process.pid not in graphics
            },
            memory.used if told and not graphics else None,
            rates.gpu / 100 if busy and not graphics else None,
        )

    def _processes(self, kind: str) -> list[_Process]:
        """Those that run compute or graphics work; none where the driver's library is older than 2021."""
        for version in ("_v3", "_v2"):
            count = ctypes.c_uint(32)
            status = _NVML_TOO_SMALL
            while status == _NVML_TOO_SMALL and count.value < 1 << 16:
                count.value *= 2  # others may come between two calls
                into = (_Process * count.value)()
                function = f"nvmlDeviceGet{kind}RunningProcesses{version}"
                status = self._call(function, self._handle, ctypes.byref(count), into)
                if status == 0:
                    return list(into[: count.value])
        return []

    def _number(self, function: str, into: Any) -> int | None:
        return int(into.value) if self._call(function, self._handle, ctypes.byref(into)) == 0 else None

    def _call(self, function: str, *arguments: Any) -> int:
        """NVML's status; that of a function that is not there is one as well."""
        try:
            return int(getattr(self._nvml, function)(*arguments))
        except AttributeError:
            return _NO_FUNCTION

    def _checked(self, function: str, *arguments: Any) -> None:
        if status := self._call(function, *arguments):
            raise OSError(f"NVML: {function} answered {status}")


class AmdSensors:
    """AMD.

    Args:
        device: the GPU's folder in sysfs.
        violations: whether the GPU is throttled now, of `amdsmi`; None without it.

    Raises:
        OSError: there is no such folder.
    """

    def __init__(self, device: Path, violations: Callable[[], bool] | None = None) -> None:
        if not device.is_dir():
            raise OSError(f"{device} is not a folder")
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

    def clock(self) -> ClockReading:
        hertz = _read(self._hwmon / "freq1_input")
        if hertz and hertz.isdecimal():
            mhz: int | None = int(hertz) // 1_000_000
        else:  # the line of the level that is on: `1: 2100Mhz *`
            level = re.search(r"(\d+)\s*mhz\s*\*", _read(self._device / "pp_dpm_sclk") or "", re.IGNORECASE)
            mhz = int(level[1]) if level else None
        return ClockReading(mhz, self._violations() if self._violations else False)

    def occupancy(self) -> Occupancy:
        """KFD's processes with a queue on this GPU, of every container; a display server has none there."""
        ids = _kfd_ids(self._device.name)
        busy = _read(self._device / "gpu_busy_percent")
        return Occupancy(
            {int(process.name): 0 for process in KFD.glob("proc/[0-9]*") if _has_queue(process, ids)},
            None,  # what amdgpu keeps for itself is in the number
            int(busy) / 100 if busy and busy.isdecimal() else None,
        )


def _kfd_ids(pci: str) -> set[str]:
    """What KFD calls the GPU at a PCI address: several where it is partitioned."""
    domain, bus, device = (int(part, 16) for part in pci.partition(".")[0].split(":"))
    ids = set()
    for node in KFD.glob("topology/nodes/*"):
        properties = dict(line.split(maxsplit=1) for line in (_read(node / "properties") or "").splitlines())
        location = int(properties.get("location_id", 0))
        if (int(properties.get("domain", 0)), location >> 8, location >> 3 & 31) == (domain, bus, device):
            ids.add(_read(node / "gpu_id") or "")
    return ids - {"", "0"}


def _has_queue(process: Path, ids: set[str]) -> bool:
    return any(_read(queue) in ids for queue in process.glob("queues/*/gpuid"))


def open_sensors(properties: Any, *, hip: bool) -> Sensors:
    """The sensors of the GPU with torch's device properties; `NoSensors` where it cannot be asked."""
    try:
        if not hip:
            return NvmlSensors(identity(properties, hip=False) or "")
        pci = pci_address(properties)
        return AmdSensors(SYSFS / pci, _amdsmi_violations(pci))
    except (OSError, AttributeError):  # no library or folder; a library or torch that lacks what is asked
        return NoSensors()


def identity(properties: Any, *, hip: bool) -> str | None:
    """What tells the GPU from every other one in the machine, in every process; None: it is not told."""
    try:
        return pci_address(properties) if hip else "GPU-" + str(properties.uuid).removeprefix("GPU-")
    except AttributeError:
        return None


def pci_address(properties: Any) -> str:
    """`0000:1a:00.0` from torch's device properties.

    Raises:
        AttributeError: this torch does not tell.
    """
    at = [int(getattr(properties, f"pci_{part}_id")) for part in ("domain", "bus", "device")]
    return "{:04x}:{:02x}:{:02x}.0".format(*at)


def _amdsmi_violations(pci: str) -> Callable[[], bool] | None:
    """Asks `amdsmi` whether the GPU was limited since the last time it was asked, by power or temperature.

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
    except amdsmi.AmdSmiException:  # not told on this GPU or in this container
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
        return path.read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def _kernel_release() -> str | None:
    """The kernel's release stands for the driver that is built into it."""
    release = _read(Path("/proc/sys/kernel/osrelease"))
    return f"amdgpu in Linux {release}" if release else None
