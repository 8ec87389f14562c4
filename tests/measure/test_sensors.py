"""Sensors tell what the card tells, and nothing where it does not."""

import ctypes
import sys
from pathlib import Path
from typing import Any

import pytest

from autotune.measure import sensors
from autotune.measure.neighbours import Occupancy
from autotune.measure.sensors import AmdSensors, Card, NoSensors, NvmlSensors, open_sensors, pci_address
from autotune.protocol.runtime import ClockReading


def amd_card(folder: Path, **files: str) -> Path:
    """The driver's folder of a card with files by path; `__` stands for `/`."""
    for name, content in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")
    return folder


def test_an_amd_card_in_cpx_mode(tmp_path: Path) -> None:
    folder = amd_card(
        tmp_path,
        current_compute_partition="CPX",
        current_memory_partition="NPS4",
        hwmon__hwmon3__power1_cap="1000000000",
        hwmon__hwmon3__freq1_input="2100000000",
    )
    sensors = AmdSensors(folder)
    card = sensors.card()
    assert (card.compute_partition, card.memory_partition, card.power_cap_w) == ("CPX", "NPS4", 1000)
    assert sensors.clock() == ClockReading(2100, throttled=False)


def test_without_a_frequency_sensor_the_level_that_is_on_is_the_clock(tmp_path: Path) -> None:
    folder = amd_card(tmp_path, pp_dpm_sclk="0: 132Mhz\n1: 1200Mhz *\n2: 2100Mhz")
    assert AmdSensors(folder).clock().mhz == 1200


def test_a_violation_marks_the_reading(tmp_path: Path) -> None:
    assert AmdSensors(tmp_path, lambda: True).clock() == ClockReading(None, throttled=True)


def test_what_is_not_told_is_none(tmp_path: Path) -> None:
    card = AmdSensors(tmp_path).card()
    assert (card.compute_partition, card.memory_partition, card.power_cap_w) == (None, None, None)
    assert AmdSensors(tmp_path).clock() == ClockReading()


@pytest.mark.parametrize("hip", [False, True])
def test_a_machine_without_the_card_has_no_sensors(hip: bool) -> None:
    class Properties:
        uuid = "00000000-0000-0000-0000-000000000000"
        pci_domain_id, pci_bus_id, pci_device_id = 0xFFFF, 0xFF, 0x1F

    sensors = open_sensors(Properties(), hip=hip)
    assert isinstance(sensors, NoSensors)
    assert sensors.card() == Card()
    assert sensors.clock() == ClockReading()


def test_a_torch_that_does_not_tell_the_address_has_no_sensors() -> None:
    assert isinstance(open_sensors(object(), hip=True), NoSensors)
    assert isinstance(open_sensors(object(), hip=False), NoSensors)


def test_a_cards_address_is_written_as_sysfs_does() -> None:
    class Properties:
        pci_domain_id, pci_bus_id, pci_device_id = 0, 0x1A, 3

    assert pci_address(Properties()) == "0000:1a:03.0"


@pytest.mark.gpu
def test_a_live_card_tells_its_clock(gpu: Any) -> None:
    import torch

    # Not by the properties: torch gives an NVIDIA card's a gcnArchName, too.
    sensors = open_sensors(gpu, hip=torch.version.hip is not None)
    assert not isinstance(sensors, NoSensors)
    mhz = sensors.clock().mhz
    assert mhz is not None
    assert 100 < mhz < 5000
    assert sensors.card().driver
    power = sensors.card().power_cap_w
    assert power is not None
    assert 50 < power < 2000


class FakeAmdsmi:
    """Counters that grow while the card is limited; `error` makes a reading fail."""

    class AmdSmiException(Exception):
        pass

    def __init__(self) -> None:
        self.counters: dict[str, Any] = {"ppt_residency_acc": 5, "prochot_residency_acc": 0, "other": 1}
        self.error = False

    def amdsmi_init(self) -> None:
        pass

    def amdsmi_get_processor_handle_from_bdf(self, pci: str) -> str:
        return pci

    def amdsmi_get_gpu_metrics_info(self, handle: str) -> dict[str, Any]:
        if self.error:
            raise self.AmdSmiException
        return dict(self.counters)


def test_an_amd_card_is_throttled_when_a_residency_counter_has_grown(monkeypatch: pytest.MonkeyPatch) -> None:
    amdsmi = FakeAmdsmi()
    monkeypatch.setitem(sys.modules, "amdsmi", amdsmi)  # type: ignore[arg-type]
    violated = sensors._amdsmi_violations("0000:1a:00.0")
    assert violated is not None
    assert not violated()
    amdsmi.counters["ppt_residency_acc"] += 1
    assert violated()
    assert not violated()
    amdsmi.counters["other"] += 1
    assert not violated()
    amdsmi.error = True
    assert not violated()


def test_a_card_without_counters_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    amdsmi = FakeAmdsmi()
    amdsmi.counters = {"ppt_residency_acc": "N/A"}
    monkeypatch.setitem(sys.modules, "amdsmi", amdsmi)  # type: ignore[arg-type]
    assert sensors._amdsmi_violations("0000:1a:00.0") is None


# Who is on the card.


def kfd(root: Path, **queues: str) -> None:
    """KFD's folder: cards 11 at 0000:1a:00.0 and 22 at 0000:1b:00.0, and processes with queues on them."""
    for node, (gpu, bus) in enumerate(((0, 0), (11, 0x1A), (22, 0x1B))):
        folder = root / "topology" / "nodes" / str(node)
        folder.mkdir(parents=True)
        (folder / "gpu_id").write_text(f"{gpu}\n")
        (folder / "properties").write_text(f"cpu_cores_count 0\ndomain 0\nlocation_id {bus << 8}\n")
    for process, gpus in queues.items():
        for number, of in enumerate(gpus.split()):
            queue = root / "proc" / process.removeprefix("p") / "queues" / str(number)
            queue.mkdir(parents=True)
            (queue / "gpuid").write_text(f"{of}\n")


def test_kfds_processes_with_a_queue_on_this_card_are_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kfd(tmp_path / "kfd", p497="11", p498="22", p499="22 11")
    (tmp_path / "kfd" / "proc" / "500").mkdir()  # has opened the device and asks nothing of it
    monkeypatch.setattr(sensors, "KFD", tmp_path / "kfd")
    card = amd_card(tmp_path / "0000:1a:00.0", gpu_busy_percent="12")
    assert AmdSensors(card).occupancy() == Occupancy({497: 0, 499: 0}, None, 0.12)


class FakeNvml:
    """NVML's answers; a list longer than its caller's room is refused first, as NVML does."""

    def __init__(self, compute: list[int], graphics: list[int], used: int, busy: int) -> None:
        self._lists = {"Compute": compute, "Graphics": graphics, "MPSCompute": []}
        self._used, self._busy = used, busy

    def __getattr__(self, name: str) -> Any:
        for kind, pids in self._lists.items():
            if name == f"nvmlDeviceGet{kind}RunningProcesses_v3":
                return lambda handle, count, into: self._fill(pids, count._obj, into)
        if name == "nvmlDeviceGetMemoryInfo_v2":
            return lambda handle, into: self._set(into._obj, "used", self._used)
        if name == "nvmlDeviceGetUtilizationRates":
            return lambda handle, into: self._set(into._obj, "gpu", self._busy)
        raise AttributeError(name)

    def _set(self, into: Any, field: str, value: int) -> int:
        setattr(into, field, value)
        return 0

    def _fill(self, pids: list[int], count: Any, into: Any) -> int:
        room, count.value = count.value, len(pids)
        if room < len(pids):
            return 7
        for index, pid in enumerate(pids):
            into[index].pid = pid
        return 0


def nvml(*answers: Any) -> NvmlSensors:
    made = NvmlSensors.__new__(NvmlSensors)
    made._nvml, made._handle = FakeNvml(*answers), ctypes.c_void_p()  # type: ignore[assignment]
    return made


def test_nvmls_compute_processes_are_on_the_card_and_a_display_server_is_not() -> None:
    told = nvml([497, 498], [], 2258 << 20, 10).occupancy()
    assert told == Occupancy({497: 0, 498: 0}, 2258 << 20, 0.1)
    # It may do both; its memory and its work cannot be told from others'.
    assert nvml([497, 900], [900], 400 << 20, 3).occupancy() == Occupancy({497: 0}, None, None)
    assert len(nvml(list(range(1, 201)), [], 0, 0).occupancy().processes) == 200
