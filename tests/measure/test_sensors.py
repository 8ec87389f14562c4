"""Sensors tell what the card tells, and nothing where it does not."""

import sys
from pathlib import Path
from typing import Any

import pytest

from autotune.measure import sensors
from autotune.measure.runtime import Clock
from autotune.measure.sensors import AmdSensors, Card, NoSensors, open_sensors, pci_address


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
    assert sensors.clock() == Clock(2100, throttled=False)


def test_without_a_frequency_sensor_the_level_that_is_on_is_the_clock(tmp_path: Path) -> None:
    folder = amd_card(tmp_path, pp_dpm_sclk="0: 132Mhz\n1: 1200Mhz *\n2: 2100Mhz")
    assert AmdSensors(folder).clock().mhz == 1200


def test_a_violation_marks_the_reading(tmp_path: Path) -> None:
    assert AmdSensors(tmp_path, lambda: True).clock() == Clock(None, throttled=True)


def test_what_is_not_told_is_none(tmp_path: Path) -> None:
    card = AmdSensors(tmp_path).card()
    assert (card.compute_partition, card.memory_partition, card.power_cap_w) == (None, None, None)
    assert AmdSensors(tmp_path).clock() == Clock()


@pytest.mark.parametrize("hip", [False, True])
def test_a_machine_without_the_card_has_no_sensors(hip: bool) -> None:
    class Properties:
        uuid = "00000000-0000-0000-0000-000000000000"
        pci_domain_id, pci_bus_id, pci_device_id = 0xFFFF, 0xFF, 0x1F

    sensors = open_sensors(Properties(), hip=hip)
    assert isinstance(sensors, NoSensors)
    assert sensors.card() == Card()
    assert sensors.clock() == Clock()


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
