"""A file that is replaced is the old one or the new one, never half of either."""

import errno
import os
from pathlib import Path

import pytest

from autotune.errors import UserError
from autotune.files import replacing, write_text
from autotune.report import write
from autotune.report.content import Scope
from autotune.store.store import Store


def test_the_new_file_stands_in_the_place_of_the_old_one(tmp_path: Path) -> None:
    file = tmp_path / "new folder" / "report.md"
    write_text(file, "one µs")
    assert file.read_text(encoding="utf-8") == "one µs"
    umask = os.umask(0)
    os.umask(umask)
    assert file.stat().st_mode & 0o777 == 0o666 & ~umask
    file.chmod(0o640)
    write_text(file, "two")
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("two", 0o640)
    assert list(file.parent.iterdir()) == [file]


def test_a_link_stays_one(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("old")
    link.symlink_to(target)
    write_text(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"


@pytest.mark.fault
def test_a_failing_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    file = tmp_path / "table.gz"
    file.write_bytes(b"old")

    def write_half() -> None:
        with replacing(file) as beside:
            beside.write_bytes(b"half of the n")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match="No space"):
        write_half()
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.fault
def test_what_the_disk_does_not_take_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "report.md"
    file.write_text("old")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_text(file, "new")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.fault
@pytest.mark.usefixtures("own_database")
@pytest.mark.parametrize("format_", write.ReportFormat)
def test_a_report_on_a_full_disk_leaves_the_older_report(
    tmp_path: Path, format_: write.ReportFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = tmp_path / f"report.{format_}"
    older.write_text("older")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(write, "gather", lambda store, scope: None)
    monkeypatch.setattr(write, "report_text", lambda *_: "new")
    monkeypatch.setattr(write, "write_parquet", lambda report, path: path.write_text("new"))
    with Store.open() as store:
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match="No space left"):
            write.write_report(store, Scope(), older, format_)
    assert older.read_text() == "older"


def test_a_device_is_written_as_it_is() -> None:
    write_text(Path("/dev/null"), "text")
    assert not Path("/dev/null").is_file()
