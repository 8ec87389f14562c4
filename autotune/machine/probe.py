"""Asks the GPU of this machine, in a process of its own: the driver never holds a GPU context.

The process is `python -m autotune.machine.probe module:function`, which prints the answer's fields as JSON.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from autotune.errors import UserError
from autotune.machine.devices import DEFAULT_OFFLINE, MIB, Device, known_device

_NODES: Final = ("/dev/kfd", "/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg")
DEVICE: Final = "autotune.machine.probe:live_device"
"""The first visible GPU, a `Device`."""


_answers: dict[str, dict[str, Any]] | None = None


@contextmanager
def answers_kept() -> Iterator[None]:
    """Asks the GPU each question once only; for a process whose visible GPUs stay the same."""
    global _answers
    _answers = {}
    try:
        yield
    finally:
        _answers = None


def know(answers: Mapping[str, dict[str, Any]]) -> None:
    """Where answers are kept: keeps these, by their questions."""
    if _answers is not None:
        _answers.update(answers)


def answered(question: str = DEVICE) -> bool:
    """Whether asking takes no time, as the answer is kept."""
    return _answers is not None and question in _answers


def has_gpu() -> bool:
    """Whether a GPU's driver is loaded here; says nothing of torch."""
    return any(Path(node).exists() for node in _NODES)


def gpu_nodes() -> int:
    """How many GPUs there may be, by the device nodes here, visible or not."""
    listed = Path("/dev").glob("nvidia[0-9]*"), Path("/dev/dri").glob("renderD*")
    return max(len(list(nodes)) for nodes in listed) if has_gpu() else 0


def gpu_here() -> Device | None:
    """The first visible GPU; None: there is none, or no torch that sees it."""
    try:
        return Device(**probe()) if has_gpu() else None
    except UserError:
        return None


def probe(question: str = DEVICE) -> dict[str, Any]:
    """The fields of the dataclass that a function returns in a process of its own.

    Args:
        question: `module:function`; it has no arguments.

    Raises:
        UserError: it failed there.
    """

    if _answers is not None and answered(question):
        return dict(_answers[question])

    def ask() -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "autotune.machine.probe", question]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    asked = ask()
    if asked.returncode < 0:  # killed, by the OOM killer say: that tells nothing of the GPU
        asked = ask()
    if asked.returncode != 0:
        last = (asked.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(
            f"torch cannot use a GPU here ({last}): go to a machine with a GPU, its driver and its build of"
            f" torch, or prepare offline with `autotune run --target {DEFAULT_OFFLINE}`"
        )
    answer: dict[str, Any] = json.loads(asked.stdout)
    if _answers is not None:
        _answers[question] = answer
    return answer


def live_device(index: int = 0) -> Device:
    """A visible GPU; what torch does not tell comes from the table of known devices.

    Raises:
        RuntimeError: torch sees no GPU.
    """
    import torch

    properties = torch.cuda.get_device_properties(index)
    name = torch.cuda.get_device_name(index) or getattr(properties, "gcnArchName", "")
    hip = torch.version.hip is not None
    known = known_device(name)
    if hip:
        arch = properties.gcnArchName.split(":")[0]
        if known is None:  # containers may hide the marketing name: take the arch's sibling
            known = known_device("mi325x") if arch == "gfx942" else None
    else:
        arch = f"sm_{properties.major}{properties.minor}"
    lds = getattr(properties, "shared_memory_per_block_optin", 0) or properties.shared_memory_per_block
    base = known or Device(
        name=name,
        arch=arch,
        runtime="hip" if hip else "cuda",
        compute_units=0,
        wave_size=properties.warp_size,
        lds_bytes=lds,
        lds_bytes_per_cu=getattr(properties, "shared_memory_per_multiprocessor", lds),
        # Unknown GPUs err towards colder weights: AMD's have an Infinity Cache that no property tells of.
        last_level_cache_bytes=max(
            4 * getattr(properties, "L2_cache_size", 64 * MIB), 256 * MIB if hip else 0
        ),
        bandwidth_bytes_per_s=0.0,
    )
    return replace(base, name=name, arch=arch, compute_units=properties.multi_processor_count)


if __name__ == "__main__":
    _module, _, _function = sys.argv[1].partition(":")
    print(json.dumps(asdict(getattr(import_module(_module), _function)())))
