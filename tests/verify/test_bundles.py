"""A bundle against its engines: which verifiers are asked, what they are told, and what is added to it."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from autotune.errors import UserError
from autotune.export.manifest import manifest_json
from autotune.kernels.tuned import Gpu
from autotune.machine.targets import Kind
from autotune.problem.layer import Layer, Problem, Stage
from autotune.problem.models import Model
from autotune.problem.routing import Routing
from autotune.protocol.bundle import Bundle
from autotune.protocol.lookup import Check, Serving, Verification, Verifier
from autotune.verify import verify as verifying
from autotune.verify.verify import served_layer, verify_bundle
from tests.export.winners import KIMI, fingerprint, winner


class Here(Verifier):
    """A verifier that says that all is well, by the name of what it was made of."""

    def __init__(self, path: str, **facts: Any) -> None:
        self.path = path
        self.sources = facts.get("sources", 1)
        self.asks_triton = facts.get("asks_triton", False)
        self.judges_gpu = facts.get("judges_gpu", True)
        self.seen: list[tuple[Bundle, Serving]] = []

    def verify(self, bundle: Bundle, serving: Serving) -> Verification:
        self.seen.append((bundle, serving))
        return Verification(self.path, (Check("x", "y", True),), ("its own",))


class Registry:
    """Backends with the verifiers that they bring by engine; a name of None is broken."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.backends: dict[str, dict[str, str] | None] = {"mine": {"vllm": "mine.vllm"}}
        self.facts: dict[str, dict[str, Any]] = {}
        self.made: dict[str, Here] = {}
        monkeypatch.setattr(verifying, "backend_names", lambda: list(self.backends))
        monkeypatch.setattr(verifying, "registration", self._registration)
        monkeypatch.setattr(verifying, "instance", self._instance)
        monkeypatch.setattr(verifying, "gpu_here", lambda: None)

    def _registration(self, name: str) -> Any:
        verifiers = self.backends.get(name)
        if verifiers is None:
            raise UserError("broken")
        return SimpleNamespace(verifiers=verifiers)

    def _instance(self, name: str, path: str, kind: type) -> Here:
        assert kind is Verifier
        assert path.startswith(name)
        self.made[path] = Here(path, **self.facts.get(path, {}))
        return self.made[path]


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    return Registry(monkeypatch)


def written(folder: Path, **manifest: Any) -> Path:
    whole = {
        "format": "autotune-bundle",
        "version": 1,
        "backend": "mine",
        "lookups": {"vllm": {}},
        **manifest,
    }
    (folder / "manifest.json").write_text(json.dumps(whole))
    return folder


def verified(folder: Path, engine: str | None = None, **more: Any) -> list[Verification]:
    return verify_bundle(folder, engine=engine, **{"sources": [], **more})


def refusal(folder: Path, engine: str | None = None, **more: Any) -> str:
    with pytest.raises(UserError) as told:
        verified(folder, engine, **more)
    return str(told.value)


def test_each_engine_that_a_bundle_is_for_is_asked_by_its_own_backends_verifier_first(
    registry: Registry, tmp_path: Path
) -> None:
    registry.backends = {
        "broken": None,
        "other": {"vllm": "other.vllm", "sglang": "other.sglang"},
        "third": {"sglang": "third.sglang"},
        "mine": {"vllm": "mine.vllm"},
    }
    folder = written(tmp_path, lookups={"vllm": {}, "sglang": {}})
    told = verified(folder, sources=[Path("/src")], device_name="AMD")
    assert [each.engine for each in told] == ["mine.vllm", "other.sglang"]
    assert told[0] == Verification("mine.vllm", (Check("x", "y", True),), ("its own",))
    ((bundle, serving),) = registry.made["mine.vllm"].seen
    assert bundle.folder == folder
    assert serving == Serving([Path("/src")], "AMD", None, None, "")
    assert [each.engine for each in verified(folder, "sglang")] == ["other.sglang"]


def test_an_engine_that_nobody_can_verify_is_told_with_what_to_do(registry: Registry, tmp_path: Path) -> None:
    registry.backends["other"] = {"sglang": "other.sglang"}
    folder = written(tmp_path)
    assert refusal(folder, "tgi") == "unknown engine 'tgi': use one of vllm, sglang"
    assert refusal(written(tmp_path, lookups={"tgi": {}})) == (
        f"{tmp_path} is for tgi, for which no backend here brings a verifier: install the package that"
        " registers one, which should be that of backend mine"
    )
    assert refusal(written(tmp_path, lookups={})) == (
        f"{tmp_path} says nothing of what an engine must find: export it again"
    )


def test_what_no_engine_looks_at_is_refused(registry: Registry, tmp_path: Path) -> None:
    registry.backends["mine"] = {"vllm": "mine.vllm", "sglang": "mine.sglang"}
    folder = written(tmp_path, lookups={"vllm": {}, "sglang": {}})
    registry.facts = {"mine.vllm": {"sources": 0}, "mine.sglang": {"sources": 0}}
    assert refusal(folder, sources=[Path("/a")]) == (
        "--engine-source has no effect for vllm and sglang, whose lookup needs none: leave it out"
    )
    registry.facts["mine.sglang"] = {"sources": 1}
    assert refusal(folder, sources=[Path("/a"), Path("/b")]) == (
        "--engine-source names 2 sources, and vllm and sglang looks at 1: give no more"
    )
    verified(folder, sources=[Path("/a")])
    assert refusal(folder, triton_version="3.6.0") == (
        "--triton-version 3.6.0 has no effect for vllm and sglang, whose lookup does not ask for it: leave it"
        " out"
    )
    registry.facts["mine.sglang"] = {"asks_triton": True}
    verified(folder, triton_version="3.6.0")
    assert registry.made["mine.sglang"].seen[0][1].triton_version == "3.6.0"


def test_estimates_are_marked_and_a_reason_of_the_models_comes_first(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [each.estimated for each in verified(written(tmp_path))] == [False]
    assert [each.estimated for each in verified(written(tmp_path, measured=True))] == [False]
    monkeypatch.setattr(verifying, "served_layer", lambda bundle, model: (KIMI, "kimi", "model: no"))
    (told,) = verified(written(tmp_path, measured=False))
    assert told.estimated
    assert told.reasons == ("model: no", "its own")
    serving = registry.made["mine.vllm"].seen[0][1]
    assert (serving.layer, serving.family) == (KIMI, "kimi")


H100, H200 = Gpu("NVIDIA H100", 132), Gpu("NVIDIA H200", 132)


@pytest.mark.parametrize(
    ("named", "here", "reasons", "unchecked"),
    [
        (None, None, [], "NVIDIA H100 (132 compute units)"),
        (None, H100, [], ""),
        ("NVIDIA_H100", None, [], ""),
        ("NVIDIA H100", H200, [], ""),  # what is named is what serves
        (None, H200, [H200], ""),
        ("NVIDIA_H200", H100, [H200], ""),
    ],
)
def test_the_serving_gpu_is_compared_where_the_engines_lookup_does_not(
    named: str | None, here: Gpu | None, reasons: list[Gpu], unchecked: str,
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    device = SimpleNamespace(name=here.name, compute_units=here.compute_units) if here else None
    monkeypatch.setattr(verifying, "gpu_here", lambda: device)
    registry.facts = {"mine.vllm": {"judges_gpu": False}}
    environments = {"key": {"device": "NVIDIA H100", "compute_units": 132}}
    (told,) = verified(written(tmp_path, environments=environments), device_name=named)
    expected = [f"gpu: it is for {H100}, and the serving GPU is {gpu}: tune on that one" for gpu in reasons]
    assert told.reasons == (*expected, "its own")
    assert told.unchecked_gpu == unchecked
    registry.facts = {}
    (told,) = verified(tmp_path, device_name=named)
    assert (told.reasons, told.unchecked_gpu) == (("its own",), "")


def test_several_gpus_that_cannot_be_compared_are_all_named(registry: Registry, tmp_path: Path) -> None:
    registry.facts = {"mine.vllm": {"judges_gpu": False}}
    both = {name: {"device": name, "compute_units": 8} for name in ("A", "B")}
    (told,) = verified(written(tmp_path, environments=both))
    assert told.unchecked_gpu == "A (8 compute units) and B (8 compute units)"
    (told,) = verified(written(tmp_path))
    assert told.unchecked_gpu == ""


# The layer that is served.

MODEL = Model("mine", 512, 64, 16, 4)
LAYER = Layer("mine", 512, 64, 16, 4, 1)


def of(layer: Any, backend: Any = "triton", **more: Any) -> Bundle:
    return Bundle(Path(), {"layer": layer, "backend": backend, **more}, {})


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was asked whether it computes which layer; one of a layer called `no` does not."""
    asked: list[Any] = []

    def require(backend: Any, name: str, layer: Layer) -> None:
        asked.append((backend, name, layer))
        if layer.model == "no":
            raise UserError("it does not")

    monkeypatch.setattr(verifying, "load_backend", lambda name: f"loaded {name}")
    monkeypatch.setattr(verifying, "require_computed", require)
    return asked


def test_a_manifest_without_a_layer_or_backend_asks_for_nothing(computed: list[Any]) -> None:
    for bundle in (of(None), of([1]), of(LAYER.dims, None), Bundle(Path(), {}, {})):
        assert served_layer(bundle, None) == (None, "", "")
    assert computed == []


def test_a_layer_without_a_told_model_is_as_the_manifest_says(computed: list[Any]) -> None:
    dims = {key: value for key, value in LAYER.dims.items() if key != "ep"}  # as older bundles are
    layer, _, reason = served_layer(of(dims), None)
    assert (layer, reason) == (LAYER, "")
    assert computed == [("loaded triton", "triton", LAYER)]
    spread = replace(LAYER, tp=8, ep=4)
    assert served_layer(of(spread.dims), None)[0] == spread
    assert served_layer(of(replace(LAYER, model="no").dims), None)[2] == "model: it does not"


def test_what_is_known_of_a_model_is_its_need_and_its_scheme_goes_where_it_was_requantised(
    computed: list[Any],
) -> None:
    dims = Layer("deepseek-v3", 7168, 256, 256, 8, 8).dims
    layer, family, _ = served_layer(of(dims), None)
    assert family == "deepseek_v3"
    assert layer is not None
    assert layer.needs is not None
    assert layer.needs.scheme is not None
    again, _, _ = served_layer(of(dims, requantised=True), None)
    assert again is not None
    assert again.needs == replace(layer.needs, scheme=None)


def test_a_told_model_is_split_as_the_bundle_and_must_be_its_size(computed: list[Any]) -> None:
    told = replace(MODEL, name="theirs")
    layer, family, reason = served_layer(of(LAYER.dims), told)
    assert layer is not None
    assert (replace(layer, model="mine", needs=None), family, reason) == (LAYER, told.family, "")
    other = replace(told, experts=8)
    layer, _, reason = served_layer(of(LAYER.dims), other)
    assert layer is not None
    assert reason == f"model: it is {layer.key}, and the bundle was tuned for {LAYER.key}"


# The manifest.


def test_the_manifest_of_two_winners_whole() -> None:
    one = replace(winner(4, {"tile_n": 64}), gain_low=None)
    problem = Problem(KIMI, 2, 3, Routing("zipf", 1.0))
    two = replace(winner(8), problem=problem, kind=Kind.ESTIMATE, environment=fingerprint(tool_version="2"))
    text = manifest_json(
        [one, two],
        {"b.txt": "ü", "a.txt": ""},
        serving_folder="/opt/b",
        variables={"B": "2", "A": "1"},
        lookups={"vllm": {"x": 1}},
        decision={"mix": {}},
        requantised=True,
    )
    assert text.endswith("}\n")
    made = json.loads(text)
    assert list(made["variables"].items()) == [("A", "1"), ("B", "2")]
    assert list(made["files"]) == ["a.txt", "b.txt"]
    assert made["files"]["b.txt"]["bytes"] == 2
    assert made["files"]["a.txt"]["sha256"].startswith("e3b0c44298fc1c14")
    assert {
        key: made[key] for key in ("format", "version", "model", "backend", "measured", "requantised")
    } == {
        "format": "autotune-bundle",
        "version": 1,
        "model": KIMI.model,
        "backend": "sglang",
        "measured": False,
        "requantised": True,
    }
    assert made["note"].startswith("ESTIMATES for AMD Instinct MI325X")
    assert made["layer"] == KIMI.dims
    assert (made["serving_folder"], made["lookups"], made["decision"]) == (
        *("/opt/b", {"vllm": {"x": 1}}, {"mix": {}}),
    )
    first, second = made["winners"]
    assert first == {
        "shape": "m1",
        "concurrency": 4,
        "tokens": 4,
        "routing": one.problem.routing.key,
        "kind": "measured",
        "kept_default": False,
        "config": {"stage1": dict(one.config.stage1), "stage2": dict(one.config.stage2)},
        "default": {"stage1": dict(one.default.stage1), "stage2": dict(one.default.stage2)},
        "gain": 0.1,
        "gain_95": None,
        "executed_on_cpu": {"stage1": None, "stage2": None},
        "environment": one.environment.key,
        "made_at": "2026-01-01T00:00:00+00:00",
    }
    assert (second["shape"], second["concurrency"], second["tokens"]) == ("m2", 3, 6)
    assert (second["kind"], second["kept_default"], second["gain_95"]) == ("estimate", True, [0.08, 0.12])
    # Versions of the tool that measured on one stack stand together.
    assert {stack["tool_version"] for stack in made["environments"].values()} == {"1, 2"}
    assert {stack["device"] for stack in made["environments"].values()} == {"AMD Instinct MI325X"}


def test_a_plain_manifest_has_nothing_that_it_need_not_say() -> None:
    made = json.loads(manifest_json([winner(4)], {}))
    assert not {"note", "requantised", "decision"} & made.keys()
    assert (made["measured"], made["serving_folder"], made["variables"], made["lookups"]) == (
        True,
        None,
        {},
        {},
    )


def test_what_executing_a_stage_has_shown_stands_with_its_winner() -> None:
    verdict = SimpleNamespace(status="passed", error=1e-3, reason="")
    made = json.loads(manifest_json([winner(4)], {}, checks={4: {Stage.STAGE2: verdict}}))  # type: ignore[dict-item]
    assert made["winners"][0]["executed_on_cpu"] == {
        "stage1": None,
        "stage2": {"verdict": "passed", "error": 1e-3, "reason": ""},
    }


def test_an_environment_that_no_process_can_have_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(manifest_json([winner(4)], {}))
    (tmp_path / "autotune.env").write_text("A=/opt/\0b\n")
    with pytest.raises(UserError, match=r"autotune.env has a null byte, which no environment can hold"):
        Bundle.read(tmp_path)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ({"layer": {**KIMI.dims, "experts": "384"}}, 'layer.experts is "384"'),
        ({"layer": {**KIMI.dims, "experts": None}}, "layer.experts is null"),
        ({"layer": {**KIMI.dims, "top_k": -8}}, "layer.top_k is -8"),
        ({"layer": {**KIMI.dims, "tp": 8.0}}, "layer.tp is 8.0"),
        ({"layer": {**KIMI.dims, "ep": "8"}}, 'layer.ep is "8"'),
        (
            {"layer": {name: size for name, size in KIMI.dims.items() if name != "inter_dim"}},
            "layer.inter_dim is missing",
        ),
        ({"layer": []}, "layer is []"),
        ({"backend": ["sglang"]}, 'backend is ["sglang"]'),
        ({"measured": "false"}, 'measured is "false"'),
        ({"environments": {"mi325x": {"device": ""}}}, "environments.mi325x.compute_units is missing"),
        ({"files": {"a": {"sha256": 1}}}, "files.a.sha256 is 1"),
        ({"lookups": {"vllm": []}}, "lookups.vllm is []"),
        ({"format": None}, "format is null"),
    ],
)
def test_a_manifest_that_was_changed_by_hand_is_refused(
    tmp_path: Path, damage: dict[str, Any], told: str
) -> None:
    manifest = json.loads(manifest_json([winner(4)], {}))
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    Bundle.read(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, **damage}))
    with pytest.raises(UserError) as refused:
        Bundle.read(tmp_path)
    assert str(refused.value) == (
        f"{tmp_path}/manifest.json is not a bundle's manifest ({told}): export it again"
    )
