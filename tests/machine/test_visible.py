"""GPUs by their index among the visible ones."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.errors import UserError
from autotune.machine.probe import DEVICE, answers_kept, know
from autotune.machine.visible import (
    SEEN,
    VARIABLES,
    count_visible,
    environment_of,
    known_of,
    parse_devices,
    show_only,
)


def test_an_index_counts_what_each_variable_shows() -> None:
    shown = {"CUDA_VISIBLE_DEVICES": "GPU-a, GPU-b", "HIP_VISIBLE_DEVICES": "", "ROCR_VISIBLE_DEVICES": "4,5"}
    # What ROCR_VISIBLE_DEVICES leaves is what the others count: it is not touched.
    second = environment_of(1, environment=shown)
    assert second == {"CUDA_VISIBLE_DEVICES": "GPU-b", "HIP_VISIBLE_DEVICES": "1"}
    with pytest.raises(UserError, match="GPU 2 is not visible, CUDA_VISIBLE_DEVICES shows 2: use 0 to 1"):
        environment_of(2, environment=shown)


def test_of_several_the_chosen_ones_are_visible_and_count_from_0(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    show_only([3, 1])
    assert environment_of(0)["CUDA_VISIBLE_DEVICES"] == "7"
    assert environment_of(1) == {"CUDA_VISIBLE_DEVICES": "5", "HIP_VISIBLE_DEVICES": "1"}


@pytest.mark.parametrize("text", ["", "a", "0,", "0,,1", "-1", "0 1", "²", "ALL", "0,0", "1,2,1"])
def test_what_is_no_list_of_gpus_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="--devices"):
        parse_devices(text)


@given(st.lists(st.integers(0, 99), min_size=1, unique=True))
def test_every_list_of_unlike_indices_is_read(indices: list[int]) -> None:
    assert parse_devices(", ".join(map(str, indices))) == tuple(indices)


def test_all_is_every_gpu() -> None:
    assert parse_devices("all") is None


def test_what_is_known_of_all_gpus_need_not_be_asked_of_some() -> None:
    devices: list[dict[str, Any]] = [{"name": name} for name in "abc"]
    with answers_kept():
        assert known_of((0,)) == {}
        know({DEVICE: devices[0]})
        assert known_of((0,)) == {DEVICE: devices[0]}
        assert known_of((1,)) == {}
        know({SEEN: {"devices": devices}})
        assert known_of((2, 0)) == {DEVICE: devices[2], SEEN: {"devices": [devices[2], devices[0]]}}
        assert count_visible() == 3
