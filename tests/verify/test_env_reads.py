"""Which line reads a variable, on sources made by hand."""

from pathlib import Path

import pytest

from autotune.backends.aiter.verify import EnvVerifier, Read, reads_of, verify_env
from autotune.engines.source import EngineSource
from autotune.protocol.bundle import Bundle
from autotune.protocol.lookup import Serving

SOURCE = '''
"""DOCUMENTED is mentioned here, with os.environ.get("QUOTED") in a docstring."""
import os
from os import environ

# os.environ.get("COMMENTED")
os.environ["WRITTEN"] = "1"
print("PRINTED is not set")
a = os.environ.get("READ_A", "1")
b = os.getenv("READ_B")
c = environ["READ_C"]
d = "READ_D" in os.environ


def _flag(name, default):
    return os.environ.get(name, default) == "1"


e = _flag("READ_E", "0")
class Options:
    env_prefix = "TOP"


class Cache(Options):
    env_prefix = "CACHE"
    folder: str = Option(default="")


f = {n: os.environ.get(f"READ_STAGE{n}_TILE", "") for n in (1, 2)}
'''


@pytest.fixture
def tree(tmp_path: Path) -> EngineSource:
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg/m.py").write_text(SOURCE)
    (tmp_path / "pkg/n.cpp").write_text('// x\nauto v = std::getenv("READ_N");\nset("WRITTEN");\n')
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/test_m.py").write_text('import os\nos.environ.get("TESTED")\n')
    (tmp_path / "pkg/broken.py").write_text('os.environ.get("BROKEN"')
    (tmp_path / "pkg/damaged.py").write_bytes(b'os.environ.get("DAMAGED")\0')
    (tmp_path / "pkg/bytes.py").write_bytes(b'os.environ.get("\xff\xfe")')
    return EngineSource("", tmp_path)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("READ_A", 9),
        ("READ_B", 10),
        ("READ_C", 11),
        ("READ_D", 12),
        ("READ_E", 19),
        ("READ_STAGE1_TILE", 29),
        ("READ_STAGE2_TILE", 29),
        ("TOP_CACHE_FOLDER", 26),
    ],
)
def test_each_way_of_reading_is_found(tree: EngineSource, name: str, line: int) -> None:
    assert reads_of(tree, [name])[name] == [Read("pkg/m.py", line)]


def test_native_code_reads_too(tree: EngineSource) -> None:
    assert reads_of(tree, ["READ_N"])["READ_N"] == [Read("pkg/n.cpp", 2)]


@pytest.mark.parametrize(
    "name",
    ["DOCUMENTED", "QUOTED", "COMMENTED", "WRITTEN", "PRINTED", "TESTED", "BROKEN", "DAMAGED", "READ_STAGE"],
)
def test_a_mention_is_no_read(tree: EngineSource, name: str) -> None:
    assert reads_of(tree, [name])[name] == []


def test_a_variable_that_nothing_reads_fails(tree: EngineSource) -> None:
    verification = verify_env({"READ_A": "0", "WRITTEN": "1"}, [tree])
    assert not verification.ok
    assert [check.ok for check in verification.checks] == [True, False]
    assert verification.reasons[0].startswith("WRITTEN: nothing in ")


def test_variables_of_the_rest_of_the_stack_are_left_out(tree: EngineSource) -> None:
    assert verify_env({"READ_A": "0", "OURS": "1"}, [tree], own=["OURS"]).ok


def test_a_tree_that_a_variable_names_is_searched_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FlyDSL's kernels lie beside its package, not in it."""
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels/moe.py").write_text('import os\nGATE = os.environ.get("GATE")\n')
    monkeypatch.delenv("AUTOTUNE_AITER_SRC", raising=False)
    monkeypatch.setenv("AUTOTUNE_FLYDSL_SRC", str(tmp_path))
    verification = EnvVerifier().verify(Bundle(tmp_path, {}, {"GATE": "1"}), Serving())
    assert (verification.ok, verification.reasons) == (True, ())
