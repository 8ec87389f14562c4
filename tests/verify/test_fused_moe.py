"""Bundles against the lookup code of the real SGLang and vLLM, with each silent failure planted."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autotune.backends import sglang as sglang_rows
from autotune.backends import vllm as vllm_rows
from autotune.backends.sglang.verify import SglangVerifier
from autotune.backends.vllm.verify import VllmVerifier
from autotune.engines.backend import EngineBackend
from autotune.engines.diagnose import _differences
from autotune.engines.moe import entry
from autotune.engines.source import EngineSource
from autotune.errors import UserError
from autotune.machine.devices import DEVICES
from autotune.problem.layer import Layer
from autotune.problem.models import from_hf_config, preset
from autotune.protocol.bundle import Bundle
from autotune.protocol.lookup import Verification
from autotune.verify.verify import verify_bundle
from tests.export.winners import KIMI
from tests.verify.conftest import CONTENTS, MakeBundle, plant

SGLANG, VLLM = SglangVerifier(), VllmVerifier()


def test_the_second_stages_ending_is_no_part_of_a_names_last_field() -> None:
    wanted, present = "E=8,dtype=fp8_w8a8,block_shape=[128, 128]_down.json", "E=8,dtype=fp8_w8a8_down.json"
    assert _differences(wanted, present) == ["block_shape is 'missing' instead of '[128, 128]'"]


def files(folder: Path, *, down: bool = False) -> Path:
    """The stage's file in a bundle."""
    (found,) = [p for p in folder.rglob("E=*.json") if p.name.endswith("_down.json") == down]
    return found


def edit(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[Path], None]:
    """Changes the body of stage 1's file."""

    def act(folder: Path) -> None:
        path = files(folder)
        path.write_text(json.dumps(change(json.loads(path.read_text()))))

    return act


def rename(old: str, new: str, *, down: bool | None = None) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        for path in list(folder.rglob("E=*.json")):
            if down is None or path.name.endswith("_down.json") == down:
                path.rename(path.with_name(path.name.replace(old, new)))

    return act


def env(old: str, new: str) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        path = folder / "autotune.env"
        path.write_text(path.read_text().replace(old, new))

    return act


def decode_only(body: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in body.items() if int(key) <= 8}


def powers_of_two(body: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in body.items() if int(key) not in (3, 5, 6, 7)}


def descending(body: dict[str, Any]) -> dict[str, Any]:
    return dict(sorted(powers_of_two(body).items(), key=lambda item: -int(item[0])))


def with_version(body: dict[str, Any]) -> dict[str, Any]:
    return {"triton_version": "3.6.0", **body}


def without_split_k(body: dict[str, Any]) -> dict[str, Any]:
    return {m: {k: v for k, v in e.items() if k != "SPLIT_K"} for m, e in body.items()}


def found(verification: Verification, subject: str) -> str:
    (check,) = [check for check in verification.checks if check.subject == subject]
    return check.found


@pytest.mark.parametrize("backend", [name for name in CONTENTS if name.startswith("sglang")])
def test_sglang_finds_the_sentinels_at_every_shape(
    backend: str, bundle: MakeBundle, sglang: EngineSource
) -> None:
    verification = SGLANG.look_up(bundle(backend), sglang)
    assert verification.reasons == ()
    assert verification.ok
    for m in (*range(1, 9), 160):
        assert f"BLOCK_SIZE_N=64 BLOCK_SIZE_K=64 GROUP_SIZE_M={1000 + m}" in found(
            verification, f"stage1 at M = {m}"
        )
        assert f"BLOCK_SIZE_N=128 BLOCK_SIZE_K=64 GROUP_SIZE_M={1000 + m}" in found(
            verification, f"stage2 at M = {m}"
        )
    prefill = 32 if backend.startswith("sglang_fp8") else 8
    assert f"GROUP_SIZE_M={prefill}" in found(verification, "stage1 at M = 4096")


@pytest.mark.parametrize("backend", [name for name in CONTENTS if name.startswith("vllm")])
def test_vllm_finds_the_sentinels_at_every_shape(
    backend: str, bundle: MakeBundle, vllm: EngineSource
) -> None:
    verification = VLLM.look_up(bundle(backend), vllm)
    assert verification.reasons == ()
    assert verification.ok
    for m in (*range(1, 9), 160):
        assert f"GROUP_SIZE_M={1000 + m}" in found(verification, f"both stages at M = {m}")


def test_a_triton_with_a_local_version_is_served_from_the_public_folder(
    bundle: MakeBundle, sglang: EngineSource
) -> None:
    made = bundle("sglang")
    assert SGLANG.look_up(made, sglang, triton_version="3.6.0+gitabc").ok


# fmt: off
# ruff: noqa: E501
SGLANG_FAILURES = [
    ("the blank of block_shape and the like lost", rename("per_channel_quant=True", "per_channel_quant=true"), {}, "name: .*per_channel_quant is 'true'"),
    ("named for another card", rename("MI325X", "MI300X"), {}, "name: .*device_name is 'AMD_Instinct_MI300X' instead of 'AMD_Instinct_MI325X'"),
    ("the container calls the card otherwise", lambda folder: None, {"device_name": "AMD Radeon Graphics"}, "name: .*instead of 'AMD_Radeon_Graphics'"),
    ("the dtype left out", rename(",dtype=int8_w8a8", ""), {}, "name: .*dtype is 'missing'"),
    ("no _down file", lambda folder: files(folder, down=True).unlink(), {}, "stage 2 runs with stage 1's configs"),
    ("the configs/ level left out of the tree", lambda folder: (folder / "sglang/configs/triton_3_6_0").rename(folder / "sglang/triton_3_6_0"), {}, "folder: sglang looks for .*configs/triton_3_6_0"),
    ("the variable names the configs/ level", env("/opt/b/sglang", "/opt/b/sglang/configs"), {}, "version: sglang raises FileNotFoundError|folder: sglang looks for"),
    ("the variable names no folder", env("/opt/b/sglang", "/opt/elsewhere"), {}, "folder: SGLANG_MOE_CONFIG_DIR=/opt/elsewhere is not a folder"),
    ("the variable is not set", env("SGLANG_MOE_CONFIG_DIR", "SGLANG_CONFIG_DIR"), {}, "variable: autotune.env does not set SGLANG_MOE_CONFIG_DIR"),
    ("tuned on another Triton", lambda folder: None, {"triton_version": "3.9.0"}, "version: the configs are for Triton 3.6.0, the server has 3.9.0"),
    ("a folder with a local version", lambda folder: (folder / "sglang/configs/triton_3_6_0").rename(folder / "sglang/configs/triton_3_6_0+gitabc"), {}, "version: sglang raises ValueError: .*is not a number"),
    ("a triton_version in the body", edit(with_version), {}, "version: sglang raises ValueError.*take triton_version out"),
    ("decode keys only", edit(decode_only), {}, "bucket: M = 64 takes key 8"),
    ("powers of two only", edit(powers_of_two), {}, "bucket: M = 3 takes key 2"),
    ("keys descending", edit(descending), {}, "bucket: keys are not ascending, so M = 3 takes key 4"),
]
# fmt: on


@pytest.mark.parametrize(
    ("change", "stack", "reason"), [f[1:] for f in SGLANG_FAILURES], ids=[f[0] for f in SGLANG_FAILURES]
)
def test_each_silent_failure_of_sglang_is_caught(
    change: Callable[[Path], None],
    stack: dict[str, str],
    reason: str,
    bundle: MakeBundle,
    sglang: EngineSource,
) -> None:
    verification = SGLANG.look_up(plant(bundle("sglang"), change), sglang, **stack)
    assert not verification.ok
    assert _matches(reason, verification.reasons), verification.reasons


def test_int4_named_by_the_unpacked_width_as_sglangs_own_tuner_does(
    bundle: MakeBundle, sglang: EngineSource
) -> None:
    planted = plant(bundle("sglang_w4a16"), rename("N=128", "N=256"))
    verification = SGLANG.look_up(planted, sglang)
    assert _matches("name: .*N is '256' instead of '128'", verification.reasons)


# fmt: off
VLLM_FAILURES = [
    ("a blank in the name", rename(",dtype", ", dtype"), {}, "name: "),
    ("the other engine's name for the card", rename("MI325X", "MI325_OAM"), {}, "name: .*device_name is 'AMD_Instinct_MI325_OAM'"),
    ("a folder between", lambda folder: _deeper(folder), {}, "folder: vllm looks for"),
    ("the variable is not set", env("VLLM_TUNED_CONFIG_FOLDER", "VLLM_CONFIG_FOLDER"), {}, "variable: autotune.env does not set"),
    ("decode keys only", edit(decode_only), {}, "bucket: M = 64 takes key 8"),
    ("keys descending", edit(descending), {}, "bucket: keys are not ascending"),
]
# fmt: on


def _deeper(folder: Path) -> None:
    (folder / "vllm/configs").mkdir()
    path = files(folder)
    path.rename(folder / "vllm/configs" / path.name)


@pytest.mark.parametrize(
    ("change", "stack", "reason"), [f[1:] for f in VLLM_FAILURES], ids=[f[0] for f in VLLM_FAILURES]
)
def test_each_silent_failure_of_vllm_is_caught(
    change: Callable[[Path], None],
    stack: dict[str, str],
    reason: str,
    bundle: MakeBundle,
    vllm: EngineSource,
) -> None:
    verification = VLLM.look_up(plant(bundle("vllm"), change), vllm, **stack)
    assert not verification.ok
    assert _matches(reason, verification.reasons), verification.reasons


def test_grouped_weights_without_split_k_are_caught(bundle: MakeBundle, vllm: EngineSource) -> None:
    planted = plant(bundle("vllm_w4a16"), edit(without_split_k))
    verification = VLLM.look_up(planted, vllm)
    assert _matches("body: the entry at key 1 lacks SPLIT_K", verification.reasons)


def test_vllm_takes_a_triton_version_in_the_body(bundle: MakeBundle, vllm: EngineSource) -> None:
    assert VLLM.look_up(plant(bundle("vllm"), edit(with_version)), vllm).ok


def test_vllm_names_a_rocm_card_by_its_pci_id(bundle: MakeBundle, vllm: EngineSource) -> None:
    assert VLLM.look_up(bundle("vllm"), vllm, device_name="0x74a5").ok
    assert VLLM.look_up(bundle("vllm"), vllm, device_name="0x74b9").ok
    assert not VLLM.look_up(bundle("vllm"), vllm, device_name="0x74a1").ok
    with pytest.raises(UserError, match="no 0x1234"):
        VLLM.look_up(bundle("vllm"), vllm, device_name="0x1234")


def test_a_file_that_was_edited_after_the_export_is_told(bundle: MakeBundle, sglang: EngineSource) -> None:
    made = bundle("sglang")
    path = files(made.folder)
    path.write_text(path.read_text() + "\n")
    verification = SGLANG.look_up(made, sglang)
    assert all(check.ok for check in verification.checks)
    assert _matches("was changed since the export", verification.reasons)


def test_a_bundle_for_another_engine_is_an_error(bundle: MakeBundle, vllm: EngineSource) -> None:
    with pytest.raises(UserError, match="is not for vllm"):
        VLLM.look_up(bundle("sglang"), vllm)


ENGINES = [EngineBackend(row) for row in (*sglang_rows.ROWS, *vllm_rows.ROWS)]


@pytest.mark.parametrize("family", ENGINES, ids=lambda family: family.name)
@pytest.mark.parametrize("card", ["mi325x", "h100"])
def test_our_spaces_defaults_are_the_engines_own(
    family: EngineBackend, card: str, request: pytest.FixtureRequest
) -> None:
    source: EngineSource = request.getfixturevalue(family.engine)
    device = DEVICES[card]
    tokens = [1, 2, 8, 16, 32, 33, 64, 65, 96, 97, 128, 129, 160, 384, 385, 512, 513, 4096, 16384]
    answer = {"sglang": SGLANG, "vllm": VLLM}[family.engine].ask(
        {
            "arch": device.arch,
            "device_name": "nothing is tuned for this one",
            "triton_version": "3.6.0",
            "tokens": tokens,
            "experts": KIMI.experts,
            "model_dim": KIMI.model_dim,
            "inter_dim": KIMI.inter_dim,
            "top_k": KIMI.top_k,
            "quantisation": {
                "dtype": family.quantisation.dtype,
                "block_shape": family.quantisation.block_shape,
                "per_channel": family.quantisation.per_channel,
            },
        },
        source.root,
        None,
    )
    assert answer.error is None
    for m in tokens:
        ours = family.default(KIMI, m, device)
        for what, theirs in answer.defaults[str(m)].items():
            config = ours.stage2 if what == "stage2" else ours.stage1
            assert entry(config) == {k: v for k, v in theirs.items() if k != "SPLIT_K"}, (m, what)


def _matches(pattern: str, reasons: tuple[str, ...]) -> bool:
    import re

    return any(re.search(pattern, reason) for reason in reasons)


SPREAD = Layer.of(preset("kimi-k2.5-w4a8"), 8, 8)


@pytest.mark.parametrize("backend", ["sglang", "vllm", "sglang_w4a16", "vllm_fp8"])
def test_under_expert_parallelism_the_engines_look_for_this_gpus_experts(
    backend: str, bundle: MakeBundle, request: pytest.FixtureRequest
) -> None:
    engine = backend.partition("_")[0]
    source: EngineSource = request.getfixturevalue(engine)
    made = bundle(backend, SPREAD)
    assert files(made.folder).name.startswith("E=48,N=1024," if "w4a16" in backend else "E=48,N=2048,")
    (verification,) = verify_bundle(made.folder, engine=engine, sources=[source.root])
    assert verification.ok, verification.reasons
    # Named for all of the model's experts, it is found by nobody.
    planted = plant(made, rename("E=48", "E=384"))
    (verification,) = verify_bundle(planted.folder, engine=engine, sources=[source.root])
    assert _matches("name: .*E is '384' instead of '48'", verification.reasons)


@pytest.mark.parametrize("engine", ["sglang", "vllm"])
def test_a_file_of_other_blocks_is_not_found(
    engine: str, bundle: MakeBundle, request: pytest.FixtureRequest
) -> None:
    verifier = {"sglang": SGLANG, "vllm": VLLM}[engine]
    source: EngineSource = request.getfixturevalue(engine)
    sides = "[128, 128]" if engine == "sglang" else "[128,128]"
    made = bundle(f"{engine}_fp8_block")
    assert f",block_shape={sides}" in files(made.folder).name
    for other, told in (("", "'missing'"), (f",block_shape={sides.replace('128', '64')}", r"'\[64, ?64\]'")):
        planted = plant(bundle(f"{engine}_fp8_block"), rename(f",block_shape={sides}", other))
        reasons = verifier.look_up(planted, source).reasons
        assert _matches(rf"name: .*block_shape is {told} instead of '\[128, ?128\]'", reasons), reasons
        for path in planted.folder.rglob("E=*.json"):
            path.unlink()


def test_a_folder_that_is_no_bundle_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="autotune export"):
        Bundle.read(tmp_path)


def of_model(model: str, experts: int, **more: Any) -> Callable[[Path], None]:
    """A bundle whose manifest says that it is of another model."""

    def act(folder: Path) -> None:
        path = folder / "manifest.json"
        manifest = json.loads(path.read_text())
        manifest["layer"].update(model=model, experts=experts)
        for lookup in manifest["lookups"].values():
            lookup["experts"] = experts
        path.write_text(json.dumps({**manifest, "backend": "sglang_fp8", **more}))
        rename("E=384", f"E={experts}")(folder)

    return act


def verified(folder: Path, source: EngineSource, **more: Any) -> Verification:
    (one,) = verify_bundle(folder, engine="sglang", sources=[source.root], **more)
    return one


def test_a_checkpoint_in_blocks_is_asked_for_by_its_blocks_and_its_fused_expert(
    bundle: MakeBundle, sglang: EngineSource
) -> None:
    # As an export of DeepSeek-V3 by channel was once written.
    folder = plant(bundle("sglang_fp8"), of_model("deepseek-v3", 256)).folder
    verification = verified(folder, sglang)
    assert not verification.ok
    assert _matches(r"model: backend sglang_fp8 .*weight_block_size=\[128, 128\]", verification.reasons)
    assert _matches("name: sglang looks for E=257,", verification.reasons)
    assert _matches(r"block_shape is 'missing' instead of '\[128, 128\]'", verification.reasons)


def test_a_requantised_checkpoint_is_asked_for_by_channel(bundle: MakeBundle, sglang: EngineSource) -> None:
    planted = plant(bundle("sglang_fp8"), of_model("deepseek-v3", 256, requantised=True))
    reasons = verified(planted.folder, sglang).reasons
    assert not any(reason.startswith("model:") for reason in reasons)
    assert _matches("name: .*E is '256' instead of '257'", reasons)  # SGLang counts the shared expert in
    fused = plant(bundle("sglang_fp8"), of_model("deepseek-v3+shared", 257, requantised=True))
    assert verified(fused.folder, sglang).ok


def test_the_served_models_own_config_is_what_is_asked_by(
    bundle: MakeBundle, sglang: EngineSource, tmp_path: Path
) -> None:
    folder = bundle("sglang").folder
    kimi = {
        "hidden_size": 7168,
        "moe_intermediate_size": 2048,
        "n_routed_experts": 384,
        "num_experts_per_tok": 8,
    }
    config = tmp_path / "config.json"
    for change, reason in (
        ({}, None),
        ({"n_routed_experts": 256}, "name: .*E is '384' instead of '256'"),
        ({"moe_intermediate_size": 1536}, "name: .*N is '256' instead of '192'"),
        ({"hidden_act": "gelu"}, "model: backend sglang .*hidden_act='gelu'"),
    ):
        config.write_text(json.dumps({**kimi, **change}))
        verification = verified(folder, sglang, model=from_hf_config(config))
        assert verification.ok == (reason is None)
        assert reason is None or _matches(reason, verification.reasons), verification.reasons
