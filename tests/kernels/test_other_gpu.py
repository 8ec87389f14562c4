"""What was tuned for one GPU is not launched on another, though both run the same code."""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

from autotune.backends.triton.export import operator_json
from autotune.kernels import operator
from autotune.kernels.config import LayerDims
from autotune.kernels.tuned import Gpu, default_config, load_tuned
from autotune.results import LayerConfig
from autotune.space.config import Config
from tests.export.winners import KIMI, winner

DIMS = LayerDims(KIMI.model_dim, KIMI.inter_dim, KIMI.experts, KIMI.top_k)
H100, H200 = Gpu("NVIDIA H100 80GB HBM3", 132), Gpu("NVIDIA H200", 132)
DEFAULT = default_config(4, DIMS, operator.this_arch())
STAGES = 5  # unlike the default's


@pytest.fixture(autouse=True)
def forgotten() -> None:
    """Neither files nor warnings of other tests."""
    load_tuned.cache_clear()
    operator._warn.cache_clear()


def tuned_on(gpu: Gpu, folder: Path) -> Path:
    one = {**vars(DEFAULT.stage1), "num_stages": STAGES}
    won = replace(
        winner(4, backend="triton", device=gpu.name, arch="sm_90", compute_units=gpu.compute_units),
        config=LayerConfig(Config(one), Config(vars(DEFAULT.stage2))),
    )
    path = folder / "moe_w4a8.json"
    path.write_text(operator_json(KIMI, [won]))
    return path


@pytest.mark.parametrize("gpu", [H100, H200])
def test_on_its_own_gpu_the_entry_is_launched(
    gpu: Gpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operator, "this_gpu", lambda: gpu)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chosen = operator.choose_config(DIMS, 4, tuned_on(gpu, tmp_path))
    assert chosen.stage1.num_stages == STAGES


@pytest.mark.parametrize(
    ("tuned", "here"), [(H100, H200), (H200, H100), (H100, replace(H100, compute_units=66))]
)
def test_on_another_the_default_is_and_one_warning_says_so(
    tuned: Gpu, here: Gpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operator, "this_gpu", lambda: here)
    path = tuned_on(tuned, tmp_path)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        chosen = [operator.choose_config(DIMS, 4, path) for _ in range(3)]
    assert chosen == [DEFAULT] * 3
    (warning,) = said
    assert str(warning.message) == (
        f"the built-in default is launched: {path} is for {tuned}, and this is {here}: tune on this GPU"
    )


def test_a_file_that_does_not_say_for_which_gpu_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operator, "this_gpu", lambda: H100)
    path = tuned_on(H100, tmp_path)
    told = json.loads(path.read_text())
    del told["gpu"]
    path.write_text(json.dumps(told))
    with pytest.warns(RuntimeWarning, match="does not say for which GPU: export it again"):
        assert operator.choose_config(DIMS, 4, path) == DEFAULT
