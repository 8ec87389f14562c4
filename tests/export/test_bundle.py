"""Bundles are written whole or not at all."""

import multiprocessing
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.errors import UserError
from autotune.export import bundle
from autotune.export.bundle import write_bundle
from autotune.export.env_file import env_text
from autotune.protocol.bundle import MANIFEST


def _content(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_a_bundle_holds_exactly_its_files(tmp_path: Path) -> None:
    files = {MANIFEST: "{}", "a.json": "1"}
    write_bundle(tmp_path / "deploy", files)
    assert _content(tmp_path / "deploy") == files


def test_an_older_bundle_is_replaced_as_a_whole(tmp_path: Path) -> None:
    write_bundle(tmp_path / "deploy", {MANIFEST: "{}", "old.json": "1"})
    write_bundle(tmp_path / "deploy", {MANIFEST: "{}", "new.json": "2"})
    assert _content(tmp_path / "deploy") == {MANIFEST: "{}", "new.json": "2"}
    assert [path.name for path in tmp_path.iterdir()] == ["deploy"]


def test_where_folders_cannot_be_swapped_they_are_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class WithoutExchange:
        def __init__(self, *_: object, **__: object) -> None:
            pass

    monkeypatch.setattr(bundle.ctypes, "CDLL", WithoutExchange)
    write_bundle(tmp_path / "deploy", {MANIFEST: "{}", "old.json": "1"})
    write_bundle(tmp_path / "deploy", {MANIFEST: "{}", "new.json": "2"})
    assert _content(tmp_path / "deploy") == {MANIFEST: "{}", "new.json": "2"}
    assert [path.name for path in tmp_path.iterdir()] == ["deploy"]


def test_a_failure_half_way_leaves_the_older_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bundle(tmp_path / "deploy", {MANIFEST: "old"})
    monkeypatch.setattr(os, "fsync", _full_disk)
    with pytest.raises(UserError, match="No space"):
        write_bundle(tmp_path / "deploy", {MANIFEST: "new"})
    assert _content(tmp_path / "deploy") == {MANIFEST: "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["deploy"]


def _full_disk(_: int) -> None:
    raise OSError(28, "No space left on device")


def test_a_folder_of_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(UserError, match="choose an empty or new folder"):
        write_bundle(tmp_path, {MANIFEST: "{}"})
    assert (tmp_path / "mine.txt").read_text() == "precious"


def test_a_link_keeps_pointing_at_the_bundle(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for text in ("one", "two"):
        write_bundle(tmp_path / "link", {MANIFEST: text})
        assert _content(tmp_path / "real") == {MANIFEST: text}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]


def test_a_folder_that_cannot_be_replaced_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mount point, say: the kernel refuses to rename it."""
    write_bundle(tmp_path / "deploy", {MANIFEST: "old"})
    monkeypatch.setattr(bundle, "_exchange", _busy)
    with pytest.raises(UserError, match="mount point"):
        write_bundle(tmp_path / "deploy", {MANIFEST: "new"})
    assert _content(tmp_path / "deploy") == {MANIFEST: "old"}


def _busy(*_: Path) -> None:
    raise OSError(16, "Device or resource busy")


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "deploy").write_text("")
    with pytest.raises(UserError, match="is a file"):
        write_bundle(tmp_path / "deploy", {MANIFEST: "{}"})


def _rewrite(folder: Path, times: int) -> None:
    for number in range(times):
        text = str(number) * 1000
        write_bundle(folder, {MANIFEST: text, "a.json": text})


def test_a_reader_never_sees_a_mixture(tmp_path: Path) -> None:
    folder = tmp_path / "deploy"
    write_bundle(folder, {MANIFEST: "x", "a.json": "x"})
    writer = multiprocessing.get_context("spawn").Process(target=_rewrite, args=(folder, 100))
    writer.start()
    seen = set()
    while writer.is_alive():
        handle = os.open(folder, os.O_RDONLY)  # one bundle, whatever its name becomes meanwhile
        try:
            texts = [_read_at(handle, name) for name in (MANIFEST, "a.json")]
        except FileNotFoundError:
            continue  # deleted after it was replaced
        finally:
            os.close(handle)
        assert texts[0] == texts[1]
        seen.add(texts[0])
    writer.join()
    assert writer.exitcode == 0
    assert len(seen) > 1


def _read_at(folder: int, name: str) -> str:
    with open(os.open(name, os.O_RDONLY, dir_fd=folder)) as handle:
        return handle.read()


plain = st.text("abcXYZ019_./:,+@%=-", max_size=30)
names = st.from_regex(r"[A-Z_][A-Z0-9_]{0,20}", fullmatch=True)


@given(st.dictionaries(names, plain, max_size=5))
def test_docker_and_the_shell_read_the_same_values(variables: dict[str, str]) -> None:
    lines = env_text(variables, "comment").splitlines()
    docker = dict(line.split("=", 1) for line in lines if not line.startswith("#"))
    assert docker == variables
    assert [line.split("=")[0] for line in lines if not line.startswith("#")] == sorted(variables)


def test_a_real_shell_reads_them(tmp_path: Path) -> None:
    import subprocess

    path = tmp_path / "autotune.env"
    path.write_text(env_text({"AUTOTUNE_X": "/a/b-c_d:e,f=g%h@i+j"}, "comment"))
    shell = ["sh", "-c", f'set -a; . {path}; printf %s "$AUTOTUNE_X"']
    assert subprocess.run(shell, capture_output=True, text=True, check=True).stdout == "/a/b-c_d:e,f=g%h@i+j"


@pytest.mark.parametrize("value", ["a b", "$HOME", "a'b", 'a"b', "a;b", "a\nb", "~", "*", "a#b", "`x`"])
def test_a_value_that_they_read_differently_is_refused(value: str) -> None:
    with pytest.raises(UserError, match="--bundle-path"):
        env_text({"X": value}, "comment")
