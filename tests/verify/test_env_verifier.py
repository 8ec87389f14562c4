"""Which expressions read an environment variable, which files count, and what is told of a bundle's."""

import zipfile
from pathlib import Path

import pytest

from autotune.backends.aiter import verify
from autotune.backends.aiter.verify import EnvVerifier, Read, reads_of, verify_env
from autotune.engines.source import EngineSource
from autotune.errors import UserError
from autotune.protocol.bundle import Bundle
from autotune.protocol.lookup import Check, Serving, Verification


def lines(root: Path, code: str, name: str = "NAME", file: str = "m.py") -> list[int]:
    """Lines of a file that read a variable."""
    path = root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(code)
    return [read.line for read in reads_of(EngineSource("", root), [name])[name]]


@pytest.mark.parametrize(
    "code",
    [
        'os.environ.get("NAME")',
        'os.environ.get("NAME", "0")',
        'environ.get("NAME")',
        'os.environ.pop("NAME")',
        'os.environ.setdefault("NAME", "0")',
        'os.environ.getenv("NAME")',
        'os.getenv("NAME")',
        'mine.getenv("NAME")',
        'getenv("NAME")',
        'os.environ["NAME"]',
        'environ["NAME"]',
        '"NAME" in os.environ',
        '"NAME" not in environ',
        'os.environ.get(f"NAME")',
        'os.environ.get(f"N{x}")',
        'os.environ.get(f"{x}ME")',
    ],
)
def test_an_expression_that_reads_it(code: str, tmp_path: Path) -> None:
    assert lines(tmp_path, f"import os\nx = {code}  # environ\n") == [2]


@pytest.mark.parametrize(
    "code",
    [
        'os.environ["NAME"] = "1"',
        'del os.environ["NAME"]',
        'os.environ.update(NAME="1")',
        'os.environ.copy("NAME")',
        'options.get("NAME")',
        'options["NAME"]',
        '"NAME" in options',
        'os.environ.get("NAMES")',
        'os.environ.get("MY_NAME")',
        'os.environ.get(f"NAME{x}")',
        'os.environ.get(f"{x}")',  # could be any
        'os.environ.get(f"{x}{y}")',
        'os.environ.get(f"N.M{x}")',  # a dot is a dot
        "os.environ.get()",
        "os.environ.get(NAME)",
        "os.environ.get(1)",
        'print("NAME", os.environ)',
        'get("NAME")',
    ],
)
def test_an_expression_that_does_not(code: str, tmp_path: Path) -> None:
    assert lines(tmp_path, f"import os\n{code}  # environ\n") == []


def test_a_function_that_hands_its_first_parameter_on_reads_what_its_callers_name(tmp_path: Path) -> None:
    code = """
import os

def flag(name, default=""):
    return os.environ.get(name, default)

class Options:
    def number(self, name):
        return int(os.getenv(name))

    @classmethod
    def word(cls, name):
        return os.environ[name]

    def other(self, ignored, name):
        return os.environ[name]

def nothing():
    return os.environ["OTHER"]

def named(name):
    return name

flag("NAME")
Options().number("NAME")
Options.word("NAME")
Options().other("NAME", "x")
named("NAME")
nothing("NAME")
mine.flag("NAME")
flag(key="NAME")
"""
    assert lines(tmp_path, code) == [24, 25, 26, 30]


def test_options_below_a_prefix_are_variables(tmp_path: Path) -> None:
    code = """
class Options:
    env_prefix = "NA"

class Tiles(Options):
    env_prefix: str = "ME"
    width: int = Option(1)
    height = Option(2)
    plain = 3
    first, second = Option(4)
    bare: int

class Same(Tiles):
    depth = Option(5)

class Other(Unknown):
    width = Option(6)

class Dotted(module.Tiles):
    env_prefix = "DOT"
    width = Option(7)
"""
    declared = {
        "NA_ME_WIDTH": [7],
        "NA_ME_HEIGHT": [8],
        "NA_ME_DEPTH": [14],
        "DOT_WIDTH": [21],
        **{f"NA_ME_{name}": [] for name in ("PLAIN", "FIRST", "BARE", "ENV_PREFIX")},
        "WIDTH": [],
    }
    (tmp_path / "m.py").write_text(f"{code}# environ\n")
    reads = reads_of(EngineSource("", tmp_path), declared)
    assert {name: [read.line for read in reads[name]] for name in declared} == declared


@pytest.mark.parametrize(
    ("file", "counts"),
    [
        *[(f"csrc/m{suffix}", True) for suffix in (".h", ".hpp", ".cuh", ".c", ".cc", ".cpp", ".cu")],
        *[("m.txt", False), ("m.py.orig", False), ("latest.cu", True), ("contest/m.cu", True)],
        *[(f"{folder}/m.cu", False) for folder in ("test", "tests", "op_tests", "benchmark", "a/benchmarks")],
        *[("test_m.cu", False), ("a/test_m.cu", False), ("a/my_test_m.cu", True)],
    ],
)
def test_sources_count_and_tests_do_not(file: str, counts: bool, tmp_path: Path) -> None:
    assert lines(tmp_path, 'a\nb = getenv ( "NAME" );\n', file=file) == ([2] if counts else [])
    wheel = tmp_path / "w.whl"
    with zipfile.ZipFile(wheel, "w") as made:
        made.writestr(f"aiter/{file}", '\n\nstd::getenv("NAME")')
    reads = reads_of(EngineSource("aiter", wheel), ["NAME"])["NAME"]
    assert reads == ([Read(f"aiter/{file}", 3)] if counts else [])


def test_native_code_reads_by_getenv_alone(tmp_path: Path) -> None:
    code = 'my_getenv("NAME"); setenv("NAME"); getenv(NAME); getenv("NAMES");\nsecure(getenv("NAME"));'
    assert lines(tmp_path, code, file="m.cpp") == [2]


def test_reads_are_told_by_file_in_order_and_a_broken_file_is_none(tmp_path: Path) -> None:
    for name in ("b.py", "a.py", "sub/c.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('import os\nos.getenv("A")\nos.getenv("A")\nos.getenv("B")\n')
    (tmp_path / "broken.py").write_text('os.getenv("A")(')
    (tmp_path / "latin.py").write_bytes(b'# caf\xe9\nimport os\nos.getenv("B")\n')
    (tmp_path / "gone.py").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder.py").mkdir()
    reads = reads_of(EngineSource("", tmp_path), ["A", "B", "C"])
    assert reads == {
        "A": [Read(file, line) for file in ("a.py", "b.py", "sub/c.py") for line in (2, 3)],
        "B": [Read("a.py", 4), Read("b.py", 4), Read("latin.py", 3), Read("sub/c.py", 4)],
        "C": [],
    }


def test_a_file_that_names_none_of_them_may_still_read_one_by_a_pattern(tmp_path: Path) -> None:
    assert lines(tmp_path, 'import os\nos.environ.get(f"NA{x}")\n') == [2]


# What is told.


def tree(root: Path, **files: str) -> EngineSource:
    root.mkdir()
    for name, code in files.items():
        (root / f"{name}.py").write_text(code)
    return EngineSource("", root)


def test_each_variable_is_told_with_its_first_reader_and_how_many_more_there_are(tmp_path: Path) -> None:
    one = tree(tmp_path / "one", a='import os\nos.getenv("ONE")\nos.getenv("TWO")\n')
    two = tree(tmp_path / "two", b='import os\n\nos.getenv("TWO")\nos.getenv("TWO")\n')
    variables = {"TWO": "2", "ONE": "1", "NONE": "x", "OURS": "/opt/b"}
    told = verify_env(variables, iter([one, two]), own=iter(["OURS"]))
    assert told == Verification(
        f"environment reads in {one.root}, {two.root}",
        (
            Check("NONE=x", "read nowhere", False, "a read"),
            Check("ONE=1", f"read at {one.root}/a.py:2", True, ""),
            Check("TWO=2", f"read at {one.root}/a.py:3 and 2 more", True, ""),
        ),
        (
            f"NONE: nothing in {one.root} or {two.root} reads it, so it does nothing: this generation lacks"
            " it",
        ),
    )


def bundle(**variables: str) -> Bundle:
    return Bundle(Path("/nowhere"), {}, variables)


def test_the_operators_own_variable_is_not_looked_for(tmp_path: Path) -> None:
    source = tree(tmp_path / "aiter", a='import os\nos.getenv("ONE")\n')
    told = EnvVerifier().verify(bundle(ONE="1", AUTOTUNE_MOE_CONFIG="/opt/b"), Serving([source.root]))
    assert [check.subject for check in told.checks] == ["ONE=1"]
    assert told.ok


def test_any_number_of_sources_may_be_given_folders_and_wheels(tmp_path: Path) -> None:
    assert EnvVerifier.sources >= 1000
    folder = tree(tmp_path / "kernels", a='import os\nos.getenv("ONE")\n')  # no package of AITER's is in it
    for package in ("aiter", "flydsl"):
        wheel = tmp_path / f"{package}-1.0.whl"
        with zipfile.ZipFile(wheel, "w") as made:
            made.writestr(f"{package}/m.py", f'import os\nos.getenv("{package.upper()}")\n')
    sources = [folder.root, tmp_path / "aiter-1.0.whl", tmp_path / "flydsl-1.0.whl"]
    told = EnvVerifier().verify(bundle(ONE="1", AITER="2", FLYDSL="3"), Serving(sources))
    assert told.ok, told.reasons
    found = {check.subject: check.found for check in told.checks}
    assert found["FLYDSL=3"] == f"read at {sources[2]}/flydsl/m.py:2"


def test_what_is_installed_or_named_is_searched_where_nothing_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    for package in ("aiter", "flydsl", "numpy"):
        (site / package).mkdir(parents=True)
        (site / package / "m.py").write_text(f'import os\nos.getenv("{package.upper()}")\n')
    for variable in ("AUTOTUNE_AITER_SRC", "AUTOTUNE_FLYDSL_SRC"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(verify, "find_source", lambda engine: EngineSource(engine, site))
    told = EnvVerifier().verify(bundle(AITER="1", FLYDSL="1", NUMPY="1"), Serving())
    # An installed package lies beside all others: only its own folder is searched.
    assert [(check.subject, check.ok) for check in told.checks] == [
        ("AITER=1", True),
        ("FLYDSL=1", True),
        ("NUMPY=1", False),
    ]
    assert told.engine == f"environment reads in {site}/aiter, {site}/flydsl"
    monkeypatch.setenv("AUTOTUNE_FLYDSL_SRC", str(site))
    told = EnvVerifier().verify(bundle(NUMPY="1"), Serving())
    assert told.engine == f"environment reads in {site}/aiter, {site}"
    assert told.ok


def test_where_there_is_neither_it_is_said_how_to_give_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("AUTOTUNE_AITER_SRC", "AUTOTUNE_FLYDSL_SRC"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(verify, "find_source", lambda engine: None)
    with pytest.raises(UserError) as told:
        EnvVerifier().verify(bundle(ONE="1"), Serving())
    assert str(told.value) == (
        "neither AITER nor FlyDSL is installed here: give their source trees with --engine-source"
    )
