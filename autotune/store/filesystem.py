"""Whether a file lies on a network file system, where SQLite's write-ahead log must not be used."""

from pathlib import Path

# Processes on two hosts do not share memory there, which the log's index needs. SQLite itself does not
# notice: from one host all seems well.
_NETWORK = {
    "9p", "afs", "beegfs", "ceph", "cifs", "fuse.ceph", "fuse.glusterfs", "fuse.sshfs", "gpfs", "lustre",
    "nfs", "nfs4", "pvfs2", "smb3", "smbfs", "wekafs",
}  # fmt: skip
_MOUNTS = Path("/proc/self/mountinfo")


def network_filesystem(path: Path) -> str | None:
    """The name of the network file system that `path` lies on; None: a local one, or not known."""
    try:
        lines = _MOUNTS.read_text().splitlines()
    except OSError:
        return None
    target = path.resolve()
    found, depth = None, -1
    for line in lines:
        # 36 35 98:0 /root /mount/point options [optional fields] - type source options
        left, _, right = line.partition(" - ")
        # The kernel writes a space in a name as \040.
        mount = Path(left.split()[4].encode().decode("unicode_escape"))
        if target.is_relative_to(mount) and len(mount.parts) >= depth:
            found, depth = right.split()[0], len(mount.parts)
    return found if found in _NETWORK else None
