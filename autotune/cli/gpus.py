"""`--devices`: the GPUs that a run measures on."""

from collections.abc import Sequence

import typer

from autotune.cli.options import given
from autotune.errors import UserError
from autotune.text import counted


def asked_gpus(context: typer.Context, devices: str | None) -> Sequence[int] | None:
    """The GPUs that are asked for, by their index among those visible; empty: all. None: nothing is said.

    Those that are named are the only ones visible from then on.

    Raises:
        UserError: it is no list of GPUs, or fewer are visible.
    """
    if devices is None:
        return None
    from autotune.machine.visible import parse_devices, show_only

    if given(context, "device"):
        raise UserError("--device and --devices both say which GPUs are used: give one of them")
    indices = parse_devices(devices)
    if indices is not None:
        show_only(indices)
    return indices or ()


def seen_gpus(asked: Sequence[int], text: str) -> tuple[int, ...]:
    """The GPUs to use, counted from 0 among what is visible.

    Raises:
        UserError: one of those asked for is not there.
    """
    from autotune.machine.probe import has_gpu
    from autotune.machine.visible import count_visible

    if not has_gpu():
        return ()  # whether that is refused depends on the target
    there = count_visible()
    if asked and there < len(asked):
        raise UserError(
            f"--devices {text}: only {counted(there, 'GPU')} of these can be seen: leave others out"
        )
    return tuple(range(len(asked) or there))


def start_workers_ahead(indices: Sequence[int] | None) -> None:
    """Starts as many processes as measure workers will be needed, which import torch while the GPU is asked.

    Args:
        indices: see `asked_gpus`.
    """
    from autotune.machine.probe import answered
    from autotune.processes.spawning import start_ahead

    if (count := may_be_used(indices)) > 0 and not answered():
        start_ahead(count, ("torch", "triton", "autotune.measure.requests"))


def may_be_used(indices: Sequence[int] | None) -> int:
    """How many GPUs will be used, by what is known before they are asked.

    Args:
        indices: see `asked_gpus`.
    """
    from autotune.machine.probe import gpu_nodes

    nodes = gpu_nodes()
    return 0 if not nodes else 1 if indices is None else len(indices) or nodes
