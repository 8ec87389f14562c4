"""Writes a folder of files at once: a reader sees the old bundle or the new one, never half of either."""

import ctypes
import errno
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from autotune.errors import UserError
from autotune.protocol.bundle import MANIFEST

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def write_bundle(folder: Path, files: Mapping[str, str]) -> None:
    """Writes `files` (path in it to text) as the whole content of `folder`.

    Raises:
        UserError: the folder cannot be written, or holds something that is not a bundle.
    """
    folder = Path(os.path.realpath(folder))  # a link stays one: what it points to is replaced
    _refuse_foreign(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise UserError(f"cannot write beside {folder} ({error.strerror}): choose another --out") from error
    try:
        staging.chmod(0o755)
        for name, text in files.items():
            (staging / name).parent.mkdir(parents=True, exist_ok=True)
            with (staging / name).open("x", encoding="utf-8", newline="\n") as handle:
                handle.write(text)
                handle.flush()
                os.fsync(handle.fileno())
        if folder.exists():
            _exchange(staging, folder)
        else:
            staging.rename(folder)
    except OSError as error:
        raise UserError(
            f"cannot write {folder} ({error.strerror}): free some space, or choose a new folder inside it"
            " if it is a mount point or the working folder"
        ) from error
    finally:
        # After an exchange this is the old bundle; after a failure the unfinished new one.
        shutil.rmtree(staging, ignore_errors=True)


def _refuse_foreign(folder: Path) -> None:
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MANIFEST).is_file():
        raise UserError(f"{folder} holds files that are no bundle: choose an empty or new folder with --out")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: choose a folder with --out")


def _exchange(new: Path, old: Path) -> None:
    """Swaps two folders: in one step where the kernel can, else by two renames."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is not None:
        swapped = renameat2(_AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(old), _RENAME_EXCHANGE)
        if swapped == 0:
            return
        if ctypes.get_errno() not in (errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.ENOTSUP):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(old))
    # This file system cannot swap: for an instant there is no bundle, but never half of one.
    aside = new.with_name(f"{new.name}.old")
    old.rename(aside)
    new.rename(old)
    aside.rename(new)
