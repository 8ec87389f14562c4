"""The vLLM plugin: it answers for the layers of its bundle, and for nothing else.

vLLM's facade and humming are stood in for; `test_export` runs the real ones.
"""

import hashlib
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from autotune.backends.humming import plugin
from tests.damaged import damaged

END = 1 << 30
OWN = [[0, END, {"block_shape": [64, 64, 64]}]]
LAYER = {"shape_n": 512, "shape_k": 7168, "num_experts": 384, "a_dtype": "bfloat16", "b_dtype": "uint4"}
DOWN = {**LAYER, "shape_n": 7168, "shape_k": 256}
RANGES = {
    "w13": [[0, 8, {"block_shape": [8, 1, 13]}], [8, END, {"block_shape": [64, 64, 64]}]],
    "w2": [[0, 8, {"block_shape": [8, 1, 2]}], [8, END, {"block_shape": [64, 64, 64]}]],
}
ASKED = {"use_f16_accum": False, "use_batch_invariant": False, "gemm_type": SimpleNamespace(value="indexed")}


class LayerConfig:
    def __init__(self, **facts: Any) -> None:
        self.facts = facts

    def to_str(self) -> str:
        return json.dumps(self.facts)


def get_heuristics_config(
    layer_config: Any,
    shape_m: int | None = None,
    use_f16_accum: bool = False,
    use_batch_invariant: bool = False,
    use_m_major_input_scale: bool = False,
    gemm_type: Any = "dense",
    device: Any = None,
) -> Any:
    return OWN if shape_m is None else OWN[0][2]


def file(**changes: Any) -> dict[str, Any]:
    return {
        "format": "autotune-humming",
        "version": 1,
        "humming": "0.1.19",
        "gpu": "NVIDIA H100 80GB HBM3",
        "compute": {"use_batch_invariant": False, "use_f16_accum": False, "gemm_type": "indexed"},
        "tuned": [[0, 8]],
        "layers": [
            {"sublayer": name, "layer": layer, "ranges": RANGES[name]}
            for name, layer in (("w13", LAYER), ("w2", DOWN))
        ],
        **changes,
    }


@pytest.fixture
def facade(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """`vllm.utils.humming` before anybody asked it, and what it leads to."""

    def module(name: str, **values: Any) -> ModuleType:
        made = ModuleType(name)
        made.__dict__.update(values)
        monkeypatch.setitem(sys.modules, name, made)
        return made

    module("humming", __version__="0.1.19")
    module("humming.tune", get_heuristics_config=get_heuristics_config)
    module("humming.config", LayerConfig=LayerConfig)
    module("humming.device", current_device=SimpleNamespace(name="NVIDIA H100 80GB HBM3"))
    module("vllm")
    module("vllm.utils")
    return module(
        "vllm.utils.humming", _EXPORTS={"get_heuristics_config": "humming.tune:get_heuristics_config"}
    )


Loaded = Callable[..., Callable[..., Any]]


@pytest.fixture
def loaded(facade: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Loaded:
    """Loads the plugin as vLLM does with a file; what a layer then calls."""

    def load(content: object) -> Callable[..., Any]:
        path = tmp_path / "humming.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        monkeypatch.setenv(plugin.VARIABLE, str(path))
        plugin.register()
        function = facade.__dict__.get("get_heuristics_config", get_heuristics_config)
        assert callable(function)
        return function

    return load


def test_it_answers_for_both_layers_of_its_bundle_and_says_so_once(
    loaded: Loaded, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    ask = loaded(file())
    for _ in range(3):  # every layer of a model asks
        assert ask(layer_config=LayerConfig(**LAYER), **ASKED) == RANGES["w13"]
        assert ask(layer_config=LayerConfig(**DOWN), **ASKED) == RANGES["w2"]
    assert ask(LAYER, None, False, False, False, "indexed") == RANGES["w13"]  # humming takes dicts, too
    said = [record.getMessage() for record in caplog.records]
    assert sum("w13 (N=512 K=7168, 384 experts) takes 2 ranges" in line for line in said) == 1
    assert sum("w2 (N=7168 K=256, 384 experts) takes 2 ranges" in line for line in said) == 1
    assert any("tuned: (0, 8]" in line for line in said)


def test_what_a_layer_does_to_its_answer_reaches_no_other_layer(loaded: Loaded) -> None:
    ask = loaded(file())
    ask(layer_config=LayerConfig(**LAYER), **ASKED)[0][2]["block_shape"][0] = 999
    assert ask(layer_config=LayerConfig(**LAYER), **ASKED) == RANGES["w13"]


@pytest.mark.parametrize(
    ("layer", "asked"),
    [
        ({**LAYER, "num_experts": 48}, ASKED),  # expert parallelism: a rank's share
        ({**LAYER, "shape_k": 4096}, ASKED),
        ({**LAYER, "a_dtype": "int8"}, ASKED),
        ({**LAYER, "has_bias": True}, ASKED),
        (LAYER, {**ASKED, "use_f16_accum": True}),
        (LAYER, {**ASKED, "use_batch_invariant": True}),
        (LAYER, {**ASKED, "gemm_type": "grouped_contiguous"}),
        (LAYER, {**ASKED, "use_m_major_input_scale": True}),
    ],
)
def test_another_layer_gets_humming_s_own(
    loaded: Loaded, layer: dict[str, Any], asked: dict[str, Any]
) -> None:
    assert loaded(file())(layer_config=LayerConfig(**layer), **asked) == OWN


def test_a_call_for_one_number_of_rows_gets_humming_s_own(loaded: Loaded) -> None:
    ask = loaded(file())
    assert ask(layer_config=LayerConfig(**LAYER), shape_m=4, **ASKED) == OWN[0][2]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"humming": "0.1.18"}, "tuned with humming-kernels 0.1.18, and 0.1.19 is installed"),
        ({"gpu": "NVIDIA H200"}, "tuned on NVIDIA H200, and this is NVIDIA H100 80GB HBM3"),
    ],
)
def test_a_bundle_of_another_version_or_gpu_passes_through_with_a_warning(
    loaded: Loaded, caplog: pytest.LogCaptureFixture, changes: dict[str, Any], reason: str
) -> None:
    ask = loaded(file(**changes))
    for _ in range(2):
        assert ask(layer_config=LayerConfig(**LAYER), **ASKED) == OWN
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert reason in warnings[0]


def gap() -> dict[str, Any]:
    layers = [{"sublayer": "w13", "layer": LAYER, "ranges": [[0, 8, {}], [16, END, {}]]}]
    return file(layers=layers)


def short() -> dict[str, Any]:
    return file(layers=[{"sublayer": "w13", "layer": LAYER, "ranges": [[0, 8, {}]]}])


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{", {}, file(version=2), file(format="autotune-moe-w4a8"), gap(), short(), file(layers=3)],
)
def test_a_file_that_cannot_be_used_changes_nothing_and_is_told(
    facade: ModuleType, loaded: Loaded, caplog: pytest.LogCaptureFixture, content: object
) -> None:
    loaded(content)
    assert "get_heuristics_config" not in facade.__dict__
    assert "cannot be used" in caplog.text


def test_a_file_that_is_damaged_anywhere_never_ends_the_start(facade: ModuleType, loaded: Loaded) -> None:
    for junk in (None, 0.5, "x", [], {}):
        for content in damaged(file(), junk):
            facade.__dict__.pop("get_heuristics_config", None)
            ask = loaded(content)
            for layer in (LAYER, DOWN):
                answer = ask(layer_config=LayerConfig(**layer), **ASKED)
                # Whatever it is, no row is left out.
                assert answer[0][0] == 0
                assert answer[-1][1] == END


def test_one_that_its_manifest_lists_is_used(loaded: Loaded, tmp_path: Path) -> None:
    listed = {"humming.json": {"sha256": hashlib.sha256(json.dumps(file()).encode()).hexdigest()}}
    (tmp_path / "manifest.json").write_text(json.dumps({"files": listed}))
    assert loaded(file())(layer_config=LayerConfig(**LAYER), **ASKED) == RANGES["w13"]


@pytest.mark.parametrize(
    ("manifest", "reason"),
    [
        (
            '{"files": {"humming.json": {"sha256": "0"}}}',
            "is not the file that manifest.json beside it lists",
        ),
        ('{"files": {}}', "is not the file that manifest.json beside it lists"),
        ('{"files": {"humming.json": []}}', "is not a bundle's (files.humming.json is [])"),
        ("null", "is not a bundle's (it is null)"),
        ("\xff\0", "cannot be read"),
        ("[" * 100_000, "cannot be read"),
    ],
)
def test_one_that_its_manifest_does_not_list_changes_nothing(
    loaded: Loaded, tmp_path: Path, caplog: pytest.LogCaptureFixture, manifest: str, reason: str
) -> None:
    (tmp_path / "manifest.json").write_text(manifest, encoding="latin-1")
    assert loaded(file())(layer_config=LayerConfig(**LAYER), **ASKED) == OWN
    assert reason in caplog.text


def test_without_the_variable_nothing_is_looked_at(
    facade: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(plugin.VARIABLE, raising=False)
    before = dict(facade.__dict__)
    plugin.register()
    assert facade.__dict__ == before


def test_it_may_be_loaded_twice(facade: ModuleType, loaded: Loaded) -> None:
    first = loaded(file())
    plugin.register()
    assert facade.__dict__["get_heuristics_config"] is first


@pytest.mark.parametrize("broken", ["no function", "no facade"])
def test_another_vllm_is_told_and_served_as_it_is(
    facade: ModuleType,
    loaded: Loaded,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    broken: str,
) -> None:
    if broken == "no function":
        facade.__dict__["_EXPORTS"].clear()
    else:
        monkeypatch.setitem(sys.modules, "vllm.utils.humming", None)  # type: ignore[arg-type]
    loaded(file())
    assert "get_heuristics_config" not in facade.__dict__
    assert "serve with vLLM 0.33" in caplog.text


def test_a_heuristic_that_is_asked_in_another_way_is_passed_through(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys.modules["humming.tune"], "get_heuristics_config", lambda layer, **_: OWN)
    assert loaded(file())(LayerConfig(**LAYER)) == OWN
    assert "humming asks in another way" in caplog.text


def test_vllm_finds_it_under_its_group() -> None:
    from importlib.metadata import entry_points

    points = {point.name: point.value for point in entry_points(group="vllm.general_plugins")}
    if "autotune" not in points:
        pytest.skip("installed before this entry point was there: pip install -e .")
    assert points["autotune"] == "autotune.serving.vllm:register"  # which calls the humming plugin's
