"""Finding an engine's files: installed, in a wheel, in a source tree."""

import zipfile
from pathlib import Path

import pytest

from autotune.engines.shipped import shipped_config
from autotune.engines.source import find_source, open_source
from autotune.errors import UserError


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "sglang-0.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("sglang/a.py", "A = 1\n")
        made.writestr("sglang/deep/b.py", "B = 2\n")
        made.writestr("other/c.py", "C = 3\n")
    return path


def test_a_wheel_is_read_and_unpacked_in_part(wheel: Path, tmp_path: Path) -> None:
    source = open_source("sglang", wheel)
    assert source.text("sglang/a.py") == "A = 1\n"
    assert list(source.names("sglang/deep")) == ["sglang/deep/b.py"]
    root = source.unpack(tmp_path / "out", "sglang/deep")
    assert [p.name for p in root.rglob("*.py")] == ["b.py"]


@pytest.mark.parametrize("below", ["", "python"])
def test_a_source_tree_is_used_where_it_is(below: str, tmp_path: Path) -> None:
    package = tmp_path / below / "sglang"
    package.mkdir(parents=True)
    (package / "a.py").write_text("A = 1\n")
    source = open_source("sglang", tmp_path)
    assert source.root == tmp_path / below
    assert source.unpack(tmp_path / "out", "sglang") == source.root


def test_a_variable_names_it_where_nothing_is_given(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOTUNE_SGLANG_SRC", str(wheel))
    found = find_source("sglang")
    assert found is not None
    assert found.root == wheel


def test_what_is_missing_is_told_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AUTOTUNE_VLLM_SRC", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip download --no-deps vllm"):
        open_source("vllm")
    with pytest.raises(UserError, match="neither a wheel nor a folder"):
        open_source("vllm", tmp_path)


def test_a_file_that_this_version_lacks_is_told(wheel: Path) -> None:
    with pytest.raises(UserError, match=r"has no sglang/none\.py"):
        open_source("sglang", wheel).text("sglang/none.py")


def test_a_config_shipped_for_the_card_is_found_by_dtype_and_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import json

    from autotune.backends.vllm import ROWS
    from autotune.machine.devices import DEVICES
    from autotune.problem.layer import Stage
    from tests.export.winners import KIMI

    folder = tmp_path / "vllm/model_executor/layers/fused_moe/configs"
    folder.mkdir(parents=True)

    def ship(name: str, group: int) -> None:
        entry = {"BLOCK_SIZE_M": 16, "BLOCK_SIZE_N": 64, "GROUP_SIZE_M": group, "waves_per_eu": 0}
        (folder / name).write_text(json.dumps({"triton_version": "3.6.0", "1": entry, "64": entry}))

    ship("E=256,N=256,device_name=AMD_Instinct_MI325X,dtype=int8_w8a8.json", 4)
    ship("E=384,N=256,device_name=AMD_Instinct_MI300X,dtype=int8_w8a8.json", 8)
    ship("E=384,N=256,device_name=AMD_Instinct_MI325X,dtype=fp8_w8a8.json", 16)
    ship("E=384,N=256,device_name=NVIDIA_H100_80GB_HBM3,dtype=int8_w8a8.json", 32)
    monkeypatch.setenv("AUTOTUNE_VLLM_SRC", str(tmp_path))
    shipped_config.cache_clear()
    found = shipped_config(ROWS[0], KIMI, 4, Stage.STAGE1, DEVICES["mi325x"])
    assert found is not None
    assert dict(found) == {"tile_m": 16, "tile_n": 64, "group_m": 4, "waves_per_eu": None}
    other = shipped_config(ROWS[0], KIMI, 4, Stage.STAGE1, DEVICES["mi308x"])
    assert other is None
    for damage in (b"{", b"\xff", b"[" * 100_000):
        shipped_config.cache_clear()
        (folder / "E=256,N=256,device_name=AMD_Instinct_MI325X,dtype=int8_w8a8.json").write_bytes(damage)
        with pytest.raises(UserError, match=r"has a damaged .*E=256,N=256.*: install it again"):
            shipped_config(ROWS[0], KIMI, 4, Stage.STAGE1, DEVICES["mi325x"])
    shipped_config.cache_clear()
