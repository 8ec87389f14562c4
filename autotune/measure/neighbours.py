"""Finds other processes on the GPU, as far as the machine tells.

By name where the driver's list of processes speaks of the processes that are seen here. In a container it may
speak of another namespace's, or be empty: then what counts is what was there before this process's own start,
memory in use and work under way, and afterwards the samples themselves (`autotune.measure.contention`).
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

PROC = Path("/proc")
HIDDEN = "what looks like the work of another process that this container does not show"
USED_BYTES = 100 << 20
"""A context of CUDA takes hundreds of MiB; a GPU without one has less than this in use (H100: none)."""
BUSY = 0.05
# It owns the contexts of its clients and does nothing by itself; they are listed as well.
_SERVERS = ("nvidia-cuda-mps",)
_DEVICES = ("/dev/nvidia", "/dev/kfd", "/dev/dri/render")


@dataclass(frozen=True)
class Occupancy:
    """What a driver tells of a GPU's users; display servers are left out.

    Attributes:
        processes: with compute work on it, by process id; the value names the part of the GPU that each has.
        used_bytes: memory in use; None: not told, or held by a display server in part.
        busy: share of the last second or so in which it worked; None: not told, or a display's in part.
    """

    processes: Mapping[int, int] = field(default_factory=dict)
    used_bytes: int | None = None
    busy: float | None = None


class Neighbours:
    """Tells strangers from this process's own family: its ancestors, and all that its driver has started.

    Args:
        occupancy: asks the GPU's driver.
    """

    def __init__(self, occupancy: Callable[[], Occupancy]) -> None:
        self._occupancy = occupancy
        self._early: frozenset[int] = frozenset()
        self._relatives: frozenset[int] = frozenset()

    def before(self) -> str | None:
        """Who is there before this process has put anything on the GPU, in words; None: nobody."""
        there = self._occupancy()
        if os.getpid() in there.processes:  # something has, after all
            return self.now()
        self._early = frozenset(pid for pid in there.processes if not _shown(pid))
        relatives = _relatives_on_a_gpu()
        # A list that names a relative as it is seen here names all that are seen here: the others are hidden.
        self._relatives = frozenset() if relatives & there.processes.keys() else relatives
        strangers = [pid for pid in there.processes if _shown(pid) and not _is_family(pid) and _works(pid)]
        if strangers or self._hidden(there.processes):
            return _named(strangers) if strangers else HIDDEN
        if there.busy is not None and there.busy >= BUSY:
            return f"{HIDDEN} (it is busy {there.busy:.0%} of the time)"
        if (there.used_bytes or 0) > USED_BYTES and not relatives:
            return f"{HIDDEN} ({(there.used_bytes or 0) >> 20:,} MiB of its memory are in use)"
        return None

    def now(self) -> str | None:
        """Who is there beside this process, in words; None: nobody that can be told."""
        there = self._occupancy().processes
        own = os.getpid()
        if own in there:  # the list speaks of the processes that are seen here
            mine = [pid for pid, part in there.items() if part == there[own]]
            strangers = [pid for pid in mine if not _is_family(pid) and _works(pid)]
            return _named(strangers) if strangers else None
        strangers = [pid for pid in there if _shown(pid) and not _is_family(pid) and _holds_a_gpu(pid)]
        if strangers:
            return _named(strangers)
        # Of a list that does not name this process only those are surely others that were there before it.
        return HIDDEN if self._hidden(there) else None

    def _hidden(self, there: Mapping[int, int]) -> bool:
        """Whether more of those that were there before are still there than this process has relatives.

        A relative on the GPU, another worker of this driver say, may be listed under a number that nobody
        knows here.
        """
        relatives = sum(map(_shown, self._relatives))
        return len(self._early & there.keys()) > relatives


def _named(pids: list[int]) -> str:
    """`process 497 (python3)`."""
    names = [f"{pid} ({_name(pid)})" for pid in sorted(pids)]
    return f"process{'es' if len(names) > 1 else ''} {', '.join(names)}"


def _name(pid: int) -> str:
    try:
        return (PROC / str(pid) / "comm").read_text().strip()
    except OSError:
        return "of another container"


def _works(pid: int) -> bool:
    return not _name(pid).startswith(_SERVERS)


def _shown(pid: int) -> bool:
    return (PROC / str(pid)).exists()


def _parent(pid: int) -> int:
    """0: it has none, or is not seen here."""
    try:
        return int((PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0


def _ancestors(pid: int) -> list[int]:
    line = []
    while (pid := _parent(pid)) > 1 and pid not in line:
        line.append(pid)
    return line


def _is_family(pid: int) -> bool:
    """This process, its ancestors, and its driver's descendants."""
    driver = os.getppid()
    # With a driver that is process 1 of its container, every process there descends from it.
    mine = _parent(pid) == driver or (driver > 1 and driver in _ancestors(pid))
    return mine or pid in (os.getpid(), driver, *_ancestors(driver))


def _holds_a_gpu(pid: int) -> bool:
    """Whether it has a GPU's device open, or may have: it is somebody else's and cannot be looked into."""
    try:
        links = [os.readlink(link) for link in (PROC / str(pid) / "fd").iterdir()]
    except OSError:
        return _shown(pid)
    return any(link.startswith(_DEVICES) for link in links)


def _relatives_on_a_gpu() -> frozenset[int]:
    """The family but for this process, where memory in use may be theirs: a notebook's, another worker's."""
    own = os.getpid()
    pids = (int(folder.name) for folder in PROC.iterdir() if folder.name.isdecimal())
    return frozenset(pid for pid in pids if pid != own and _is_family(pid) and _holds_a_gpu(pid))
