"""vLLM's file: name, folder and body. `tests/verify` checks it with vLLM's own code."""

import json

import pytest

from autotune.backends.vllm.export import VllmKey, vllm_content
from autotune.engines.moe import Quantisation
from autotune.errors import UserError
from autotune.protocol.exporter import Place
from autotune.results import LayerConfig
from tests.export.winners import KIMI, config, winner

INT8 = Quantisation("int8_w8a8")
INT4 = Quantisation("int4_w4a16", (0, 32))
PLACE = Place("/opt/bundle")


def default(tokens: int) -> LayerConfig:
    return LayerConfig(config(), config())


def test_the_block_shape_has_no_blank() -> None:
    key = VllmKey.of(KIMI, Quantisation("fp8_w8a8", (128, 128)), "AMD_Instinct_MI325X")
    assert (
        key.file_name()
        == "E=384,N=256,device_name=AMD_Instinct_MI325X,dtype=fp8_w8a8,block_shape=[128,128].json"
    )


@pytest.mark.parametrize(
    ("device", "named"),
    [
        ("NVIDIA H200", "NVIDIA_H200"),
        ("NVIDIA H200 NVL", "NVIDIA_H200"),
        ("NVIDIA H100 80GB HBM3", "NVIDIA_H100_80GB_HBM3"),
        ("AMD Radeon Graphics / odd", "AMD_Radeon_Graphics_odd"),
    ],
)
def test_device_names(device: str, named: str) -> None:
    assert f"device_name={named}," in VllmKey.of(KIMI, INT8, device).file_name()


def test_int4_is_named_by_its_unpacked_width() -> None:
    assert VllmKey.of(KIMI, INT4, "X").file_name() == "E=384,N=256,device_name=X,dtype=int4_w4a16.json"


def test_one_file_in_a_flat_folder() -> None:
    made = vllm_content([winner(4, {"tile_n": 64}, {"tile_n": 64})], INT8, default, PLACE)
    assert list(made.files) == ["vllm/E=384,N=256,device_name=AMD_Instinct_MI325X,dtype=int8_w8a8.json"]
    assert made.variables == {"VLLM_TUNED_CONFIG_FOLDER": "/opt/bundle/vllm"}


def test_grouped_weights_need_split_k_in_every_entry() -> None:
    made = vllm_content([winner(4)], INT4, default, PLACE)
    body = json.loads(next(iter(made.files.values())))
    assert {entry["SPLIT_K"] for entry in body.values()} == {1}


def test_others_do_without() -> None:
    made = vllm_content([winner(4)], INT8, default, PLACE)
    assert "SPLIT_K" not in next(iter(made.files.values()))


def test_one_config_serves_both_stages() -> None:
    with pytest.raises(UserError, match="one file for both"):
        vllm_content([winner(4, {"tile_n": 64}, {"tile_n": 128})], INT8, default, PLACE)
