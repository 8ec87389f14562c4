"""Writing files so that nobody finds half of one: beside the old one, which is replaced when all is there."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to in place of `path`, which it becomes when the block ends without an error.

    After an error, a full disk or a kill the old file is as it was. A device or a pipe is written as it is.

    Raises:
        OSError: the folder cannot be written, or what was written cannot be kept.
    """
    target = Path(os.path.realpath(path))  # a link stays one: what it points to is replaced
    if target.exists() and not target.is_file():
        yield path
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.name[:100]}-", dir=target.parent)
    os.close(handle)
    beside = Path(name)
    try:
        yield beside
        _flush_to_disk(beside)
        if target.exists():
            shutil.copymode(target, beside)
        else:
            umask = os.umask(0)
            os.umask(umask)
            beside.chmod(0o666 & ~umask)
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Makes `text`, as UTF-8, the whole content of a file.

    Raises:
        OSError: it cannot be written; the old file is as it was.
    """
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def _flush_to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
