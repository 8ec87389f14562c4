"""GPUs that this process may use: those that the visible-device variables show, by their index among them.

CUDA_VISIBLE_DEVICES and HIP_VISIBLE_DEVICES are lists of which a worker is shown one entry. ROCm reads the
second, and the first where the second is not set. ROCR_VISIBLE_DEVICES, which works a level below, stays as
it is: the indices of the others count what it leaves.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from autotune.errors import UserError
from autotune.machine.devices import Device
from autotune.machine.probe import DEVICE, answered, live_device, probe

VARIABLES: Final = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")


SEEN: Final = "autotune.machine.visible:seen"
"""The visible GPUs, a `Seen`."""


@dataclass(frozen=True)
class Seen:
    """The GPUs that torch sees, in its order."""

    devices: tuple[Device, ...]


def seen() -> Seen:
    """For a process of its own: see `autotune.machine.probe`."""
    import torch

    return Seen(tuple(live_device(index) for index in range(torch.cuda.device_count())))


def count_visible() -> int:
    """How many GPUs torch sees here.

    Raises:
        UserError: there is no torch that sees one.
    """
    return len(probe(SEEN)["devices"])


def known_of(place: Sequence[int]) -> dict[str, dict[str, Any]]:
    """What a process that sees some of the GPUs need not ask, as far as it is known; see `probe.know`."""
    if not answered(SEEN):
        return {DEVICE: probe()} if tuple(place) == (0,) and answered() else {}
    devices = [probe(SEEN)["devices"][index] for index in place]
    return {DEVICE: devices[0], SEEN: {"devices": devices}}


def parse_devices(text: str) -> tuple[int, ...] | None:
    """The indices of `0,2,3`; None: `all`.

    Raises:
        UserError: it is neither, or an index stands twice.
    """
    if text == "all":
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdecimal() for part in parts):
        raise UserError(f"--devices {text!r} is no list of GPUs: give all, or their indices such as 0,2,3")
    indices = tuple(int(part) for part in parts)
    if len(set(indices)) < len(indices):
        raise UserError(f"--devices {text} names a GPU twice: give each index once")
    return indices


def environment_of(*indices: int, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables of a process that is to see some GPUs: those of these indices among what is visible now.

    Raises:
        UserError: fewer are visible.
    """
    return {name: ",".join(_listed(name, index, environment) for index in indices) for name in VARIABLES}


def show_only(indices: Sequence[int]) -> None:
    """Lets this process and its workers see only the GPUs of these indices, which count from 0 from then on.

    Raises:
        UserError: fewer are visible.
    """
    os.environ.update(environment_of(*indices))


def _listed(variable: str, index: int, environment: Mapping[str, str]) -> str:
    visible = [name.strip() for name in environment.get(variable, "").split(",") if name.strip()]
    if visible and index >= len(visible):
        raise UserError(
            f"GPU {index} is not visible, {variable} shows {len(visible)}: use 0 to {len(visible) - 1}"
        )
    return visible[index] if visible else str(index)
