"""Resolves what a run can be asked to tune for: a device, or a table that was recorded on one."""

from pathlib import Path

from autotune.machine import targets
from autotune.machine.targets import Target
from autotune.replay.files import read_table


def resolve_target(name: str | None, *, described: bool = False) -> Target:
    """The target called `name`; without one the GPU that is here, else the offline MI325X.

    Args:
        described: see `machine.targets.resolve_target`.

    Raises:
        UserError: unknown target, no table there, or `live` on a machine without a usable GPU.
    """
    if name is None or not name.startswith("replay:"):
        return targets.resolve_target(name, described=described)
    path = Path(name.removeprefix("replay:"))
    table = read_table(path)
    recorded = table.fingerprint.device
    why = f"Replaying a recording from {recorded} ({path.name}); replayed times cannot be exported."
    return Target(
        name, table.device, live=False, why=why, table=path, routing=table.routing.key, layer=table.layer
    )
