"""Whether a file lies on a local disk: elsewhere SQLite's write-ahead log must not be used."""

import os
import re
from pathlib import Path

# The log's index is memory that all processes share, which they do only where one kernel keeps the file's
# pages. SQLite does not notice that it fails: from one host all seems well. So what is not known to be such a
# file system is not taken for one: FUSE can be anything, a virtual machine's share has a host behind it.
_LOCAL = {
    "bcachefs", "btrfs", "exfat", "ext2", "ext3", "ext4", "f2fs", "jfs", "msdos", "nilfs2", "ntfs3",
    "overlay", "ramfs", "reiserfs", "tmpfs", "udf", "vfat", "xfs", "zfs",
}  # fmt: skip
_MOUNTS = Path("/proc/self/mountinfo")


def not_local(path: Path) -> str | None:
    """Why `path` is not known to lie on a local disk, as words; None: it does."""
    target = os.fsencode(path.resolve())
    try:
        lines = _MOUNTS.read_bytes().splitlines()
    except OSError:
        return "its file system is not known"
    kind, depth = "", -1
    for line in lines:
        # 36 35 98:0 /root /mount/point options [optional fields] - type source options
        left, _, right = line.partition(b" - ")
        # The kernel writes a space in a name as \040.
        mount = re.sub(rb"\\([0-7]{3})", lambda code: bytes([int(code[1], 8)]), left.split()[4])
        inside = target == mount or target.startswith(mount.rstrip(b"/") + b"/")
        # Of two mounts on one place the later one is seen.
        if inside and len(mount) >= depth:
            kind, depth = os.fsdecode(right.split()[0]), len(mount)
    if kind in _LOCAL:
        return None
    return (
        f"its file system is {kind}, not known to be a local disk's"
        if kind
        else "its file system is not known"
    )
