"""What stored results are known by changes with the meaning of sources and spaces, and with nothing else."""

import ast
import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune import __version__
from autotune.backends.triton.backend import TritonW4A8
from autotune.export.manifest import manifest_json
from autotune.identity import source_digest
from autotune.machine.fingerprint import Fingerprint
from autotune.problem.layer import Stage
from autotune.resources import data_dir
from autotune.space.digest import space_digest
from autotune.space.read import parse_space, shipped_spaces
from autotune.store.store import Store
from tests.export.winners import winner
from tests.store.examples import M4, MI325X, begin, trial

KERNEL = '''"""Multiplies."""

import triton.language as tl
from autotune.kernels.tiles import load, store

ROWS = 16
"""Of a tile."""


@triton.jit
def kernel(out, a, K: tl.constexpr):
    """One tile."""
    for k in range(0, K, ROWS):  # steps of K
        a += load(k, f"{k:>{K}}", none=None)
    store(out, a)
'''
SAME = {
    "a comment": ("# steps of K", "# by whole tiles"),
    "no comment": ("  # steps of K", ""),
    "a docstring": ('"""One tile."""', '"""A tile\n\n    of rows."""'),
    "no docstring": ('    """One tile."""\n', ""),
    "the module's docstring": ('"""Multiplies."""', '"""Divides."""'),
    "a constant's doc": ('"""Of a tile."""\n', ""),
    "blanks": ("range(0, K, ROWS)", "range( 0,K,\n        ROWS )"),
    "brackets": ("a += load(", "a += (load)("),
    "quotes": ('f"{k:>{K}}"', "f'{k:>{K}}'"),
    "a moved module": ("autotune.kernels.tiles", "autotune.backends.triton.tiles"),
    "a near module": ("from autotune.kernels.tiles", "from .tiles"),
    "two imports": (
        "from autotune.kernels.tiles import load, store",
        "from autotune.stores import store\nfrom autotune.loads import load",
    ),
}
OTHER = {
    "a value": ("ROWS = 16", "ROWS = 32"),
    "an operator": ("a += load", "a -= load"),
    "a name": ("store(out, a)", "store(a, a)"),
    "None or empty": ("none=None", "none=[]"),
    "None or its text": ("none=None", "none='None'"),
    "an annotation": ("K: tl.constexpr", "K"),
    "what is imported": ("import load, store", "import load, store as load2"),
    "somebody else's module": ("import triton.language as tl", "import triton.language.extra as tl"),
    "an order": ("range(0, K, ROWS)", "range(K, 0, ROWS)"),
    "a format": (":>{K}", ":<{K}"),
    "a step less": ("    store(out, a)\n", ""),
}


def digest_of(source: str, folder: Path, name: str = "stage1.py") -> str:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(source)
    return source_digest([folder / name])


@pytest.mark.parametrize(("was", "becomes"), SAME.values(), ids=SAME)
def test_how_a_kernel_is_written_is_not_part_of_it(was: str, becomes: str, tmp_path: Path) -> None:
    changed = KERNEL.replace(was, becomes)
    assert changed != KERNEL
    assert digest_of(changed, tmp_path / "elsewhere") == digest_of(KERNEL, tmp_path)


@pytest.mark.parametrize(("was", "becomes"), OTHER.values(), ids=OTHER)
def test_what_a_kernel_does_is(was: str, becomes: str, tmp_path: Path) -> None:
    changed = KERNEL.replace(was, becomes)
    assert changed != KERNEL
    assert digest_of(changed, tmp_path) != digest_of(KERNEL, tmp_path)


def test_files_count_by_their_names_in_any_order(tmp_path: Path) -> None:
    one, two = tmp_path / "one.py", tmp_path / "two.py"
    one.write_text("a = 1")
    two.write_text("b = 2")
    both = source_digest([one, two])
    assert source_digest([two, one]) == both
    one.write_text("b = 2")
    two.write_text("a = 1")
    assert source_digest([one, two]) != both


def test_every_python_says_the_same(tmp_path: Path) -> None:
    assert digest_of(KERNEL, tmp_path) == "378e8e4d912cad93bb033fc6c5398f4226f70c9edf43fff5d9f2e6cdec48d058"


def test_what_other_pythons_put_into_a_tree_is_not_part_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = digest_of(KERNEL, tmp_path)
    parse = ast.parse

    def as_another(*arguments: Any, **options: Any) -> ast.AST:
        tree = parse(*arguments, **options)
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                node.values.append(ast.Constant(""))
        return tree

    monkeypatch.setattr(ast, "parse", as_another)
    monkeypatch.setattr(ast.FunctionDef, "_fields", (*ast.FunctionDef._fields, "type_params", "to_come"))
    monkeypatch.setattr(ast.FunctionDef, "type_params", [], raising=False)
    monkeypatch.setattr(ast.FunctionDef, "to_come", None, raising=False)
    assert digest_of(KERNEL, tmp_path) == digest


def test_the_kernels_are_those_of_the_first_release() -> None:
    """Dies with every change of the kernels' modules that is more than words.

    Where what is compiled and launched is the same, as after a renaming, add a line to db/identity.json with
    the new digest and the old `stored_as`: what was measured stays. Where it is not, put the new name here.
    """
    name = TritonW4A8().source_digest()
    assert name == "7314d30631b189ccf427e76d731dd691bf0f504f2f3ed3dbb26ef21b264e1706"


SPACE = """
backend = "triton"
generation = "main"
stage = "stage1"
doc = "a GEMM"

[params]
tile_m = { values = [16, 32], default = 16, doc = "rows" }
tile_k = { values = [64, 128], default = 128, doc = "depth" }
pdl = { values = ["unset", 1], default = "unset", doc = "early", arch = ["sm_9"], option = "launch_pdl" }

[[rules]]
name = "divides"
require = "k % tile_k == 0"
reason = "no remainder"

[[rules]]
name = "small"
require = "tile_m * tile_k <= 4096"
reason = "LDS"

[[defaults]]
when = "tokens > 16"
set = { tile_m = 32 }

[[defaults]]
when = "tokens > 8"
set = { tile_k = 64 }

[[features]]
name = "tile"
size = "tile_m * tile_k"
doc = "bytes"
"""
SAME_SPACE = {
    "a comment": ("[params]", "# knobs\n[params]"),
    "docs": ('doc = "rows"', 'doc = "rows of a block"'),
    "the space's doc": ('doc = "a GEMM"', 'doc = "another"'),
    "a reason": ('reason = "LDS"', 'reason = "it must fit"'),
    "a rule's name": ('name = "small"', 'name = "fits"'),
    "an expression's blanks": ('"k % tile_k == 0"', '"(k%tile_k) == 0"'),
    "values in another order": ("values = [16, 32]", "values = [32, 16]"),
    "a table's form": (
        'tile_m = { values = [16, 32], default = 16, doc = "rows" }',
        'tile_m.doc = "rows"\ntile_m.values = [16, 32]\ntile_m.default = 16',
    ),
}
OTHER_SPACE = {
    "a value": ("values = [16, 32]", "values = [16, 32, 64]"),
    "a value's type": ('values = ["unset", 1]', 'values = ["unset", true]'),
    "a default": ("default = 128", "default = 64"),
    "a name": ("tile_k = { values", "tile_n = { values = [1], default = 1, doc = '' }\ntile_k = { values"),
    "an architecture": ('arch = ["sm_9"]', 'arch = ["sm_10"]'),
    "an option": ('option = "launch_pdl"', 'option = "pdl"'),
    "reach": ('doc = "rows" }', 'doc = "rows", coupled = true }'),
    "a rule's operator": ("k % tile_k == 0", "k % tile_k != 0"),
    "a rule's bound": ("<= 4096", "<= 8192"),
    "a rule less": ('[[rules]]\nname = "small"\nrequire = "tile_m * tile_k <= 4096"\nreason = "LDS"\n', ""),
    "a condition": ("tokens > 8", "tokens > 4"),
    "a conditional default": ("set = { tile_k = 64 }", "set = { tile_k = 128 }"),
    "a feature": ('size = "tile_m * tile_k"', 'size = "tile_m + tile_k"'),
    "the stage": ('stage = "stage1"', 'stage = "stage2"'),
}


@pytest.mark.parametrize(("was", "becomes"), SAME_SPACE.values(), ids=SAME_SPACE)
def test_the_words_of_a_space_are_not_part_of_it(was: str, becomes: str) -> None:
    changed = SPACE.replace(was, becomes)
    assert changed != SPACE
    assert parse_space(changed).digest == parse_space(SPACE).digest


@pytest.mark.parametrize(("was", "becomes"), OTHER_SPACE.values(), ids=OTHER_SPACE)
def test_what_decides_its_configs_is(was: str, becomes: str) -> None:
    changed = SPACE.replace(was, becomes)
    assert changed != SPACE
    assert parse_space(changed).digest != parse_space(SPACE).digest


@given(st.data())
def test_only_of_conditional_defaults_the_order_decides(data: st.DataObject) -> None:
    space = parse_space(SPACE)
    shuffled = {
        name: tuple(data.draw(st.permutations(getattr(space, name))))
        for name in ("params", "rules", "features", "overrides")
    }
    same = shuffled["overrides"] == space.overrides
    assert (replace(space, **shuffled).digest == space.digest) is same


FOLDERS = sorted({path.parent for path in data_dir("search_spaces").rglob("*.toml")})


@pytest.mark.parametrize("folder", FOLDERS, ids=str)
def test_a_shipped_space_keeps_the_name_of_its_first_text(folder: Path) -> None:
    """Where the file's meaning changes on purpose, rename its line `an earlier …`, and add none.

    One file for both stages goes by the names of the two that it was made of.
    """
    backend = folder.relative_to(data_dir("search_spaces")).as_posix()
    known = {entry["of"]: entry["stored_as"] for entry in names()}
    spaces = shipped_spaces(backend)
    assert set(spaces) == set(Stage)
    for stage, space in spaces.items():
        # Without a line it goes by its own digest: nothing was stored under an older name.
        assert space.digest == known.get(f"search_spaces/{backend}/{stage}.toml", space_digest(space))


def names() -> list[dict[str, str]]:
    table = json.loads((data_dir("db") / "identity.json").read_text())
    content: list[dict[str, str]] = table["names"]
    return content


def test_no_digest_has_two_names_and_no_two_spaces_share_one() -> None:
    assert len({entry["digest"] for entry in names()}) == len(names())
    owner = {entry["stored_as"]: entry["of"].removeprefix("an earlier ") for entry in names()}
    assert all(owner[entry["stored_as"]] == entry["of"].removeprefix("an earlier ") for entry in names())


def test_a_stack_is_the_same_in_every_version_of_the_tool() -> None:
    later = replace(MI325X, tool_version="0.2.0")
    assert (later, later.key) == (MI325X, MI325X.key)
    assert MI325X.differences(later) == []


@pytest.mark.parametrize("name", [f.name for f in fields(Fingerprint) if f.name != "tool_version"])
def test_and_another_in_all_else(name: str) -> None:
    other = replace(MI325X, **{name: None})
    assert other.key != MI325X.key
    assert MI325X.differences(other) == [f"{name}: {getattr(MI325X, name)} -> None"]


def test_a_key_is_the_first_releases() -> None:
    as_then = json.dumps(asdict(MI325X) | {"tool_version": "0.1.0"}, sort_keys=True)
    assert replace(MI325X, tool_version="7").key == hashlib.sha256(as_then.encode()).hexdigest()


def test_each_result_tells_the_version_that_measured_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = begin(store)
    store.record_trial(first, trial())
    monkeypatch.setattr("autotune.store.runs.__version__", "0.2.0")
    second = begin(store)
    store.record_trial(second, trial())
    told = [store.trials_of(run)[0].environment for run in (first, second)]
    assert [stack.tool_version for stack in told] == [__version__, "0.2.0"]
    assert told[0] == told[1]
    known = store.trials(
        problem=M4, stage=Stage.STAGE1, backend="triton", environment_key=MI325X.key, workload="cold"
    )
    assert [trial.run for trial in known] == [first, second]


def test_a_bundle_tells_every_version_that_measured() -> None:
    manifest = json.loads(
        manifest_json([winner(1, tool_version="0.1.0"), winner(2, tool_version="0.2.0")], {})
    )
    (stack,) = manifest["environments"].values()
    assert stack["tool_version"] == "0.1.0, 0.2.0"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "autotune.db") as opened:
        yield opened
