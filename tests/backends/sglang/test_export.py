"""SGLang's files: names, folders and bodies. `tests/verify` checks them with SGLang's own code."""

import json

import pytest

from autotune.backends.sglang.export import SglangKey, sglang_content, triton_folder
from autotune.engines.moe import Quantisation
from autotune.errors import UserError
from autotune.protocol.exporter import Place
from autotune.results import LayerConfig
from tests.export.winners import KIMI, config, winner

INT8 = Quantisation("int8_w8a8", per_channel=True)
FP8_BLOCK = Quantisation("fp8_w8a8", (128, 128))
INT4 = Quantisation("int4_w4a16", (0, 32))
PLACE = Place("/opt/bundle")


def default(tokens: int) -> LayerConfig:
    small, large = config(), config(tile_m=64, tile_n=64, tile_k=32, group_m=8)
    return LayerConfig(small, small) if tokens <= 384 else LayerConfig(large, large)


def test_the_block_shape_keeps_its_blank() -> None:
    name = SglangKey.of(KIMI, FP8_BLOCK, "NVIDIA H200").file_name(down=False)
    assert name == "E=384,N=256,device_name=NVIDIA_H200,dtype=fp8_w8a8,block_shape=[128, 128].json"


def test_stage_2_has_its_own_file() -> None:
    key = SglangKey.of(KIMI, INT8, "AMD Instinct MI325X")
    stem = "E=384,N=256,device_name=AMD_Instinct_MI325X,dtype=int8_w8a8,per_channel_quant=True"
    assert key.file_name(down=False) == f"{stem}.json"
    assert key.file_name(down=True) == f"{stem}_down.json"


def test_int4_is_named_by_its_packed_width_and_without_its_groups() -> None:
    name = SglangKey.of(KIMI, INT4, "AMD Instinct MI325X").file_name(down=False)
    assert name == "E=384,N=128,device_name=AMD_Instinct_MI325X,dtype=int4_w4a16.json"


def test_bfloat16_has_no_dtype() -> None:
    name = SglangKey.of(KIMI, Quantisation(None), "NVIDIA H200").file_name(down=False)
    assert name == "E=384,N=256,device_name=NVIDIA_H200.json"


def test_the_folder_is_the_public_version_of_triton() -> None:
    assert triton_folder("3.6.0") == "configs/triton_3_6_0"
    assert triton_folder("3.6.0+gitabc") == "configs/triton_3_6_0"


@pytest.mark.parametrize("version", ["", "main", "3.6.0rc1"])
def test_a_version_that_sglang_could_not_search_for_is_refused(version: str) -> None:
    with pytest.raises(UserError, match="--triton-version"):
        triton_folder(version)


def test_both_files_are_always_written_and_the_configs_level_is_there() -> None:
    made = sglang_content([winner(4, {"tile_n": 64})], INT8, default, PLACE)
    stem = (
        "sglang/configs/triton_3_6_0/"
        "E=384,N=256,device_name=AMD_Instinct_MI325X,dtype=int8_w8a8,per_channel_quant=True"
    )
    assert list(made.files) == [f"{stem}.json", f"{stem}_down.json"]
    assert made.variables == {"SGLANG_MOE_CONFIG_DIR": "/opt/bundle/sglang"}


def test_bodies_hold_whole_numbers_under_whole_number_keys_and_nothing_else() -> None:
    made = sglang_content([winner(4, {"num_warps": 2})], INT8, default, PLACE)
    for text in made.files.values():
        body = json.loads(text)
        assert list(body) == sorted(body, key=int)
        assert "triton_version" not in body
        for entry in body.values():
            assert all(type(value) is int for value in entry.values())
            assert "SPLIT_K" not in entry


def test_an_unset_knob_is_left_out() -> None:
    made = sglang_content([winner(4)], INT8, default, PLACE)
    body = json.loads(next(iter(made.files.values())))
    assert body["4"] == {"BLOCK_SIZE_M": 16, "BLOCK_SIZE_N": 32, "BLOCK_SIZE_K": 64, "GROUP_SIZE_M": 1}


def test_the_stages_keep_their_own_configs() -> None:
    made = sglang_content([winner(4, {"tile_n": 64}, {"tile_n": 128})], INT8, default, PLACE)
    up, down = (json.loads(text)["4"] for text in made.files.values())
    assert (up["BLOCK_SIZE_N"], down["BLOCK_SIZE_N"]) == (64, 128)


def test_unlike_block_sizes_are_refused() -> None:
    with pytest.raises(UserError, match="share one sort"):
        sglang_content([winner(4, {"tile_m": 32})], INT8, default, PLACE)


def test_a_rocm_knob_is_refused_for_another_card() -> None:
    odd = winner(4, {"waves_per_eu": 2}, arch="sm_90", device="NVIDIA H100 80GB HBM3")
    with pytest.raises(UserError, match="waves_per_eu"):
        sglang_content([odd], INT8, default, PLACE)


def test_a_card_without_a_name_asks_for_one() -> None:
    for device in ("", "offline:mi325x"):
        with pytest.raises(UserError, match="--device-name"):
            sglang_content([winner(4, device=device)], INT8, default, PLACE)


def test_the_users_names_go_before_the_measured_ones() -> None:
    place = Place("/b", device_name="AMD Radeon Graphics", triton_version="3.5.1")
    made = sglang_content([winner(4)], INT8, default, place)
    assert next(iter(made.files)).startswith(
        "sglang/configs/triton_3_5_1/E=384,N=256,device_name=AMD_Radeon_Graphics,"
    )


def test_the_preview_says_which_key_serves_which_tokens() -> None:
    made = sglang_content([winner(4, {"tile_n": 64})], INT8, default, PLACE)
    rows = {row.tokens: (row.key, row.source) for row in made.previews[0].rows}
    assert rows[4] == (4, "tuned")
    assert rows[5] == (4, "tuned")
    assert rows[7] == (8, "engine's default")
    assert rows[4096] == (4096, "engine's default")
