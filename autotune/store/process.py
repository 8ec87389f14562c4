"""Names a process so that a later one can tell whether it still lives."""

import os
import socket
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True)
class Process:
    """A process on a host.

    Attributes:
        identity: boot and start time, which tell it from a later process of equal pid; None: the
            operating system does not tell.
    """

    host: str
    pid: int
    identity: str | None

    @classmethod
    def current(cls) -> "Process":
        return cls.of(os.getpid())

    @classmethod
    def of(cls, pid: int) -> "Process":
        """The process of this host that has a pid now."""
        return cls(socket.gethostname(), pid, _identity(pid))

    def is_dead(self) -> bool:
        """Whether it is known to be gone; nothing is known of another host's processes."""
        if self.host != socket.gethostname():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass  # somebody else's process has that pid; its start time tells whether it is this one
        return self.identity is not None and self.identity != _identity(self.pid)


def _identity(pid: int) -> str | None:
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        # The command's name, in parentheses, may hold spaces; the start time is field 22.
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    # A zombie is dead: only its parent has not looked yet.
    return f"{boot}:{fields[19]}" if fields[0] != "Z" else f"{boot}:ended"
