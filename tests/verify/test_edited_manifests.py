"""A manifest that somebody edited: verify answers, or refuses it in a sentence, whatever stands in it."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.backends.aiter_main import verify as aiter_verify
from autotune.backends.aiter_main.csv import FmoeKey, FmoeRow
from autotune.backends.aiter_main.export import aiter_content
from autotune.backends.humming import verify as humming_verify
from autotune.backends.humming.export import FILE_NAME
from autotune.backends.triton.export import operator_content
from autotune.engines import verify as engine_verify
from autotune.errors import UserError
from autotune.kernels.config import Stage1Config, Stage2Config
from autotune.protocol.bundle import MANIFEST, Bundle
from autotune.protocol.exporter import Content, Place
from autotune.protocol.form import ANY, COUNT, SCALAR, TOKENS, misfit
from autotune.results import LayerConfig
from autotune.space.config import Config
from autotune.verify.verify import verify_bundle
from tests.export.winners import winner
from tests.verify.conftest import content, write_as_bundle

PLACE = Place("/opt/b")
JUNK = st.recursive(
    st.sampled_from((None, True, -1, 0, 1.5, 10**30, float("nan"), "", "x", "1\n", "\0", "\ud800")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(("x", "1", "")), inner),
    max_leaves=3,
)


def of_engine(backend: str) -> tuple[str, Content]:
    return backend, content(backend, PLACE)


def of_operator() -> tuple[str, Content]:
    one, two = vars(Stage1Config(16, 64, 512, 4, 3)), vars(Stage2Config(16, 64, 256, 4, 2))
    config = LayerConfig(Config(one), Config(two))
    won = [replace(winner(4, backend="triton"), config=config)]
    return "triton", operator_content(won, PLACE)


def of_aiter() -> tuple[str, Content]:
    names = ("torch.uint32", "torch.int4")
    key = FmoeKey("gfx942", 304, 7168, 256, 384, 8, "torch.float8_e4m3fnuz", names)
    return "aiter_main", aiter_content(key, [FmoeRow(4, 32, "one", "two", 10.0, 5.0)], PLACE)


def of_humming() -> tuple[str, Content]:
    entry = {"mma_type": "mma", "block_shape": [8, 64, 128], "warp_shape": [8, 64, 32], "num_stages": 3}
    lookup = {
        "humming": "0.1.19",
        "gpu": "NVIDIA H100 80GB HBM3",
        "file": FILE_NAME,
        "compute": {"use_batch_invariant": False, "use_f16_accum": False, "gemm_type": "indexed"},
        "backend": "humming_w4a8",
        "top_k": 8,
        "compute_units": 132,
        "intended": {"4": {"stage1": entry, "stage2": entry}},
    }
    files = {FILE_NAME: json.dumps({"layers": [{"sublayer": "w13", "layer": {}}]})}
    variables = {"AUTOTUNE_HUMMING_CONFIG": f"/opt/b/{FILE_NAME}"}
    return "humming_w4a8", Content(files, variables, {"vllm": lookup}, ())


MAKERS: Mapping[str, Callable[[], tuple[str, Content]]] = {
    "sglang": lambda: of_engine("sglang"),
    "vllm": lambda: of_engine("vllm"),
    "humming": of_humming,
    "aiter": of_aiter,
    "triton": of_operator,
}


def answer(request: Mapping[str, Any], *_: Any, **__: Any) -> dict[str, Any]:
    """An engine that selects nothing, for which each verifier tells the reasons."""
    json.dumps(request)
    row = {"kernelName1": "", "kernelName2": "", "bucket": 4}
    by_dtype = dict.fromkeys(request.get("key", {}).get("q_dtypes_w", ()), row)
    selected = {str(m): by_dtype for m in request["tokens"]}
    return {"selected": selected, "defaults": {}, "error": None, "looked_for": [], "messages": []}


@pytest.fixture(scope="module")
def no_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Engines whose source is there and whose lookup answers at once."""
    root = tmp_path_factory.mktemp("src")
    (root / "aiter").mkdir()
    (root / "aiter/fused_moe.py").write_text("def set_moe_regime(x): ...")
    source = SimpleNamespace(root=root, unpack=lambda *_: root)
    with pytest.MonkeyPatch.context() as patch:
        for module in (engine_verify, humming_verify, aiter_verify):
            patch.setattr(module, "open_source", lambda *_: source)
            patch.setattr(module, "run_lookup", answer)
        patch.setattr(humming_verify, "library", SimpleNamespace(load=lambda: None, version=lambda: "0"))
        patch.setattr(engine_verify, "gpu_here", lambda: None)
        patch.setattr("autotune.verify.verify.gpu_here", lambda: None)
        yield


@pytest.fixture(scope="module", params=MAKERS)
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    backend, made = MAKERS[request.param]()
    folder = tmp_path_factory.mktemp(request.param) / "deploy"
    write_as_bundle(folder, made, PLACE, winner(4, backend=backend))
    (folder / MANIFEST).rename(folder.parent / "exported.json")
    return folder


def places(value: Any) -> Iterator[tuple[Any, ...]]:
    """Where in JSON a value stands, at any depth."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield (key,)
        yield from ((key, *rest) for rest in places(inner))


@pytest.mark.usefixtures("no_engine")
@settings(max_examples=40)
@given(data=st.data())
def test_whatever_was_edited_is_verified_or_refused_in_a_sentence(data: st.DataObject, bundle: Path) -> None:
    manifest = json.loads((bundle.parent / "exported.json").read_text())
    for unread in ("winners", "variables", "tool_version", "model"):
        del manifest[unread]
    place = data.draw(st.sampled_from([*places(manifest)]))
    owner = manifest
    for key in place[:-1]:
        owner = owner[key]
    value = owner.pop(place[-1])
    edit = data.draw(st.sampled_from(("replaced", "renamed", "gone")))
    if edit == "replaced":
        junk = data.draw(JUNK)
        owner.insert(place[-1], junk) if isinstance(owner, list) else owner.update({place[-1]: junk})
    elif edit == "renamed" and isinstance(owner, dict):
        owner[data.draw(st.sampled_from(("x", "", "0", "1\n", "\u0663")))] = value
    (bundle / MANIFEST).write_text(json.dumps(manifest))
    try:
        told = json.dumps([asdict(each) for each in verify_bundle(bundle, engine=None, sources=[])])
    except UserError as error:
        told = str(error)
        assert "\n" not in told
    told.encode()


@pytest.mark.usefixtures("no_engine")
def test_what_an_export_wrote_is_looked_up(bundle: Path) -> None:
    (bundle / MANIFEST).write_text((bundle.parent / "exported.json").read_text())
    (told,) = verify_bundle(bundle, engine=None, sources=[])
    assert told.checks


def test_a_manifest_nested_beyond_all_reading_is_refused(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text("[" * 100_000)
    with pytest.raises(UserError, match="is not a bundle"):
        Bundle.read(tmp_path)


@pytest.mark.parametrize(
    ("value", "form", "told"),
    [
        ({"a": 1}, {"a": COUNT, "b?": str}, None),
        ({"a": True}, {"a": COUNT}, "a is true"),
        ({"a": 0}, {"a": COUNT}, "a is 0"),
        ({"a": 1, "c": 2}, {"a": COUNT}, "c is not known"),
        ({"a": 1, "c": 2}, {"a": COUNT, **ANY}, None),
        ({}, {"a": COUNT}, "a is missing"),
        ({"16": {"n": 1}}, {TOKENS: {"n": int}}, None),
        ({"016": {"n": 1}}, {TOKENS: {"n": int}}, "016 is not known"),
        ({"16": {"n": 1.0}}, {TOKENS: {"n": int}}, "16.n is 1.0"),
        ({"a": {"b": 1}}, {"a": ({"b": str}, None)}, "a.b is 1"),
        ({"a": 1}, {"a": ({"b": str}, None)}, "a is 1"),
        ({"a\n": 1}, ANY, "a\\n is not known"),
        ([1, "x"], [int], '[1] is "x"'),
        ([1], [int, int], "it is [1]"),
        ([], [int], "it is []"),
        ("a", "b", 'it is "a"'),
        (1.5, SCALAR, None),
        ([], SCALAR, "it is []"),
    ],
)
def test_what_is_not_of_its_form_is_told_with_its_place(value: Any, form: Any, told: str | None) -> None:
    assert misfit(value, form) == told
