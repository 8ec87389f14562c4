"""What a layer and a stage launch, in order; humming, the sort and the sum are stood in for. No GPU."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from autotune.backends.humming import glue, library
from autotune.backends.humming import runtime as runtime_module
from autotune.backends.humming.rows import row_of
from autotune.backends.humming.runtime import HummingRuntime
from autotune.measure.machine import CpuMachine
from autotune.measure.workload import make_activations, make_steps
from autotune.problem.layer import Layer, Stage
from autotune.protocol.runtime import LogicalWeights, What
from autotune.results import LayerConfig
from autotune.space.config import Config

LAYER = Layer("tiny", model_dim=256, inter_dim=128, experts=6, top_k=2, tp=1)


def config(block_m: int, *, stream_k: bool = False, block_k: int = 64) -> Config:
    return Config({"block_m": block_m, "block_k": block_k, "stream_k": stream_k})


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was launched, in order."""
    said: list[str] = []

    class Order:
        def __init__(self, slots: int, experts: int, block: int, device: str) -> None:
            self.block = block
            self.sorted_ids = self.block_experts = self.padded_rows = torch.zeros(1, dtype=torch.int32)

        def fill(self, ids: torch.Tensor) -> None:
            said.append(f"sort into {self.block}")

    def process(x: torch.Tensor, **asked: Any) -> None:
        said.append("activate and quantise" if asked.get("quant_mode") else "activate")

    def launch(**asked: Any) -> None:
        said.append(f"gemm of {asked['inputs'].dtype} top_k={asked['top_k']} rows={asked['valid_shape_m']}")

    modules = {
        "humming.ops": SimpleNamespace(process_input=process, launch_kernel=launch),
        "humming.forward": SimpleNamespace(may_process_input=lambda *_, **__: said.append("quantise")),
    }
    monkeypatch.setattr(library, "load", lambda name="humming": modules[name])
    monkeypatch.setattr(library, "layer_config", lambda *_: None)
    monkeypatch.setattr(glue, "Order", Order)
    monkeypatch.setattr(glue, "weighted_sum", lambda *_: said.append("sum"))
    monkeypatch.setattr(HummingRuntime, "_configs", lambda *_: torch.zeros(4))
    units = SimpleNamespace(multi_processor_count=132)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: units)
    return said


def runtime_of(name: str) -> HummingRuntime:
    runtime = HummingRuntime(row_of(name), CpuMachine())
    runtime._layer = LAYER
    runtime.copies = [LogicalWeights(*(torch.zeros(2) for _ in range(4)))]
    return runtime


def launches(runtime: HummingRuntime, what: What, *configs: Config) -> None:
    inputs = make_activations(LAYER, 3, "cpu", 1, runtime.format)
    ids = torch.tensor([[0, 1], [2, 3], [4, 5]], dtype=torch.int32).numpy()
    steps = make_steps(ids[None], torch.zeros(1, dtype=torch.int32).numpy(), "cpu", 1)
    if what is What.LAYER:
        made = runtime.layer(LayerConfig(*configs), inputs, steps)
    else:
        made = runtime.stage(Stage(what.value), configs[0], inputs, steps)
    made[0].run()


def test_a_w4a8_layer_is_what_vllm_runs(events: list[str]) -> None:
    launches(runtime_of("humming_w4a8"), What.LAYER, config(8), config(8))
    assert events == [
        "sort into 8",
        "quantise",
        "gemm of torch.int8 top_k=2 rows=6",
        "activate and quantise",
        "gemm of torch.int8 top_k=1 rows=6",
        "sum",
    ]


def test_what_humming_compiles_around_the_gemms_it_compiles_before_anything_is_measured(
    events: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime_module, "humming_weights", lambda *_: None)
    for name, kernels in (
        ("humming_w4a16", ["activate"]),
        ("humming_w4a8", ["activate", "activate and quantise", "quantise"]),
    ):
        events.clear()
        runtime_of(name).pack(LogicalWeights(*(torch.zeros(2) for _ in range(4))))
        assert sorted(events) == kernels


def test_unlike_blocks_cost_a_second_sort(events: list[str]) -> None:
    launches(runtime_of("humming_w4a16"), What.LAYER, config(16), config(8))
    assert events[:2] == ["sort into 16", "sort into 8"]
    assert events[2:] == [
        "gemm of torch.bfloat16 top_k=2 rows=6",
        "activate",
        "gemm of torch.bfloat16 top_k=1 rows=6",
        "sum",
    ]


@pytest.mark.parametrize(("what", "after"), [(What.STAGE1, "activate"), (What.STAGE2, "sum")])
def test_a_stage_is_its_gemm_and_what_follows_without_the_sort(
    events: list[str], what: What, after: str
) -> None:
    launches(runtime_of("humming_w4a8"), what, config(8))
    assert events[0] == "sort into 8"  # beforehand, when the launch is made
    assert [event.partition(" ")[0] for event in events[1:]] == ["gemm", after]


def test_the_gate_is_told_of_parts_that_are_added_in_bfloat16(events: list[str]) -> None:
    runtime = runtime_of("humming_w4a16")
    assert runtime.path(What.STAGE1, config(8)).slices == 1
    assert runtime.path(What.STAGE1, config(8, stream_k=True)).slices == 4  # 256 / 64
    assert runtime.path(What.STAGE2, config(8, stream_k=True)).slices == 2  # 128 / 64
    both = LayerConfig(config(8, stream_k=True, block_k=16), config(8))
    assert runtime.path(What.LAYER, both).slices == 10  # humming splits no further
    assert not runtime.path(What.LAYER, both).scaled_bf16
    assert runtime_of("humming_w4a8").path(What.STAGE2, config(8)).scaled_bf16
