"""What an engine's lookup is asked by, and what is told of its answer, without any engine."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from autotune.backends.sglang import verify as sglang_verify
from autotune.backends.sglang.calls import SGLANG
from autotune.backends.sglang.verify import SglangDoctor, SglangVerifier
from autotune.backends.vllm import verify as vllm_verify
from autotune.backends.vllm.calls import VLLM
from autotune.backends.vllm.verify import VllmDoctor, VllmVerifier
from autotune.engines import verify as engine_verify
from autotune.engines.diagnose import Answer, diagnose
from autotune.engines.source import EngineSource
from autotune.engines.verify import FusedMoeVerifier, weight_shapes
from autotune.errors import UserError
from autotune.problem.layer import Layer
from autotune.protocol.bundle import Bundle
from autotune.protocol.lookup import Check, Serving

FOLDER = "SGLANG_MOE_CONFIG_DIR"
KEY = "E=8,N=64,device_name=NVIDIA_H100"
A, B, C = ({"BLOCK_SIZE_M": 16, "BLOCK_SIZE_N": n} for n in (32, 64, 128))
MEANT = {"stage1": {"1": A, "2": B, "10": C}, "stage2": {"1": A}}
LOOKUP = {
    "experts": 8,
    "model_dim": 128,
    "inter_dim": 64,
    "top_k": 2,
    "device_name": "NVIDIA H100",
    "triton_version": "3.6.0",
    "quantisation": {"dtype": "fp8_w8a8", "block_shape": None, "per_channel": True},
    "intended": MEANT,
}


def written(folder: Path, tables: Mapping[str, Any], **manifest: Any) -> Bundle:
    """A bundle with files at `configs/triton_3_6_0`, served from /opt/b."""
    for name, body in tables.items():
        path = folder / "sglang/configs/triton_3_6_0" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(body))
    more = {"serving_folder": "/opt/b", "lookups": {"sglang": LOOKUP}, "files": {}, **manifest}
    return Bundle(folder, more, {FOLDER: "/opt/b/sglang"})


def at(bundle: Bundle, name: str) -> str:
    return str(bundle.folder / "sglang/configs/triton_3_6_0" / name)


def looked(*entries: tuple[str, bool]) -> list[dict[str, Any]]:
    return [{"path": path, "found": found} for path, found in entries]


def reasons(
    bundle: Bundle,
    answer: Answer,
    *,
    intended: Mapping[str, Any] = MEANT,
    hint: Callable[[str], str] = lambda error: "",
    other_stack: Callable[[Sequence[Path]], Any] = lambda files: iter(()),
) -> list[str]:
    stages = ("up", "down")
    told = diagnose(bundle, "sglang", FOLDER, stages, intended, answer, hint=hint, other_stack=other_stack)
    return list(told)


SELECTED = {m: {"stage1": entry, "stage2": A} for m, entry in MEANT["stage1"].items()}
UP, DOWN = f"{KEY}.json", f"{KEY}_down.json"
TABLES = {UP: MEANT["stage1"], DOWN: MEANT["stage2"]}


# Reasons.


def test_what_is_found_as_meant_has_no_reason(tmp_path: Path) -> None:
    bundle = written(tmp_path, TABLES)
    used: list[Sequence[Path]] = []
    answer = Answer(SELECTED, {}, looked_for=looked((at(bundle, UP), True), (at(bundle, DOWN), True)))
    assert reasons(bundle, answer, other_stack=lambda files: used.append(files) or iter(["stack"])) == [
        "stack"
    ]
    assert used == [[Path(at(bundle, UP)), Path(at(bundle, DOWN))]]


def test_a_variable_that_is_not_set_or_names_no_folder_comes_first(tmp_path: Path) -> None:
    bundle = written(tmp_path, TABLES)
    answer = Answer(SELECTED, {}, looked_for=looked((at(bundle, UP), True), (at(bundle, DOWN), True)))
    unset = Bundle(bundle.folder, bundle.manifest, {})
    assert reasons(unset, answer) == [
        f"variable: autotune.env does not set {FOLDER}, so sglang looks in its own folder only"
    ]
    elsewhere = Bundle(bundle.folder, bundle.manifest, {FOLDER: "/opt/b/nowhere"})
    assert reasons(elsewhere, answer) == [f"folder: {FOLDER}=/opt/b/nowhere is not a folder of this bundle"]


def test_what_the_engine_raises_ends_the_search_with_what_to_do(tmp_path: Path) -> None:
    bundle = written(tmp_path, TABLES)
    answer = Answer({}, {}, error="ValueError: x", looked_for=looked(("/usr/E=8.json", True)))
    told = reasons(bundle, answer, hint=lambda error: f": mend {error}")
    assert told == ["version: sglang raises ValueError: x: mend ValueError: x"]


def test_a_file_of_the_engines_own_is_no_use_of_the_bundle(tmp_path: Path) -> None:
    bundle = written(tmp_path, TABLES)
    answer = Answer(SELECTED, {}, looked_for=looked(("/usr/E=8.json", True), ("/usr/E=8_down.json", True)))
    assert reasons(bundle, answer) == [
        f"folder: sglang reads /usr/{name}, which is not this bundle's"
        for name in ("E=8.json", "E=8_down.json")
    ]


@pytest.mark.parametrize(
    ("gone", "effect"), [(UP, "it runs with its default"), (DOWN, "stage 2 runs with stage 1's configs")]
)
def test_a_file_that_was_not_found_is_told_by_why_and_with_its_effect(
    gone: str, effect: str, tmp_path: Path
) -> None:
    there = DOWN if gone == UP else UP
    wanted = f"/elsewhere/{gone}"

    def told(tables: Mapping[str, Any]) -> list[str]:
        for old in tmp_path.rglob("E=*.json"):
            old.unlink()
        bundle = written(tmp_path, {there: TABLES[there], **tables})
        searched = looked((wanted, False), (f"/last/{gone}", False), (at(bundle, there), True))
        selected = {m: {**of, ("stage1" if gone == UP else "stage2"): None} for m, of in SELECTED.items()}
        kept = {"stage2": MEANT["stage2"]} if gone == UP else {"stage1": MEANT["stage1"]}
        return reasons(bundle, Answer(selected, {}, looked_for=searched), intended=kept)

    assert told({gone: {}}) == [
        f"folder: sglang looks for {wanted}, but the file is"
        f" {tmp_path}/sglang/configs/triton_3_6_0/{gone}: {effect}"
    ]
    assert told({}) == [f"name: sglang looks for {gone}, and the bundle has no such file: {effect}"]
    near = gone.replace("N=64", "N=128")
    far = gone.replace("N=64", "N=32").replace("E=8", "E=9")
    for tables in ({near: {}, far: {}}, {far: {}, near: {}}):  # the one that differs least
        assert told(tables) == [
            f"name: sglang looks for {gone}; in the bundle N is '128' instead of '64': {effect}"
        ]


@pytest.mark.parametrize(
    ("present", "differs"),
    [
        ("E=9,N=128,device_name=NVIDIA_H100.json", ["E is '9' instead of '8'", "N is '128' instead of '64'"]),
        ("E=8,N=64.json", ["device_name is 'missing' instead of 'NVIDIA_H100'"]),
        (f"{KEY},dtype=fp8.json", ["dtype is 'fp8' instead of 'none'"]),
        (f"{KEY},block_shape=[128, 128].json", ["block_shape is '[128, 128]' instead of 'none'"]),
    ],
)  # fmt: skip
def test_the_parts_of_a_name_that_differ_are_told(present: str, differs: list[str], tmp_path: Path) -> None:
    bundle = written(tmp_path, {present: {}})
    answer = Answer({}, {}, looked_for=looked((f"/x/{UP}", False)))
    told = reasons(bundle, answer, intended={})
    joined = "; ".join(differs)
    assert told == [f"name: sglang looks for {UP}; in the bundle {joined}: it runs with its default"]


def test_a_name_whose_parts_are_equal_is_told_as_it_is(tmp_path: Path) -> None:
    present = "E=8,device_name=NVIDIA_H100,N=64.json"
    bundle = written(tmp_path, {present: {}})
    answer = Answer({}, {}, looked_for=looked((f"/x/{UP}", False)))
    assert reasons(bundle, answer, intended={}) == [
        f"name: sglang looks for {UP}; in the bundle the file is {present!r}: it runs with its default"
    ]


def wrong(tmp_path: Path, table: Mapping[str, Any], **selected: Any) -> list[str]:
    """Reasons where stage 1's file has a table, of which the engine takes an entry by tokens."""
    bundle = written(tmp_path, {UP: table})
    answer = Answer(
        {m.removeprefix("m"): {"stage1": entry} for m, entry in selected.items()},
        {},
        looked_for=looked((at(bundle, UP), True)),
    )
    return reasons(bundle, answer, intended={"stage1": MEANT["stage1"]})


def test_an_entry_of_another_key_is_told_with_both_once_a_stage(tmp_path: Path) -> None:
    told = wrong(tmp_path, {"1": A, "16": B}, m1=A, m2=A, m10=B)
    assert told == [
        "bucket: M = 2 takes key 1 (BLOCK_SIZE_M=16 BLOCK_SIZE_N=32), meant was BLOCK_SIZE_M=16"
        " BLOCK_SIZE_N=64"
    ]


def test_keys_out_of_order_are_told_with_the_one_that_is_taken(tmp_path: Path) -> None:
    table = {"4": C, "triton_version": "3.6.0", "0": B}
    assert wrong(tmp_path, table, m1=A, m2=C, m10=C) == [
        "bucket: keys are not ascending, so M = 2 takes key 4, the first of two as near"
    ]


def test_an_entry_that_lacks_a_part_is_told_by_what_it_lacks(tmp_path: Path) -> None:
    lacking = {"BLOCK_SIZE_M": 16}
    assert wrong(tmp_path, {"1": A, "2": lacking, "10": C}, m1=A, m2=lacking, m10=C) == [
        "body: the entry at key 2 lacks BLOCK_SIZE_N, without which the kernel is launched otherwise, or not"
        " at all"
    ]
    nothing = wrong(tmp_path, {"1": A, "2": {}, "10": C}, m1=A, m2={}, m10=C)
    assert nothing[0].startswith("body: the entry at key 2 lacks BLOCK_SIZE_M, BLOCK_SIZE_N, without")
    other = {"BLOCK_SIZE_M": 32}
    assert wrong(tmp_path, {"1": A, "2": other, "10": C}, m1=A, m2=other, m10=C)[0].startswith(
        "bucket: M = 2"
    )


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({**B, "BLOCK_SIZE_N": float(B["BLOCK_SIZE_N"])}, f"BLOCK_SIZE_N={float(B['BLOCK_SIZE_N'])}"),
        ({**B, "BLOCK_SIZE_N": str(B["BLOCK_SIZE_N"])}, "BLOCK_SIZE_N="),
        ([16, 64], "[16, 64]"),
        ("x", '"x"'),
    ],
)
def test_an_entry_of_other_types_is_not_the_one_meant(entry: Any, said: str, tmp_path: Path) -> None:
    """Python takes 64.0 for 64; a kernel's compiler does not."""
    (told,) = wrong(tmp_path, {"1": A, "2": entry, "10": C}, m1=A, m2=entry, m10=C)
    assert told.startswith("bucket: M = 2 takes key 2")
    assert said in told


def test_stage_2_goes_by_its_own_file_or_else_by_stage_1s(tmp_path: Path) -> None:
    meant = {"stage2": {"2": B}}
    for tables, used, key in (
        ({UP: {"5": A}, DOWN: {"7": A}}, (UP, DOWN), 7),
        ({UP: {"5": A}}, (UP,), 5),
    ):
        for old in tmp_path.rglob("E=*.json"):
            old.unlink()
        bundle = written(tmp_path, tables)
        found = looked(*[(at(bundle, name), True) for name in used])
        answer = Answer({"2": {"stage2": A}}, {}, looked_for=found)
        assert f"bucket: M = 2 takes key {key} " in reasons(bundle, answer, intended=meant)[-1]
    bundle = written(tmp_path, {DOWN: {"7": A}})
    answer = Answer({"2": {"stage1": A}}, {}, looked_for=looked((at(bundle, DOWN), True)))
    assert reasons(bundle, answer, intended={"stage1": {"2": B}}) == []  # no file of its own to tell of


def test_what_was_not_selected_at_all_is_told_as_nothing(tmp_path: Path) -> None:
    told = wrong(tmp_path, {"1": A, "2": B, "10": C}, m1=A, m10=C)
    assert told == ["bucket: M = 2 takes key 2 (nothing), meant was BLOCK_SIZE_M=16 BLOCK_SIZE_N=64"]


# What is asked.


class Asked:
    """An engine whose lookup answers as told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.requests: list[dict[str, Any]] = []
        self.environments: list[Mapping[str, str]] = []
        self.answer: dict[str, Any] = {"selected": SELECTED, "defaults": {}}
        monkeypatch.setattr(engine_verify, "run_lookup", self._run)

    def _run(self, request: Mapping[str, Any], environment: Mapping[str, str], *, without: Any) -> Any:
        assert list(without) == [FOLDER]
        self.requests.append(dict(request))
        self.environments.append(environment)
        return self.answer


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    return Asked(monkeypatch)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return written(tmp_path / "bundle", TABLES)


SOURCE = EngineSource("sglang", Path("/src"))


def test_the_engine_is_asked_by_what_the_export_meant(asked: Asked, bundle: Bundle) -> None:
    told = SglangVerifier().look_up(bundle, SOURCE)
    assert asked.requests == [
        {
            **LOOKUP,
            "engine": "sglang",
            "lookup": "autotune.backends.sglang.lookup:sglang_lookup",
            "root": "/src",
            "tokens": [1, 2, 10],
        }
    ]
    assert asked.environments == [{FOLDER: str(bundle.folder.resolve() / "sglang")}]
    assert told.engine == "sglang at /src"
    short = {name: " ".join(f"{k}={v}" for k, v in e.items()) for name, e in (("A", A), ("B", B), ("C", C))}
    assert told.checks == (
        Check("stage1 at M = 1", short["A"], True, ""),
        Check("stage1 at M = 2", short["B"], True, ""),
        Check("stage1 at M = 10", short["C"], True, ""),
        Check("stage2 at M = 1", short["A"], True, ""),
    )


def test_a_lookup_that_selects_something_else_fails_with_both(asked: Asked, bundle: Bundle) -> None:
    asked.answer = {**asked.answer, "selected": {**SELECTED, "2": {"stage1": A, "stage2": A}}}
    asked.answer["looked_for"] = looked((at(bundle, UP), True), (at(bundle, DOWN), True))
    told = SglangVerifier().look_up(bundle, SOURCE)
    assert told.checks[1] == Check(
        "stage1 at M = 2", "BLOCK_SIZE_M=16 BLOCK_SIZE_N=32", False, "BLOCK_SIZE_M=16 BLOCK_SIZE_N=64"
    )
    assert len(told.reasons) == 1 + len(bundle.changed())
    assert told.reasons[0].startswith("bucket: M = 2 takes key 2")
    assert told.reasons[1:] == tuple(bundle.changed()) != ()


def test_one_file_for_both_stages_is_called_so(asked: Asked, bundle: Bundle) -> None:
    both = {**LOOKUP, "intended": {"both": {"2": A}}}
    of_both = Bundle(bundle.folder, {**bundle.manifest, "lookups": {"sglang": both}}, bundle.variables)
    told = SglangVerifier().look_up(of_both, SOURCE)
    assert [check.subject for check in told.checks] == ["both stages at M = 2"]


def test_what_the_user_told_of_the_stack_takes_the_exports_place(asked: Asked, bundle: Bundle) -> None:
    verifier = SglangVerifier()
    verifier.look_up(bundle, SOURCE, device_name="AMD", triton_version="3.9.0", asked={"experts": 9})
    (request,) = asked.requests
    assert (request["device_name"], request["triton_version"], request["experts"]) == ("AMD", "3.9.0", 9)


def test_without_the_variable_the_engine_is_asked_without_it(asked: Asked, bundle: Bundle) -> None:
    unset = Bundle(bundle.folder, bundle.manifest, {})
    told = SglangVerifier().look_up(unset, SOURCE)
    assert asked.environments == [{}]
    assert told.reasons[0].startswith(f"variable: autotune.env does not set {FOLDER}")


def test_equal_reasons_are_told_once_and_what_the_engine_logs_but_its_usual_warning(
    asked: Asked, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked.answer["messages"] = ["found it", "Performance might be SUBOPTIMAL!"]
    monkeypatch.setattr(SglangVerifier, "other_stack", lambda *_: iter(["same", "same"]))
    told = SglangVerifier().look_up(bundle, SOURCE)
    assert told.notes == ("found it",)
    assert told.reasons.count("same") == 1


def test_a_wheel_is_unpacked_as_far_as_it_is_needed(
    asked: Asked, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpacked: list[tuple[Path, tuple[str, ...]]] = []

    def unpack(self: EngineSource, into: Path, *folders: str) -> Path:
        assert into.is_dir()
        unpacked.append((into, folders))
        return into / "there"

    monkeypatch.setattr(EngineSource, "unpack", unpack)
    SglangVerifier().look_up(bundle, SOURCE)
    ((into, folders),) = unpacked
    assert folders == ("sglang/srt/layers/moe/moe_runner/triton_utils",)
    assert asked.requests[0]["root"] == str(into / "there")
    assert into.name.startswith("autotune-verify-")
    assert not into.exists()


def serving(
    monkeypatch: pytest.MonkeyPatch, verifier: FusedMoeVerifier, bundle: Bundle, told: Serving
) -> Any:
    """What a verifier looks up with, and by which source."""
    seen: dict[str, Any] = {}
    monkeypatch.setattr(engine_verify, "open_source", lambda *of: seen.update(opened=of) or SOURCE)
    monkeypatch.setattr(
        type(verifier), "look_up", lambda self, *of, **more: seen.update(more, of=of) or "told"
    )
    assert verifier.verify(bundle, told) == "told"
    return seen


@pytest.mark.parametrize(
    ("told", "here", "device", "triton"),
    [
        (Serving(), "this GPU", "this GPU", "9.9.9"),
        (Serving(), None, None, None),
        (Serving(device_name="AMD"), "this GPU", "AMD", None),
        (Serving(triton_version="3.9.0"), "this GPU", "this GPU", "3.9.0"),
        (Serving([Path("/w.whl")]), "this GPU", "this GPU", None),  # not what is installed here
    ],
)
def test_what_is_not_told_is_asked_of_a_machine_that_could_serve(
    told: Serving, here: str | None, device: str | None, triton: str | None,
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    gpu = SimpleNamespace(name=here) if here else None
    monkeypatch.setattr(engine_verify, "gpu_here", lambda: gpu)
    monkeypatch.setattr(SglangVerifier, "triton_here", lambda self: "9.9.9")
    seen = serving(monkeypatch, SglangVerifier(), bundle, told)
    assert seen == {
        "opened": ("sglang", told.source),
        "of": (bundle, SOURCE),
        "device_name": device,
        "triton_version": triton,
        "asked": {},
    }


def test_the_served_models_layer_is_what_the_engine_is_asked_by(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_verify, "gpu_here", lambda: None)
    layer = Layer("mine", 256, 32, 16, 4, 8)
    seen = serving(monkeypatch, SglangVerifier(), bundle, Serving(layer=layer))
    assert seen["asked"] == {
        "experts": 16,
        "model_dim": 256,
        "inter_dim": 32,
        "top_k": 4,
        "quantisation": LOOKUP["quantisation"],
    }


def test_each_verifier_is_of_its_engine() -> None:
    for verifier, engine, variable, lookup in (
        (SglangVerifier(), SGLANG, FOLDER, "autotune.backends.sglang.lookup:sglang_lookup"),
        (VllmVerifier(), VLLM, "VLLM_TUNED_CONFIG_FOLDER", "autotune.backends.vllm.lookup:vllm_lookup"),
    ):
        assert (verifier.engine, verifier.variable, verifier.lookup) == (engine, variable, lookup)
        assert (verifier.sources, verifier.judges_gpu) == (1, True)
    assert SglangVerifier.asks_triton is True
    assert VllmVerifier.asks_triton is False
    # What is run or read of the engine is all that is taken out of a wheel.
    assert SglangVerifier.needed == ("sglang/srt/layers/moe/moe_runner/triton_utils",)
    assert VllmVerifier.needed == (
        "vllm/envs.py",
        "vllm/utils/platform_utils.py",
        "vllm/platforms/rocm.py",
        "vllm/model_executor/layers/fused_moe/fused_moe.py",
        "vllm/model_executor/layers/fused_moe/configs",
    )
    assert (SglangVerifier.stage_files, VllmVerifier.stage_files) == (("up", "down"), ("both",))
    assert (SglangDoctor.engine, VllmDoctor.engine) == (SGLANG, VLLM)
    assert VllmVerifier().triton_here() is None
    assert VllmVerifier().hint("anything") == ""
    assert list(VllmVerifier().other_stack([Path("x")], "3.6.0")) == []


# SGLang's.


def test_the_installed_triton_is_sglangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sglang_verify, "package_version", lambda *names: f"of {names}")
    assert SglangVerifier().triton_here() == f"of {sglang_verify.TRITON_DISTRIBUTIONS}"


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (
            "ValueError: invalid literal for int() with base 10: 'triton_version'",
            ": a body may hold token counts only, take triton_version out",
        ),
        (
            "ValueError: invalid literal for int() with base 10: '0+gitabc'",
            ": a key of a body, or the version in a folder's name (triton_3_6_0+git), is not a number",
        ),
        ("KeyError: 'x'", ""),
    ],
)
def test_what_sglang_raises_has_a_remedy_where_it_is_known(error: str, hint: str) -> None:
    assert SglangVerifier().hint(error) == hint


@pytest.mark.parametrize(
    ("folders", "server", "told"),
    [
        (["triton_3_6_0"], "3.6.0", None),
        (["triton_3_6_0"], "3.6.0+gitabc", None),
        (["triton_3_6_0"], None, None),
        (["triton_3_6_0"], "", None),
        ([], "3.9.0", None),
        (["triton_3_6_0", "triton_3_7_0"], "3.9.0+x", "3.6.0, the server has 3.9.0+x"),
        (["triton_3_9_0", "triton_3_7_0"], "3.9.0", "3.7.0, the server has 3.9.0"),
    ],
)
def test_configs_of_another_triton_that_sglang_takes_all_the_same_are_told_once(
    folders: list[str], server: str | None, told: str | None
) -> None:
    files = [Path("/b/configs", folder, "E=8.json") for folder in folders]
    expected = (
        f"version: the configs are for Triton {told}, and SGLang takes them all the same: tune on the serving"
        " stack"
    )
    assert list(SglangVerifier().other_stack(files, server)) == ([expected] if told else [])


# vLLM's.

PLATFORM = """
OTHER: dict = {"0x1": "no"}
_ROCM_DEVICE_ID_NAME_MAP: dict[str, str] = {"0x74a5": "AMD_Instinct_MI325X"}
_LATER: dict = {}
"""


def test_a_pci_id_is_named_by_vllms_own_table(tmp_path: Path) -> None:
    path = tmp_path / "vllm/platforms/rocm.py"
    path.parent.mkdir(parents=True)
    path.write_text(PLATFORM)
    verifier = VllmVerifier()
    for name in ("0x74a5", "0x74A5", "0X74A5"):
        assert verifier.device_name(tmp_path, name) == "AMD_Instinct_MI325X"
    assert verifier.device_name(Path("/nowhere"), "NVIDIA H100") == "NVIDIA H100"
    with pytest.raises(UserError) as told:
        verifier.device_name(tmp_path, "0x1")
    assert str(told.value) == (
        "vLLM's table of ROCm GPUs has no 0x1: give the marketing name with --device-name"
    )
    path.write_text("X = 1\n")
    with pytest.raises(UserError, match="has no 0x74a5"):
        verifier.device_name(tmp_path, "0x74a5")


def test_an_amd_gpu_here_is_known_by_its_pci_id_and_another_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def redirected(path: str) -> Path:
        return tmp_path / path.lstrip("/")

    monkeypatch.setattr(vllm_verify, "Path", redirected)
    monkeypatch.setattr(engine_verify, "gpu_here", lambda: SimpleNamespace(name="NVIDIA H100"))
    verifier = VllmVerifier()
    assert verifier.device_here() == "NVIDIA H100"
    for card, vendor, device in (
        ("card0", "0x8086", "0x1"),
        ("card1", "0x1002", "0x74a5"),
        ("card2", "0x1002", "0x2"),
    ):
        folder = tmp_path / "sys/class/drm" / card / "device"
        folder.mkdir(parents=True)
        (folder / "vendor").write_text(f"{vendor}\n")
        (folder / "device").write_text(f"{device}\n")
    assert verifier.device_here() == "NVIDIA H100"  # without ROCm's driver
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/kfd").touch()
    assert verifier.device_here() == "0x74a5"
    monkeypatch.setattr(engine_verify, "gpu_here", lambda: None)
    for vendor in tmp_path.glob("sys/class/drm/*/device/vendor"):
        vendor.write_text("0x10de\n")
    assert verifier.device_here() is None


@pytest.mark.parametrize(
    ("dtype", "shapes"),
    [
        ("int8_w8a8", ((8, 128, 128), (8, 128, 64))),
        ("int4_w4a16", ((8, 128, 64), (8, 128, 32))),
    ],
)
def test_weights_have_the_shapes_in_which_an_engine_holds_them(dtype: str, shapes: Any) -> None:
    assert weight_shapes({**LOOKUP, "quantisation": {"dtype": dtype}}) == shapes
