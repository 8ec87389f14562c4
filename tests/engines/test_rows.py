"""A dtype of an engine is a line in `engines.dtypes` and a row in the engine's package; all else follows."""

from collections.abc import Iterator
from typing import cast

import pytest

from autotune.backends import sglang
from autotune.backends.sglang.calls import SGLANG
from autotune.engines.backend import EngineBackend, registrations
from autotune.engines.dtypes import Dtype
from autotune.engines.rows import Row
from autotune.engines.weights import engine_weights
from autotune.kernels.formats import Format
from autotune.machine.devices import DEVICES
from autotune.measure.workload import make_weights
from autotune.problem.layer import Layer, Problem, Stage, WeightBytes
from autotune.protocol import registry
from autotune.protocol.exporter import Place, Request, load_exporter
from autotune.protocol.registry import backend_names, load_backend, named, registration
from autotune.store.store import Store
from tests.export.winners import KIMI, winner

INT4_W4A8 = Dtype("int4_w4a8", weights="int4", activations="int8")
NAME = "sglang_w4a8"


@pytest.fixture
def row(monkeypatch: pytest.MonkeyPatch) -> Iterator[Row]:
    """A dtype that no engine has yet."""
    row = Row(NAME, SGLANG, INT4_W4A8, spaces="sglang_w4a16", per_channel=True)
    monkeypatch.setattr(sglang, "ROWS", (*sglang.ROWS, row))
    monkeypatch.setattr(
        sglang, "REGISTRATIONS", registrations(sglang.__name__, sglang.ROWS, registration("sglang"))
    )
    registry._own.cache_clear()
    yield row
    registry._own.cache_clear()


def test_a_row_is_a_backend_with_a_space_and_a_default(row: Row) -> None:
    assert NAME in backend_names()
    backend = load_backend(NAME)
    assert isinstance(backend, EngineBackend)
    assert backend.name == NAME
    assert {str(scheme) for scheme in backend.computes.schemes} == {
        "int4 weights, a scale per channel, times int8"
    }
    for stage in Stage:
        space = backend.space(KIMI, 4, stage, DEVICES["mi325x"])
        assert space.is_legal(space.default)
    default = backend.default(KIMI, 4, DEVICES["mi325x"])
    assert default == load_backend("sglang_w4a16").default(KIMI, 4, DEVICES["mi325x"])  # of the same spaces


def test_its_file_is_the_one_that_the_engine_looks_for(row: Row) -> None:
    request = Request([winner(4)], load_backend(NAME), cast(Store, None), Place("/opt/bundle"))
    file = next(iter(load_exporter(NAME).content(request).files)).rsplit("/", 1)[1]
    # Two of INT4 share a byte: SGLang looks for the packed width.
    assert file == "E=384,N=128,device_name=AMD_Instinct_MI325X,dtype=int4_w4a8,per_channel_quant=True.json"
    assert row.dtype.switches()["use_int4_w4a8"]
    assert sum(row.dtype.switches().values()) == 1


def test_its_bytes_are_those_of_its_tensors_everywhere(row: Row) -> None:
    assert registration(NAME).weights == WeightBytes(0.5, row=4.0)
    layer = Layer("tiny", model_dim=128, inter_dim=64, experts=3, top_k=2, tp=1)
    copy = engine_weights(make_weights(layer, "cpu", seed=1), row.dtype, Format.INT8)
    tensors = (copy.w1, copy.w2, copy.w1_scale, copy.w2_scale)
    assert row.dtype.weight_bytes.copy(layer) == sum(
        t.numel() * t.element_size() for t in tensors if t is not None
    )
    config = load_backend(NAME).space(KIMI, 1, Stage.STAGE2, DEVICES["mi325x"]).default
    work = load_backend(NAME).work(Problem(KIMI, 1), Stage.STAGE2, config)
    # 8 experts of 7168 rows of 256 INT4 and a scale; 8 rows of 256 INT8; 8 rows of 7168 bfloat16.
    assert work.bytes_moved == pytest.approx(8 * 7168 * (128 + 4) + 8 * 256 + 8 * 7168 * 2)


def test_a_worker_that_knows_only_its_name_finds_its_runtime(row: Row) -> None:
    make = named(load_backend(NAME).runtime)
    assert (make.func.__module__, make.args) == ("autotune.engines.runtime", (NAME,))


@pytest.mark.parametrize(
    "kind", [("fp8", "bf16"), ("bf16", "int8"), ("int4", "int8", 32), ("int4", "bf16", 96)], ids=str
)
def test_a_dtype_that_no_reference_judges_is_refused(kind: tuple[str, str, int]) -> None:
    with pytest.raises(ValueError, match="no reference"):
        Dtype("new", *kind)
