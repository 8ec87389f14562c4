"""What is asked of NVML and amdsmi, call by call, against stand-ins of both libraries."""

import ctypes
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from autotune.measure import sensors
from autotune.measure.neighbours import Occupancy
from autotune.measure.sensors import AmdSensors, Card, NoSensors, NvmlSensors, identity, open_sensors
from autotune.protocol.runtime import ClockReading

UUID = "GPU-5b2c2f0e-0000-1111-2222-333344445555"
HANDLE = 0x5EED
TOO_SMALL = 7


class Library:
    """libnvidia-ml: knows one GPU, and answers 2, an invalid argument, to a call that it does not expect.

    Attributes:
        processes: `[pid, GPU instance, compute instance]` by kind of process and version of the function.
        rooms: the room that callers gave for lists of processes.
    """

    def __init__(self) -> None:
        self.initialised = False
        self.driver = "570.86.15"
        self.milliwatts: int | None = 700_000
        self.mhz: int | None = 1980
        self.reasons: int | None = 0
        self.used: int | None = 2258 << 20
        self.busy: int | None = 10
        self.processes: dict[str, list[list[int]]] = {}
        self.rooms: list[int] = []

    def nvmlInit_v2(self) -> int:
        self.initialised = True
        return 0

    def nvmlDeviceGetHandleByUUID(self, uuid: bytes, handle: Any) -> int:
        if not self.initialised or uuid != UUID.encode():
            return 2
        handle._obj.value = HANDLE
        return 0

    def nvmlSystemGetDriverVersion(self, into: Any, room: Any) -> int:
        if len(into) < room.value or len(self.driver) >= room.value:
            return 2
        into.value = self.driver.encode()
        return 0

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: Any, into: Any) -> int:
        return self._number(handle, into, self.milliwatts, ctypes.c_uint)

    def nvmlDeviceGetClockInfo(self, handle: Any, clock: int, into: Any) -> int:
        return self._number(handle, into, self.mhz if clock == 1 else None, ctypes.c_uint)  # 1: of the SMs

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: Any, into: Any) -> int:
        return self._number(handle, into, self.reasons, ctypes.c_ulonglong)

    def nvmlDeviceGetMemoryInfo_v2(self, handle: Any, into: Any) -> int:
        size_and_version = ctypes.sizeof(into._obj) | 2 << 24
        if handle.value != HANDLE or into._obj.version != size_and_version or self.used is None:
            return 2
        into._obj.used = self.used
        return 0

    def nvmlDeviceGetUtilizationRates(self, handle: Any, into: Any) -> int:
        if handle.value != HANDLE or self.busy is None:
            return 2
        into._obj.gpu, into._obj.memory = self.busy, 99
        return 0

    def __getattr__(self, name: str) -> Callable[..., int]:
        kind = name.removeprefix("nvmlDeviceGet").replace("RunningProcesses", "")
        if kind not in self.processes:
            raise AttributeError(name)
        return lambda handle, count, into: self._list(kind, handle, count._obj, into)

    def _number(self, handle: Any, into: Any, value: int | None, kind: type) -> int:
        if handle.value != HANDLE or value is None or type(into._obj) is not kind:
            return 2
        into._obj.value = value
        return 0

    def _list(self, kind: str, handle: Any, count: Any, into: Any) -> int:
        room, there = count.value, self.processes[kind]
        self.rooms.append(room)
        if handle.value != HANDLE or len(into) != room:
            return 2
        count.value = len(there)
        if room < len(there):
            return TOO_SMALL
        for index, (pid, gpu_instance, compute_instance) in enumerate(there):
            into[index].pid = pid
            into[index].gpu_instance, into[index].compute_instance = gpu_instance, compute_instance
        return 0


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    library = Library()

    def load(name: str) -> Library:
        assert name == "libnvidia-ml.so.1"  # the driver's own, of no version of NVML
        return library

    monkeypatch.setattr(ctypes, "CDLL", load)
    return library


def test_a_gpu_tells_its_driver_and_its_power_limit_in_watts(library: Library) -> None:
    library.milliwatts = 699_999
    assert NvmlSensors(UUID).card() == Card("570.86.15", 699, None, None)
    library.milliwatts = None
    assert NvmlSensors(UUID).card() == Card("570.86.15", None)


def test_a_driver_whose_name_has_no_room_is_not_told(library: Library) -> None:
    library.driver = "x" * 95
    assert NvmlSensors(UUID).card().driver == "x" * 95
    library.driver = "x" * 96
    assert NvmlSensors(UUID).card().driver is None


def test_a_gpu_that_nvml_does_not_know_is_an_error(library: Library) -> None:
    with pytest.raises(OSError, match=r"^NVML: nvmlDeviceGetHandleByUUID answered 2$"):
        NvmlSensors("GPU-another")


@pytest.mark.parametrize(
    ("reasons", "throttled"),
    [
        (0x0, False),
        (0x1, False),  # idle
        (0x2, False),  # application clocks
        (0x4, True),  # software power cap
        (0x8, True),  # hardware slowdown
        (0x10, False),  # sync boost
        (0x20, True),  # software thermal slowdown
        (0x40, True),  # hardware thermal slowdown
        (0x80, True),  # power brake
        (0x100, False),  # the display's clocks
        (0x1 | 0x20, True),
        (None, False),
    ],
)
def test_power_heat_and_brakes_throttle_a_gpu_and_idling_does_not(
    reasons: int | None, throttled: bool, library: Library
) -> None:
    library.reasons = reasons
    assert NvmlSensors(UUID).clock() == ClockReading(1980, throttled)


def test_a_clock_that_is_not_told_is_none(library: Library) -> None:
    library.mhz = None
    assert NvmlSensors(UUID).clock() == ClockReading(None, throttled=False)


def test_a_process_has_its_part_of_a_partitioned_gpu(library: Library) -> None:
    library.processes = {"Compute_v3": [[497, 0, 0], [498, 1, 0], [499, 1, 2]], "Graphics_v3": []}
    assert NvmlSensors(UUID).occupancy() == Occupancy(
        {497: 0, 498: 1 << 32, 499: 1 << 32 | 2}, 2258 << 20, 0.1
    )


def test_clients_of_mps_are_on_the_gpu_too(library: Library) -> None:
    library.processes = {"Compute_v3": [[497, 0, 0]], "MPSCompute_v3": [[498, 0, 0]]}
    assert set(NvmlSensors(UUID).occupancy().processes) == {497, 498}


def test_a_display_server_is_nobody_and_its_memory_and_work_are_not_told(library: Library) -> None:
    library.processes = {"Compute_v3": [[497, 0, 0], [900, 0, 0]], "Graphics_v3": [[900, 0, 0]]}
    assert NvmlSensors(UUID).occupancy() == Occupancy({497: 0}, None, None)


def test_an_older_driver_has_the_second_version_of_the_lists(library: Library) -> None:
    library.processes = {"Compute_v2": [[497, 0, 0]]}
    assert set(NvmlSensors(UUID).occupancy().processes) == {497}
    library.processes["Compute_v3"] = [[498, 0, 0]]  # the newer one is asked first
    assert set(NvmlSensors(UUID).occupancy().processes) == {498}


def test_what_nvml_does_not_tell_of_a_gpu_s_users_is_none(library: Library) -> None:
    library.used = library.busy = None
    assert NvmlSensors(UUID).occupancy() == Occupancy({}, None, None)


def test_a_list_gets_twice_the_room_that_was_asked_for_until_it_fits(library: Library) -> None:
    library.processes = {"Compute_v3": [[pid, 0, 0] for pid in range(1, 66)]}
    assert len(NvmlSensors(UUID).occupancy().processes) == 65
    assert library.rooms == [64, 130]


def test_a_list_without_end_is_given_up(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(kind: str, handle: Any, count: Any, into: Any) -> int:
        library.rooms.append(count.value)
        return TOO_SMALL

    monkeypatch.setattr(library, "_list", endless)
    library.processes = {"Compute_v3": []}
    assert NvmlSensors(UUID).occupancy().processes == {}
    assert max(library.rooms) == 1 << 16


# Which sensors a GPU has.

NVIDIA = SimpleNamespace(uuid="5b2c2f0e-0000-1111-2222-333344445555")
AMD = SimpleNamespace(uuid="no matter", pci_domain_id=0, pci_bus_id=0x1A, pci_device_id=3)


def test_a_gpu_is_told_apart_by_its_uuid_or_its_pci_address() -> None:
    assert identity(NVIDIA, hip=False) == UUID
    assert identity(SimpleNamespace(uuid=UUID), hip=False) == UUID  # a torch that writes it whole
    assert identity(AMD, hip=True) == "0000:1a:03.0"
    assert identity(NVIDIA, hip=True) is None
    assert identity(SimpleNamespace(), hip=False) is None


def test_an_nvidia_gpu_has_nvmls_sensors(library: Library) -> None:
    opened = open_sensors(NVIDIA, hip=False)
    assert isinstance(opened, NvmlSensors)
    assert opened.clock().mhz == 1980


def test_an_amd_gpu_has_those_of_its_folder_and_of_amdsmi(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "0000:1a:03.0"
    folder.mkdir()
    (folder / "pp_dpm_sclk").write_text("1: 1200Mhz *\n")
    asked: list[str] = []
    monkeypatch.setattr(sensors, "SYSFS", tmp_path)
    monkeypatch.setattr(sensors, "_amdsmi_violations", lambda pci: asked.append(pci) or (lambda: True))
    opened = open_sensors(AMD, hip=True)
    assert isinstance(opened, AmdSensors)
    assert opened.clock() == ClockReading(1200, throttled=True)
    assert asked == ["0000:1a:03.0"]


def test_no_sensors_tell_nothing() -> None:
    assert NoSensors().occupancy() == Occupancy({}, None, None)
    assert NoSensors().card() == Card(None, None, None, None)
    assert NoSensors().clock() == ClockReading(None, throttled=False)


# amdgpu's folder.


def amd(folder: Path, **files: str) -> AmdSensors:
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return AmdSensors(folder)


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"nowhere is not a folder$"):
        AmdSensors(tmp_path / "nowhere")


def test_sysfs_tells_microwatts_and_hertz(tmp_path: Path) -> None:
    gpu = amd(tmp_path, hwmon__hwmon3__power1_cap="750999999\n", hwmon__hwmon3__freq1_input="2099999999\n")
    assert gpu.card().power_cap_w == 750
    assert gpu.clock() == ClockReading(2099, throttled=False)


def test_a_number_that_is_none_is_not_told(tmp_path: Path) -> None:
    hwmon = {"hwmon__hwmon0__power1_cap": "N/A", "hwmon__hwmon0__freq1_input": "N/A"}
    gpu = amd(tmp_path / "0000:1a:03.0", gpu_busy_percent="N/A", **hwmon)
    assert gpu.card().power_cap_w is None
    assert gpu.clock().mhz is None
    assert gpu.occupancy().busy is None


def test_the_level_with_the_star_is_the_clock_however_it_is_written(tmp_path: Path) -> None:
    assert amd(tmp_path, pp_dpm_sclk="0: 500Mhz\n1: 2100 MHz *\n").clock().mhz == 2100
    assert amd(tmp_path, pp_dpm_sclk="0: 500Mhz\n1: 2100Mhz\n").clock().mhz is None


def test_the_drivers_version_is_amdgpus_or_else_that_of_the_kernel_that_it_came_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"/sys/module/amdgpu/version": "6.12.12", "/proc/sys/kernel/osrelease": "6.8.0-51"}
    monkeypatch.setattr(sensors, "_read", lambda path: files.get(str(path)))
    assert AmdSensors(tmp_path).card().driver == "6.12.12"
    del files["/sys/module/amdgpu/version"]
    assert AmdSensors(tmp_path).card().driver == "amdgpu in Linux 6.8.0-51"
    files.clear()
    assert AmdSensors(tmp_path).card().driver is None


def kfd_node(root: Path, number: int, gpu_id: str, properties: str) -> None:
    node = root / "topology/nodes" / str(number)
    node.mkdir(parents=True)
    (node / "gpu_id").write_text(gpu_id)
    (node / "properties").write_text(properties)


@pytest.mark.parametrize(
    ("pci", "ids"),
    [
        ("0000:1a:03.0", {"11", "12"}),  # partitioned
        ("0000:1a:04.0", {"13"}),
        ("0000:1b:03.0", {"14"}),
        ("0001:1a:03.0", {"15"}),
        ("0000:00:00.0", set()),  # the processor
        ("0000:02:00.0", set()),
    ],
)
def test_kfd_knows_a_gpu_by_its_pci_address(
    pci: str, ids: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensors, "KFD", tmp_path)
    at = 0x1A << 8 | 3 << 3
    kfd_node(tmp_path, 0, "0\n", "cpu_cores_count 8\nlocation_id 0\n")
    kfd_node(tmp_path, 1, "11\n", f"location_id {at}\ndomain 0\n")
    kfd_node(tmp_path, 2, "12\n", f"location_id {at | 1}\n")  # another function of it
    kfd_node(tmp_path, 3, "13\n", f"location_id {0x1A << 8 | 4 << 3}\n")
    kfd_node(tmp_path, 4, "14\n", f"location_id {0x1B << 8 | 3 << 3}\n")
    kfd_node(tmp_path, 5, "15\n", f"location_id {at}\ndomain 1\n")
    (tmp_path / "topology/nodes/6").mkdir()  # says nothing
    assert sensors._kfd_ids(pci) == ids


# amdsmi.


class Smi:
    """amdsmi with a GPU whose counters are given."""

    class AmdSmiException(Exception):
        pass

    def __init__(self, *metrics: dict[str, Any] | None) -> None:
        self._metrics = iter(metrics)

    def amdsmi_init(self) -> None:
        pass

    def amdsmi_get_processor_handle_from_bdf(self, pci: str) -> tuple[str, str]:
        return "handle of", pci

    def amdsmi_get_gpu_metrics_info(self, handle: tuple[str, str]) -> dict[str, Any]:
        assert handle == ("handle of", "0000:1a:03.0")
        metrics = next(self._metrics)
        if metrics is None:
            raise self.AmdSmiException
        return metrics


def violations(monkeypatch: pytest.MonkeyPatch, smi: object) -> Callable[[], bool] | None:
    monkeypatch.setitem(sys.modules, "amdsmi", smi)  # type: ignore[arg-type]
    return sensors._amdsmi_violations("0000:1a:03.0")


def test_a_counter_that_grew_since_the_last_reading_is_a_violation(monkeypatch: pytest.MonkeyPatch) -> None:
    power, heat = "ppt_residency_acc", "socket_thm_residency_acc"
    readings = [
        {power: 5, heat: 0},
        {power: 5, heat: 1},
        {power: 5, heat: 1, "energy_accumulator": 7},
        {power: 4, heat: 1},  # started again
        {power: 5, heat: 1},
        {power: 5, heat: 1, "hbm_thm_residency_acc": 9},  # not seen before: it has not grown
    ]
    violated = violations(monkeypatch, Smi(*readings))
    assert violated is not None
    assert [violated() for _ in readings[1:]] == [True, False, False, True, False]


def test_a_reading_that_fails_is_no_violation_and_the_next_is_against_the_last_that_did_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = "prochot_residency_acc"
    violated = violations(monkeypatch, Smi({name: 1}, None, {name: 1}, {name: 2}))
    assert violated is not None
    assert [violated() for _ in range(3)] == [False, False, True]


@pytest.mark.parametrize(
    "smi",
    [
        pytest.param(None, id="not installed"),
        pytest.param(SimpleNamespace(), id="too old for metrics"),
        pytest.param(Smi(None), id="not told in this container"),
        pytest.param(Smi({"ppt_residency_acc": "N/A"}), id="no counter"),
        pytest.param(Smi({"ppt": 5}), id="none of residency"),
    ],
)
def test_without_counters_amdsmi_tells_no_violations(smi: object, monkeypatch: pytest.MonkeyPatch) -> None:
    assert violations(monkeypatch, smi) is None
