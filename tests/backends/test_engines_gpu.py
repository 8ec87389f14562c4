"""SGLang's and vLLM's own kernels on the GPU of this machine, each dtype's default at a real layer.

Needs the engines' files: see `tests.verify.engines`.
"""

import pytest
import torch

from autotune.backends import sglang, vllm
from autotune.engines.rows import Row
from autotune.engines.source import find_source, source_variable
from autotune.measure.pool import Measurer
from autotune.measure.settings import MeasureSettings
from autotune.problem.layer import Layer, Problem, Stage
from autotune.problem.models import preset
from autotune.protocol.registry import load_backend
from autotune.results import Failure, LayerConfig
from autotune.tuning.targets import resolve_target

KIMI = Layer.of(preset("kimi-k2.5-w4a8"), 8)


@pytest.mark.gpu
@pytest.mark.parametrize("row", [*sglang.ROWS, *vllm.ROWS], ids=lambda row: row.name)
def test_the_default_is_right_on_the_gpu(row: Row) -> None:
    engine = row.engine.name
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    if find_source(engine) is None:
        pytest.skip(f"no {engine} here: set {source_variable(engine)} to its wheel")
    device, backend = resolve_target("live").device, load_backend(row.name)
    # Where vLLM has a CUDA kernel for few tokens, its Triton kernel is asked at many.
    many = backend.name.startswith("vllm_w4a16") and device.runtime == "cuda"
    problem = Problem(KIMI, 8, 40) if many else Problem(KIMI, 4)
    one, two = (backend.space(KIMI, problem.tokens, stage, device).default for stage in Stage)
    with Measurer(backend.runtime, [problem], MeasureSettings(judge_rounds=2)) as measurer:
        for stage, config in ((Stage.STAGE1, one), (Stage.STAGE2, two), (None, LayerConfig(one, two))):
            found = measurer.interval(problem, config, stage)
            assert not isinstance(found, Failure), f"{stage or 'layer'}: {found.reason}"
            us, error = found
            print(f"{backend.name} {problem.shape} {stage or 'layer'}: {us.value:.2f} us, error {error:.2e}")
