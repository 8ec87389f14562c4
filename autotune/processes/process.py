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
        identity: boot, start time and pid namespace, which tell it from a later process of equal pid and from
            another container's; None: the operating system does not tell.
    """

    host: str
    pid: int
    identity: str | None

    @classmethod
    def current(cls) -> "Process":
        """This process."""
        return cls.of(os.getpid())

    @classmethod
    def of(cls, pid: int) -> "Process":
        """The process of this host that has a pid now."""
        return cls(socket.gethostname(), pid, _identity(pid))

    @property
    def alive(self) -> bool | None:
        """Whether it lives; None: it cannot be told from here, another machine or container than its own."""
        same_host = self.host == socket.gethostname()
        mine = _identity(os.getpid())
        if self.identity is None or mine is None:
            return _has_pid(self.pid) if same_host else None
        boot, start, *namespace = self.identity.split(":")
        my_boot, _, my_namespace = mine.split(":")
        if boot != my_boot:
            return False if same_host else None
        # A container's name is not its machine's: pids that one kernel counts together say more. Earlier
        # versions did not write which do.
        if namespace != [my_namespace] and (namespace or not same_host):
            return None
        now = _identity(self.pid)
        if now is None:  # there is none, or /proc hides what is another user's
            return False if _has_pid(self.pid) is False else None
        return now.split(":")[1] == start


def _has_pid(pid: int) -> bool | None:
    """Whether some process has a pid; None: it is another user's."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return None
    return True


def _identity(pid: int) -> str | None:
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        # The command's name, in parentheses, may hold spaces; the start time is field 22.
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        namespace = os.stat(_PROC / "self/ns/pid").st_ino  # whose pids these are
    except OSError:
        return None
    # A zombie is dead: only its parent has not looked yet.
    return f"{boot}:{fields[19] if fields[0] != 'Z' else 'ended'}:{namespace}"
