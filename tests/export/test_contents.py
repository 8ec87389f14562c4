"""What exporters hand over besides their files' bytes: lookups, previews, notes, and refusals."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from autotune.backends.aiter.export import EnvExporter
from autotune.backends.aiter.knobs import SWITCHES
from autotune.backends.aiter_main import export as aiter_main
from autotune.backends.aiter_main.csv import FmoeKey, FmoeRow
from autotune.backends.aiter_main.export import (
    Choice,
    GroupedTableExporter,
    TableExporter,
    aiter_content,
    has_regimes,
    shipped_tables,
)
from autotune.backends.humming import export as humming
from autotune.backends.humming.export import HummingExporter, HummingInt8Exporter, content_of, short_entry
from autotune.backends.sglang.export import sglang_content
from autotune.backends.triton.export import OperatorExporter, operator_content
from autotune.backends.vllm.export import vllm_content
from autotune.engines.export import engine_default, intended, preview, table_json, winners_table
from autotune.engines.moe import Quantisation
from autotune.engines.source import EngineSource
from autotune.errors import UserError
from autotune.machine.targets import Kind
from autotune.problem.layer import Stage
from autotune.protocol.exporter import Place, Request, Row, Stack
from autotune.protocol.mix import Mix, MixCandidate, MixDecision
from autotune.results import Confirmation, Finalist, LayerConfig, Round
from autotune.space.config import UNSET, Config
from autotune.store.records import WinnerRecord
from tests.export.winners import KIMI, winner


def request(*winners: WinnerRecord, setting: Mapping[str, str] | None = None, **more: Any) -> Any:
    made = {
        "kernels": SimpleNamespace(environment=lambda config: {}),
        "store": None,
        "place": Place("/opt/b"),
    }
    return Request(winners, **{**made, **more}, setting=setting)


# AITER's published generation.


def test_a_setting_is_the_environment_and_what_verify_looks_for() -> None:
    content = EnvExporter().content(request(winner(4, backend="aiter"), setting={"A": "1"}))
    assert (content.files, content.variables) == ({}, {"A": "1"})
    assert content.lookups == {"env": {"variables": {"A": "1"}}}
    assert (EnvExporter.format, EnvExporter.options) == ("env", frozenset())


def test_kernels_that_are_called_with_parameters_have_no_environment() -> None:
    with pytest.raises(UserError) as told:
        EnvExporter().content(request(winner(4, backend="aiter", kernel_source="main 123")))
    assert str(told.value) == (
        "these kernels of aiter (main 123) are called with parameters, and no engine reads those from a file"
        " or its environment: export winners of the published generation"
    )


def test_what_runs_aiters_kernels_is_told_with_what_it_needs() -> None:
    assert EnvExporter.stacks == {
        "sglang": Stack(
            "the published image clementlincf/amdafde:v0.5.10rc0-rocm720-mi30x-kimi-k2.5-opt-20260420, the"
            " only one with the int8 W4A8 path; mainline SGLang runs this checkpoint as int4 x fp8 through"
            " AITER, which reads AITER_CONFIG_FMOE and none of these variables",
            {**SWITCHES, "SGLANG_USE_AITER": "1"},
            required="DSL2_ROOT",
        ),
        "vllm": Stack(
            "mainline vLLM through AITER, which serves int4 x fp8 and reads AITER_CONFIG_FMOE; its int8 W4A8"
            " path is in the published SGLang image only, so the FLYDSL variables of this bundle have no"
            " effect here",
            {"VLLM_ROCM_USE_AITER": "1"},
        ),
    }
    assert TableExporter.stacks == {
        "vllm": Stack(
            "mainline vLLM through AITER main, whose int4 x fp8 kernels the rows of AITER_CONFIG_FMOE choose",
            {"VLLM_ROCM_USE_AITER": "1"},
        )
    }
    plugin = (
        "with moe-autotune installed beside it: its plugin runs the experts in both arms, in the baseline by"
        " the default configs. No model was served with it by its makers"
    )
    assert OperatorExporter.stacks == {
        "vllm": Stack(f"vLLM 0.33 {plugin}", arguments=("--quantization autotune_w4a8",)),
        "sglang": Stack(f"SGLang 0.5.23 {plugin}", environment={"AUTOTUNE_W4A8_INT8_FOR_FP8": "1"}),
    }
    humming_stack = (
        "vLLM 0.33 with humming-kernels 0.1.19, and moe-autotune installed beside them for its plugin, which"
        " does nothing in the baseline arm, where its variable is not set"
    )
    assert HummingExporter.stacks == {"vllm": Stack(humming_stack)}
    assert HummingInt8Exporter.stacks == {
        "vllm": Stack(
            humming_stack,
            environment={"VLLM_HUMMING_INPUT_QUANT_CONFIG": '{"dtype": "int8"}'},
            arguments=("--quantization humming",),
        )
    }


# SGLang and vLLM.

INT4 = Quantisation("int4_w4a16", (0, 32))
CHANNEL = Quantisation("int8_w8a8", per_channel=True)


def stack_of(device: str, **more: Any) -> WinnerRecord:
    return winner(4, {"tile_n": 64}, {"tile_n": 64}, device=device, **more)


def default_of(tokens: int) -> LayerConfig:
    return winner(4).default


def test_sglang_is_asked_for_both_stages_of_the_layer_on_the_serving_stack() -> None:
    won = winner(4, {"tile_n": 64}, {"tile_n": 128})
    content = sglang_content([won], CHANNEL, default_of, Place("/opt/b"))
    name = "sglang/configs/triton_3_6_0/E=384,N=256,device_name=AMD_Instinct_MI325X,dtype=int8_w8a8"
    files = [f"{name},per_channel_quant=True{down}.json" for down in ("", "_down")]
    assert list(content.files) == files
    assert content.variables == {"SGLANG_MOE_CONFIG_DIR": "/opt/b/sglang"}
    lookup = content.lookups["sglang"]
    intended = lookup.pop("intended")
    assert list(content.lookups) == ["sglang"]
    assert lookup == {
        "experts": 384,
        "model_dim": 7168,
        "inter_dim": 256,
        "top_k": 8,
        "arch": "gfx942",
        "device_name": "AMD Instinct MI325X",
        "triton_version": "3.6.0",
        "quantisation": {"dtype": "int8_w8a8", "block_shape": None, "per_channel": True},
    }
    assert list(intended) == ["stage1", "stage2"]
    assert intended["stage1"]["4"]["BLOCK_SIZE_N"] == 64
    assert [preview.file for preview in content.previews] == files
    sides = [{row.tokens: row.text for row in preview.rows}[4] for preview in content.previews]
    assert ["BLOCK_SIZE_N=64" in text for text in sides] == [True, False]
    assert "BLOCK_SIZE_N=128" in sides[1]
    replaces = (
        "SGLANG_MOE_CONFIG_DIR replaces SGLang's built-in folder: layers of other sizes in the same process"
        " fall back to the default rule."
    )
    assert content.notes == (replaces,)
    place = Place("/opt/b", "NVIDIA H100", "3.9.0+gitabc")
    told = sglang_content([stack_of("offline:mi325x")], INT4, default_of, place)
    assert next(iter(told.files)) == (
        "sglang/configs/triton_3_9_0/E=384,N=128,device_name=NVIDIA_H100,dtype=int4_w4a16.json"
    )
    assert told.notes == (
        replaces,
        "Triton 3.9.0+gitabc has a local version; the files are in its public version's folder, which SGLang"
        " finds by search and says so in a warning.",
    )


def test_vllm_is_asked_for_both_stages_in_one_file() -> None:
    content = vllm_content([stack_of("NVIDIA H200")], INT4, default_of, Place("/opt/b"))
    name = "vllm/E=384,N=256,device_name=NVIDIA_H200,dtype=int4_w4a16.json"
    assert list(content.files) == [name]
    assert content.variables == {"VLLM_TUNED_CONFIG_FOLDER": "/opt/b/vllm"}
    lookup = content.lookups["vllm"]
    intended = lookup.pop("intended")
    assert list(content.lookups) == ["vllm"]
    assert lookup == {
        "experts": 384,
        "model_dim": 7168,
        "inter_dim": 256,
        "top_k": 8,
        "arch": "gfx942",
        "device_name": "NVIDIA H200",
        "quantisation": {"dtype": "int4_w4a16", "block_shape": (0, 32), "per_channel": False},
    }
    assert list(intended) == ["both"]
    assert intended["both"]["4"]["SPLIT_K"] == 1
    assert [preview.file for preview in content.previews] == [name]


@pytest.mark.parametrize(
    ("write", "lacks"),
    [
        (
            sglang_content,
            "SGLang's file carries the GPU's name, and 'offline:mi325x' is none: give the one that the"
            " serving container reports, python3 -c 'import torch; print(torch.cuda.get_device_name())', with"
            " --device-name",
        ),
        (
            vllm_content,
            "vLLM's file carries the GPU's name, and 'offline:mi325x' is none: give the one that vLLM has for"
            " the serving GPU, e.g. AMD_Instinct_MI325X, with --device-name",
        ),
    ],
)
def test_a_gpu_without_a_name_of_its_own_has_no_file(write: Any, lacks: str) -> None:
    with pytest.raises(UserError) as told:
        write([stack_of("offline:mi325x")], CHANNEL, default_of, Place("/opt/b"))
    assert str(told.value) == lacks
    with pytest.raises(UserError, match=r"and ' ' is none"):
        write([stack_of(" ")], CHANNEL, default_of, Place("/opt/b"))


def test_a_triton_that_no_folder_can_be_named_for_is_refused() -> None:
    with pytest.raises(UserError) as told:
        sglang_content([stack_of("AMD", triton=None)], CHANNEL, default_of, Place("/opt/b"))
    assert str(told.value) == (
        "SGLang's folder carries Triton's version, which this result lacks: give the serving stack's with"
        " --triton-version"
    )
    with pytest.raises(UserError) as told:
        sglang_content([stack_of("AMD", triton="main")], CHANNEL, default_of, Place("/opt/b"))
    assert str(told.value) == (
        "Triton version 'main' is not of the form 3.6.0, the only one that SGLang can search for: give the"
        " serving stack's with --triton-version"
    )


def test_what_one_file_or_one_sort_cannot_hold_is_to_be_tuned_again() -> None:
    unlike = winner(4, {"tile_n": 64}, {"tile_n": 128}, device="NVIDIA H100")
    with pytest.raises(UserError) as told:
        vllm_content([unlike], CHANNEL, default_of, Place("/opt/b"))
    assert str(told.value) == (
        "the winner at 4 tokens has unlike configs for its stages, and vLLM has one file for both: tune it"
        " again, a run now pairs equal ones only"
    )
    blocks = winner(4, {"tile_m": 16}, {"tile_m": 32})
    with pytest.raises(UserError) as told:
        sglang_content([blocks], CHANNEL, default_of, Place("/opt/b"))
    assert str(told.value) == (
        "the winner at 4 tokens has tile_m=16 in stage 1 and 32 in stage 2, but both stages share one sort:"
        " tune it again"
    )
    foreign = winner(4, {"waves_per_eu": 2}, arch="sm_90")
    with pytest.raises(UserError) as told:
        sglang_content([foreign], CHANNEL, default_of, Place("/opt/b"))
    assert str(told.value) == (
        "the winner at 4 tokens sets waves_per_eu, which Triton for sm_90 does not know: tune it again"
    )


def test_a_table_is_written_ascending_with_its_head_first() -> None:
    table = {10: winner(10, {"tile_n": 64}).config, 2: winner(2, {"tile_n": 32}, {"tile_n": 128}).config}
    text = table_json(table, Stage.STAGE1, head={"triton_version": "a note"})
    assert text == json.dumps(json.loads(text), indent=4) + "\n"
    assert [(key, entry) for key, entry in json.loads(text).items()] == [
        ("triton_version", "a note"),
        *((str(m), {"BLOCK_SIZE_M": 16, "BLOCK_SIZE_N": n, **KEPT}) for m, n in ((2, 32), (10, 64))),
    ]
    second = json.loads(table_json(table, Stage.STAGE2, split_k=True))
    assert second["2"] == {"BLOCK_SIZE_M": 16, "BLOCK_SIZE_N": 128, **KEPT, "SPLIT_K": 1}


KEPT = {"BLOCK_SIZE_K": 64, "GROUP_SIZE_M": 1}


def test_a_tuned_count_must_get_its_winner_and_others_what_is_nearest() -> None:
    tuned = winner(4, {"tile_n": 64}, {"tile_n": 128})
    table = {1: winner(1).default, 4: winner(4).default, 64: winner(64, {"tile_n": 256}).config}
    meant = intended(table, [tuned], Stage.STAGE2, split_k=True)
    assert meant["4"] == {"BLOCK_SIZE_M": 16, "BLOCK_SIZE_N": 128, **KEPT, "SPLIT_K": 1}
    assert meant["3"]["BLOCK_SIZE_N"] == 32
    assert "SPLIT_K" not in intended(table, [tuned], Stage.STAGE1)["4"]
    first = intended(table, [tuned], Stage.STAGE1)
    assert (first["4"]["BLOCK_SIZE_N"], first["64"]["BLOCK_SIZE_N"]) == (64, 256)
    shown = preview("a.json", table, [tuned], Stage.STAGE1)
    assert shown.file == "a.json"
    rows = {row.tokens: row for row in shown.rows}
    small = "BLOCK_SIZE_M=16 BLOCK_SIZE_N=32 BLOCK_SIZE_K=64 GROUP_SIZE_M=1"
    assert rows[3] == Row(3, 4, "tuned", small)
    assert rows[2] == Row(2, 1, "engine's default", small)
    assert list(rows) == sorted(rows)


def test_the_engines_default_is_that_of_the_winners_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    kernels: Any = SimpleNamespace(default=lambda *of: asked.append(of) or "its own")
    assert engine_default(kernels, winner(4))(7) == "its own"
    ((layer, tokens, device),) = asked
    assert (layer, tokens, device.name) == (KIMI, 7, "mi325x")
    with pytest.raises(UserError, match=r"^the engine's default on 'Strange' is not known"):
        engine_default(kernels, winner(4, device="Strange"))
    table = winners_table([winner(4, {"tile_n": 64})], lambda tokens: winner(1).default)
    assert table[4].stage1["tile_n"] == 64


# Our own operator.


def test_the_operators_file_lookup_and_preview() -> None:
    four, one = (replace(winner(m, {"tile_n": n}), kind=Kind.ESTIMATE) for m, n in ((4, 64), (1, 128)))
    content = operator_content([one, four], Place("/opt/b"))
    stages = {str(w.problem.tokens): {str(s): dict(w.config.of(s)) for s in Stage} for w in (one, four)}
    assert json.loads(content.files["moe_w4a8.json"]) == {
        "format": "autotune-moe-w4a8",
        "version": 1,
        "note": "ESTIMATES for AMD Instinct MI325X: chosen by a formula on the compiled code, nothing here"
        " was measured",
        "gpu": {"name": "AMD Instinct MI325X", "compute_units": 304},
        "model_dim": 7168,
        "inter_dim": 256,
        "experts": 384,
        "top_k": 8,
        "entries": [{"tokens": m, **stages[str(m)]} for m in (1, 4)],
    }
    assert content.variables == {"AUTOTUNE_MOE_CONFIG": "/opt/b/moe_w4a8.json"}
    assert content.lookups == {"triton": {"file": "moe_w4a8.json", "intended": stages}}
    (preview,) = content.previews
    assert preview.file == "moe_w4a8.json"
    assert preview.rows[1] == Row(
        4, 4, "estimate", f"stage1 {four.config.stage1}; stage2 {four.config.stage2}"
    )
    exported = OperatorExporter().content(request(one, four))
    assert exported.variables == content.variables
    kernels = SimpleNamespace(environment=lambda config: {"TRITON": "1"})
    exported = OperatorExporter().content(request(one, four, kernels=kernels))
    assert exported.variables == {**content.variables, "TRITON": "1"}


# humming.

OWN = {
    stage: {"mma_type": "own", "block_shape": [8, n, 64], "warp_shape": [8, n, 32]}
    for stage, n in zip(Stage, (64, 128), strict=True)
}
MOST = 1 << 30


def hummed(tokens: int, *, kept: bool = False, **changes: Any) -> WinnerRecord:
    one = Config({"n": tokens})
    record = winner(tokens, backend="humming_w4a8", device="NVIDIA H100 80GB HBM3", compute_units=132)
    default = LayerConfig(Config({"n": 0}), Config({"n": 0}))
    return replace(record, config=default if kept else LayerConfig(one, one), default=default, **changes)


def tuned_entry(config: Config) -> dict[str, Any]:
    return {
        "mma_type": f"tuned{config['n']}",
        "block_shape": [16, 64, 128],
        "warp_shape": [16, 32, 64],
        "pdl": True,
    }


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A humming that takes one entry a stage everywhere; what was asked of it."""
    asked: list[Any] = []
    stand_in = SimpleNamespace(
        COMPUTE={"gemm_type": "indexed"},
        version=lambda: "0.1.19",
        require_hopper=lambda name, device: asked.append((name, device.name)),
        without_gpu=lambda device: asked.append(device.name),
        heuristic=lambda row, layer, stage, slots: (
            asked.append((row, layer.model, str(stage), slots)) or [(0, MOST, OWN[stage])]
        ),
        layer_facts=lambda row, layer, stage: {"row": row, "layer": layer.model, "stage": str(stage)},
    )
    monkeypatch.setattr(humming, "library", stand_in)
    monkeypatch.setattr(humming, "entry", tuned_entry)
    return asked


KERNELS: Any = SimpleNamespace(name="humming_w4a8", row="a row")


def test_hummings_file_has_the_tuned_ranges_in_front_of_its_own(library: list[Any]) -> None:
    winners = [hummed(2), hummed(4, kept=True)]
    content = content_of(KERNELS, winners, "/opt/b")
    two = tuned_entry(winners[0].config.stage1)
    ranges = {stage: [[0, 8, own], [8, 16, two], [16, MOST, own]] for stage, own in OWN.items()}
    name, model = "NVIDIA H100 80GB HBM3", KIMI.model
    assert content.files["humming.json"].endswith("}\n")
    assert json.loads(content.files["humming.json"]) == {
        "format": "autotune-humming",
        "version": 1,
        "humming": "0.1.19",
        "gpu": name,
        "compute": {"gemm_type": "indexed"},
        "model": model,
        "top_k": 8,
        "tuned": [[8, 16]],
        "layers": [
            {
                "sublayer": sub,
                "layer": {"row": "a row", "layer": model, "stage": str(stage)},
                "ranges": ranges[stage],
            }
            for stage, sub in zip(Stage, ("w13", "w2"), strict=True)
        ],
    }
    assert library == [
        ("humming_w4a8", "h100"),
        "h100",
        *[("a row", model, str(stage), None) for stage in Stage],
    ]
    assert content.variables == {"AUTOTUNE_HUMMING_CONFIG": "/opt/b/humming.json"}
    assert content.notes == (
        "vLLM reads this through the plugin `autotune` of this package: install moe-autotune in the"
        " environment that serves, and see its log for the ranges that it took",
    )
    (lookup,) = content.lookups.values()
    intended = lookup.pop("intended")
    assert content.lookups == {
        "vllm": {
            "humming": "0.1.19",
            "gpu": name,
            "compute": {"gemm_type": "indexed"},
            "file": "humming.json",
            "backend": "humming_w4a8",
            "top_k": 8,
            "compute_units": 132,
        }
    }
    assert {int(m) for m in intended} >= {*range(1, 9), 40, 160}
    assert list(map(int, intended)) == sorted(map(int, intended))
    assert all(
        intended[m] == {str(stage): two if m == "2" else own for stage, own in OWN.items()} for m in intended
    )


def test_a_stage_that_kept_its_default_has_no_range_of_its_own(library: list[Any]) -> None:
    won = hummed(2)
    half = replace(won, config=LayerConfig(won.config.stage1, won.default.stage2))
    layers = json.loads(content_of(KERNELS, [half], "/opt/b").files["humming.json"])["layers"]
    assert [len(layer["ranges"]) for layer in layers] == [3, 1]
    unlike = replace(won, config=LayerConfig(won.config.stage1, Config({"n": 7})))
    layers = json.loads(content_of(KERNELS, [unlike], "/opt/b").files["humming.json"])["layers"]
    assert [layer["ranges"][1][2]["mma_type"] for layer in layers] == ["tuned2", "tuned7"]


def test_each_stages_ranges_are_shown_by_tokens(library: list[Any]) -> None:
    content = content_of(KERNELS, [hummed(2), hummed(4, kept=True)], "/opt/b")
    first, second = content.previews
    assert first.file == "humming.json, w13, keys are rows (tokens * 8)"
    assert second.file == "humming.json, w2, keys are rows (tokens * 8)"
    rows = {row.tokens: row for row in first.rows}
    assert rows[2] == Row(2, 16, "tuned", "tuned2 16x64x128 warp 16x32x64 pdl")
    assert rows[4] == Row(4, 32, "default, confirmed", "own 8x64x64 warp 8x64x32")
    assert rows[3] == Row(3, 24, "humming's own", "own 8x64x64 warp 8x64x32")


def test_estimates_are_noted_in_the_file_and_their_gpu_is_the_one_that_they_are_for(
    library: list[Any],
) -> None:
    estimate = hummed(2, kind=Kind.ESTIMATE)
    offline = replace(estimate, environment=replace(estimate.environment, device="offline:h100"))
    file = json.loads(content_of(KERNELS, [offline], "/opt/b").files["humming.json"])
    assert (file["gpu"], file["note"][:18]) == ("h100", "ESTIMATES for h100")
    strange = replace(estimate, environment=replace(estimate.environment, device="NVIDIA L40S"))
    with pytest.raises(UserError, match=r"^humming's own choice on 'NVIDIA L40S' is not known"):
        content_of(KERNELS, [strange], "/opt/b")


def test_an_entry_is_told_by_its_tiles_and_by_what_differs_from_hummings_own() -> None:
    raw = {"mma_type": "wgmma", "block_shape": [16, 64, 128], "warp_shape": [16, 32, 64]}
    assert short_entry(raw) == "wgmma 16x64x128 warp 16x32x64"
    more = {"num_stages": 3, "pdl": True, "tma": False, "unroll": None, "sms": 0}
    assert short_entry({**raw, **more}) == "wgmma 16x64x128 warp 16x32x64 num_stages=3 pdl"


def test_hummings_exporter_hands_on_what_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    class Kernels:
        pass

    monkeypatch.setattr(humming, "HummingBackend", Kernels)
    monkeypatch.setattr(humming, "content_of", lambda *of: of)
    kernels, won = Kernels(), hummed(2)
    assert HummingExporter().content(request(won, kernels=kernels)) == (kernels, (won,), "/opt/b")  # type: ignore[comparison-overlap]
    assert (HummingExporter.format, HummingExporter.options) == ("humming", frozenset())


# AITER main.

KEY = FmoeKey("gfx942", 304, 7168, 256, 384, 8, "torch.float8_e4m3fnuz", ("torch.uint32", "torch.int4"))
ROWS = [FmoeRow(m, 32, f"one{m}", f"two{m}", 10.0, 5.0, 1e-3, 2e-3) for m in (4, 1)]
HEAD = (
    "cu_num,token,model_dim,inter_dim,expert,topk,act_type,dtype,q_dtype_a,q_dtype_w,q_type,use_g1u1,"
    "doweight_stage1,block_m,ksplit,us1,kernelName1,err1,us2,kernelName2,err2,us,run_1stage"
)


def test_without_an_aiter_our_table_replaces_its_own_and_says_so() -> None:
    content = aiter_content(KEY, ROWS, Place("/opt/b"))
    assert list(content.files) == ["aiter/autotune_fmoe.csv"]
    assert content.variables == {"AITER_CONFIG_FMOE": "/opt/b/aiter/autotune_fmoe.csv"}
    assert content.notes == (
        "AITER_CONFIG_FMOE replaces AITER's shipped tables; export with --aiter-source to merge with them.",
    )
    lookup = content.lookups["aiter"]
    assert lookup["generation"] == "main"
    assert "regime" not in lookup
    assert lookup["key"]["gfx"] == "gfx942"
    four = {"kernelName1": "one4", "kernelName2": "two4", "block_m": 32, "ksplit": 0, "run_1stage": 0}
    one = {**four, "kernelName1": "one1", "kernelName2": "two1"}
    assert lookup["intended"] == {"1": one, "3": four, "4": four}
    (preview,) = content.previews
    assert preview.file == "aiter/autotune_fmoe.csv"
    rows = {row.tokens: row for row in preview.rows}
    assert rows[3] == Row(3, 4, "tuned", "block_m=32 one4 + two4")
    assert rows[2] == Row(2, 2, "no row of ours", "as shipped")


def test_beside_shipped_tables_ours_comes_first_in_their_columns() -> None:
    shipped = {"aiter/configs/a.csv": f"{HEAD}\n", "aiter/configs/b.csv": f"{HEAD}\n"}
    content = aiter_content(KEY, ROWS, Place("/opt/b"), shipped=shipped, installed="/app")
    assert content.variables == {
        "AITER_CONFIG_FMOE": "/opt/b/aiter/autotune_fmoe.csv"
        ":/app/aiter/configs/a.csv:/app/aiter/configs/b.csv"
    }
    table = content.files["aiter/autotune_fmoe.csv"]
    assert table.splitlines()[0] == f"gfx,{HEAD}"  # without it a row would be every GPU's
    with_gfx = {"aiter/configs/a.csv": f"gfx,{HEAD}\n"}
    content = aiter_content(KEY, ROWS, Place("/opt/b"), shipped=with_gfx, installed="/app")
    assert content.files["aiter/autotune_fmoe.csv"] == table
    assert content.notes == ()


def test_a_shipped_table_with_our_keys_is_copied_without_them() -> None:
    ours = aiter_content(KEY, ROWS, Place("/opt/b")).files["aiter/autotune_fmoe.csv"]
    shipped = {"aiter/configs/model/same.csv": ours}
    content = aiter_content(KEY, ROWS, Place("/opt/b"), shipped=shipped, installed="/app")
    assert list(content.files) == ["aiter/autotune_fmoe.csv", "aiter/same.csv"]
    assert content.files["aiter/same.csv"].splitlines() == ours.splitlines()[:1]
    assert content.variables["AITER_CONFIG_FMOE"].endswith(":/opt/b/aiter/same.csv")
    assert content.notes == (
        "aiter/configs/model/same.csv has rows with our keys: a copy without them is in the bundle, as a"
        " merge of both would raise",
    )


def test_where_decode_has_a_table_ours_goes_there_with_the_shipped_rows() -> None:
    shipped = {"aiter/configs/a.csv": f"gfx,{HEAD}\n"}
    content = aiter_content(KEY, ROWS, Place("/opt/b"), shipped=shipped, installed="/app", regimes=True)
    assert content.variables == {"AITER_CONFIG_FMOE_DECODE": "/opt/b/aiter/autotune_fmoe.csv"}
    assert list(content.files) == ["aiter/autotune_fmoe.csv"]
    assert content.lookups["aiter"]["regime"] == "decode"
    assert content.notes == (
        "this AITER has a table for decode: AITER_CONFIG_FMOE_DECODE names ours, with the shipped rows of"
        " this GPU, and prefill keeps its own. It is read only where the server says"
        " set_moe_regime('decode'), as newer SGLangs do on ROCm",
    )


def tree(root: Path, **files: str) -> EngineSource:
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_csv", ".csv").replace("_py", ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return EngineSource("aiter", root)


def test_the_tables_that_aiter_merges_are_its_tuned_ones_the_common_one_first(tmp_path: Path) -> None:
    source = tree(
        tmp_path,
        aiter__configs__tuned_fmoe_csv="common", aiter__configs__models__a_tuned_fmoe_csv="a",
        aiter__configs__models__b_tuned_fmoe_csv="b", aiter__configs__untuned_fmoe_csv="x",
        aiter__configs__tuned_gemm_csv="x", aiter__configs__tuned_fmoe_grouped_csv="x",
        aiter__configs__tuned_fmoe="x", aiter__other__tuned_fmoe_csv="x",
    )  # fmt: skip
    assert list(shipped_tables(source).items()) == [
        ("aiter/configs/tuned_fmoe.csv", "common"),
        ("aiter/configs/models/a_tuned_fmoe.csv", "a"),
        ("aiter/configs/models/b_tuned_fmoe.csv", "b"),
    ]


@pytest.mark.parametrize(
    ("fused", "core", "has"),
    [
        ("def set_moe_regime(x):\n AITER_CONFIG_FMOE_DECODE", "", True),
        ("def set_moe_regime(x): ...", "AITER_CONFIG_FMOE_DECODE", True),
        ("def set_moe_regime(x): ...", "", False),
        ("AITER_CONFIG_FMOE_DECODE", "AITER_CONFIG_FMOE_DECODE", False),
    ],
)
def test_an_aiter_with_a_table_for_decode_is_known(fused: str, core: str, has: bool, tmp_path: Path) -> None:
    source = tree(tmp_path, aiter__fused_moe_py=fused, aiter__jit__core_py=core)
    assert has_regimes(source) is has


def test_where_aiter_serves_is_told_or_where_its_source_is(tmp_path: Path) -> None:
    source = EngineSource("aiter", tmp_path)
    assert aiter_main._installed(source, "/app/") == "/app"
    assert aiter_main._installed(source, None) == str(tmp_path.resolve())
    wheel = tmp_path / "w.whl"
    wheel.touch()
    assert aiter_main._installed(EngineSource("aiter", wheel), "/app") == "/app"
    with pytest.raises(UserError) as told:
        aiter_main._installed(EngineSource("aiter", wheel), None)
    assert str(told.value) == (
        f"{wheel} is a wheel, and the list of tables needs the folder in which it is installed where it"
        " serves: give that with --aiter-root"
    )


def named(
    monkeypatch: pytest.MonkeyPatch, source: EngineSource | None, *tiles: int, kernel: Any = UNSET
) -> str:
    """A config's kernel where AITER has one for each of these block sizes."""
    names = [SimpleNamespace(text=f"kernel{index}", tile_m=tile) for index, tile in enumerate(tiles)]
    monkeypatch.setattr(aiter_main, "f8i4_instances", lambda root, stage, arch: names)
    config = Config({"tile_m": 64, "kernel": kernel})
    return TableExporter().kernel(source, "gfx942", Stage.STAGE1, config)


def test_a_kernel_that_is_left_to_aiter_is_the_one_of_its_block_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = EngineSource("aiter", tmp_path)
    assert named(monkeypatch, None, kernel="mine") == "mine"
    assert named(monkeypatch, source, 32, 64, 128) == "kernel1"
    for tiles, count in (((32, 128), 0), ((64, 64), 2)):
        with pytest.raises(UserError) as told:
            named(monkeypatch, source, *tiles)
        assert str(told.value) == (
            f"stage1 leaves its kernel to AITER, and the one at {tmp_path} has {count} for blocks of 64 rows:"
            " tune with that AITER, so that winners have names"
        )
    for absent in (None, EngineSource("aiter", tmp_path / "w.whl")):
        with pytest.raises(UserError) as told:
            named(monkeypatch, absent, 64)
        assert str(told.value) == (
            "stage1 leaves its kernel to AITER, whose tables need its name: give AITER's source tree with"
            " --aiter-source"
        )


def test_activations_are_the_gpus_own_fp8_or_bfloat16() -> None:
    table, grouped = TableExporter(), GroupedTableExporter()
    assert table.activations("gfx942") == "torch.float8_e4m3fnuz"
    assert table.activations("gfx950") == "torch.float8_e4m3fn"
    assert grouped.activations("gfx942") == "torch.bfloat16"
    assert (table.q_type, grouped.q_type) == ("QuantType.per_Token", "QuantType.per_1x32")
    assert (table.format, table.options, grouped.stacks) == ("aiter", {"source", "root"}, {})


# A bucket's row, from finals of several counts.


class Finals:
    """A database with the final of each count: microseconds by kernel; the first ships, the least won."""

    def __init__(self, **finals: dict[str, float]) -> None:
        self.winners: list[WinnerRecord] = []
        self._confirmations: dict[int, Confirmation] = {}
        for name, us in finals.items():
            tokens = int(name.removeprefix("m"))
            record = replace(winner(tokens, backend="aiter_main"), confirmation=tokens)
            configs = [self.config(kernel) for kernel in us]
            times = list(us.values())
            best = times.index(min(times))
            rounds = tuple(
                Round(tuple({"layer": t + n, "stage1": t / 2, "stage2": t / 4} for t in times))
                for n in (0, 2)
            )
            self._confirmations[tokens] = Confirmation(
                record.problem,
                tuple(Finalist("x", c) for c in configs),
                rounds,
                (1e-3,) * len(us),
                best,
                0,
                0,
                0,
            )
            self.winners.append(
                replace(record, config=configs[best], default=configs[0], gain=1 - times[best] / times[0])
            )

    @staticmethod
    def config(kernel: str) -> LayerConfig:
        return LayerConfig(*(Config({"tile_m": 32, "kernel": f"{kernel}{n}"}) for n in (1, 2)))

    def confirmation(self, number: int) -> Any:
        return SimpleNamespace(confirmation=self._confirmations[number])

    def made(self) -> list[Any]:
        def name(stage: Stage, config: Config) -> str:
            return str(config["kernel"])

        return [aiter_main._Final.of(self, winner, name) for winner in self.winners]  # type: ignore[arg-type]


def choice(kernel: str) -> Choice:
    return Choice(32, f"{kernel}1", f"{kernel}2")


def test_a_buckets_row_is_the_best_over_its_counts_and_loses_at_none() -> None:
    finals = Finals(
        m3={"s": 20.0, "b": 18.0, "a": 21.0}, m4={"s": 20.0, "a": 15.0, "b": 18.0}, m8={"s": 9.0}
    ).made()
    decisions = aiter_main._decisions(finals)
    assert list(decisions) == [4, 8]
    assert (decisions[4].setting, decisions[8].setting) == (choice("b"), None)
    assert decisions[4].mix == Mix.of({3: 1.0, 4: 1.0}, guards=[3, 4])
    exact = replace(finals[0], confirmation=replace(finals[0].confirmation, errors=(0.0,) * 3))
    assert aiter_main._row(4, choice("b"), [exact]).error1 == 0.0
    row = aiter_main._row(4, choice("b"), finals)
    assert row == FmoeRow(4, 32, "b1", "b2", 9.0, 4.5, 1e-3, 1e-3)


def test_a_choice_is_held_against_the_default_where_both_ran() -> None:
    (final,) = Finals(m4={"s": 20.0, "a": 15.0, "b": 18.0}).made()
    assert final.won == choice("a")
    assert final.bucket == 4
    assert (final.us(1, "layer"), final.us(1, "stage1")) == (16.0, 7.5)
    assert final.ratio(choice("a")) == pytest.approx(0.75)  # as it was confirmed
    assert final.ratio(choice("b")) == pytest.approx((18 / 20 + 20 / 22) / 2)
    assert final.ratio(choice("c")) is None
    default = final.deployed(None)
    assert (default.config, default.gain, default.gain_low, default.gain_high) == (
        *(Finals.config("s"), 0.0, 0.0, 0.0),
    )
    assert final.deployed(choice("a")) is final.winner
    other = final.deployed(choice("b"))
    assert other.config == Finals.config("b")
    pair = pytest.approx(1 - (18 / 20 * 20 / 22) ** 0.5)  # the only one
    assert (other.gain_low, other.gain, other.gain_high) == (pair, pair, pair)


def test_rounds_in_which_only_one_of_both_ran_do_not_count() -> None:
    finals = Finals(m4={"s": 20.0, "a": 15.0, "b": 18.0})
    whole = finals._confirmations[4]
    first = whole.rounds[0].us
    partly = (Round((first[0], first[1], {})), Round(({}, first[1], first[2])))
    finals._confirmations[4] = replace(whole, rounds=(*partly, *whole.rounds))
    (final,) = finals.made()
    assert final._beside_default(choice("b")) == [(18.0, 20.0), (20.0, 22.0)]
    assert final._beside_default(choice("c")) == []


def test_a_choice_that_failed_in_a_final_or_is_the_default_under_another_name_wins_nothing() -> None:
    finals = Finals(m4={"s": 20.0, "a": 15.0})
    finals._confirmations[4] = replace(finals._confirmations[4], errors=(1e-3, None))
    (final,) = finals.made()
    assert list(final.places.values()) == [0]
    finals = Finals(m4={"s": 20.0, "a": 15.0})
    same = Finalist("x", Finals.config("s"))
    finals._confirmations[4] = replace(finals._confirmations[4], finalists=(same, same))
    (final,) = finals.made()
    assert (final.won, final.places) == (None, {choice("s"): 0})
    finals.winners = [replace(finals.winners[0], confirmation=None)]
    with pytest.raises(UserError) as told:
        finals.made()
    assert str(told.value) == (
        "AITER's table holds what was measured, and estimates were not: run on the GPU"
    )


def test_what_became_of_a_rows_candidates_is_a_sentence_each() -> None:
    candidates = (
        MixCandidate(choice("a"), {3: 0.1, 4: 0.2}, 0.15, ""),
        MixCandidate(choice("b"), {4: 0.3}, None, "loses 5.0% at 3 tokens"),
        MixCandidate(choice("c"), {3: 0.01, 4: 0.01}, 0.01, ""),
        MixCandidate(None, {3: 0.0, 4: 0.0}, 0.0, ""),
    )
    decision: Any = MixDecision(choice("a"), Mix.of({3: 1.0, 4: 1.0}, guards=()), candidates)
    assert aiter_main._decided(4, decision) == [
        "row 4, of 3, 4 tokens: a1 +10.0% at 3, +20.0% at 4: chosen",
        "row 4, of 3, 4 tokens: b1 +30.0% at 4: refused, loses 5.0% at 3 tokens",
    ]


def test_where_no_bucket_has_a_row_there_is_nothing_to_write(monkeypatch: pytest.MonkeyPatch) -> None:
    finals = Finals(m4={"s": 20.0, "a": 21.0})
    monkeypatch.setattr(aiter_main, "find_source", lambda engine: None)
    with pytest.raises(UserError) as told:
        TableExporter().content(request(*finals.winners, store=finals))
    assert str(told.value) == (
        "no bucket has a row that beats what AITER does without one at every count that it serves: there is"
        " nothing to write"
    )


def test_the_table_is_for_the_winners_gpu_and_layer_and_tells_what_it_deploys(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    finals = Finals(m3={"s": 20.0, "b": 18.0}, m4={"s": 20.0, "b": 16.0}, m8={"s": 9.0})
    monkeypatch.setattr(aiter_main, "find_source", lambda engine: None)
    content = TableExporter().content(request(*finals.winners, store=finals))
    key = content.lookups["aiter"]["key"]
    assert key == {
        "gfx": "gfx942", "cu_num": 304, "model_dim": 7168, "inter_dim": 256, "experts": 384, "top_k": 8,
        "q_dtype_a": "torch.float8_e4m3fnuz", "q_dtypes_w": ("torch.uint32", "torch.int4"),
        "q_type": "QuantType.per_Token", "act_type": "ActivationType.Silu", "dtype": "torch.bfloat16",
        "use_g1u1": True, "doweight_stage1": False,
    }  # fmt: skip
    assert content.winners is not None
    assert [w.config == Finals.config(k) for w, k in zip(content.winners, "bbs", strict=True)] == [True] * 3
    assert content.notes[0] == "row 4, of 3, 4 tokens: b1 +10.0% at 3, +20.0% at 4: chosen"
    assert content.notes[-1].startswith("AITER_CONFIG_FMOE replaces")
