"""Our kernels behind the measurer: through the interpreter at a tiny size, and on a GPU at the real one."""

import subprocess
import sys
import textwrap
from dataclasses import replace
from typing import Any

import pytest

from autotune.measure.confirm import Comparison
from autotune.measure.pool import Measurer
from autotune.measure.settings import MeasureSettings
from autotune.problem.layer import Problem, Stage
from autotune.protocol.registry import weight_bytes
from autotune.results import Failure, Finalist, LayerConfig, Measurement
from autotune.space.space import BoundSpace
from autotune.statistics import Verdict
from tests.spaces import KIMI

SCRIPT = """
    from dataclasses import replace
    from autotune.backends.triton.runtime import make
    from autotune.space.config import Config
    from autotune.measure.gate import Incorrect
    from autotune.protocol.runtime import What
    from autotune.measure.settings import MeasureSettings
    from autotune.measure.worker import Worker
    from autotune.problem.layer import Layer, Problem, Stage
    from autotune.results import LayerConfig

    layer = Layer("tiny", 128, 64, 4, 2, 1)
    problem = Problem(layer, 2)
    worker = Worker("triton", MeasureSettings(steps=4, cold=0.2))
    worker.prepare(layer, [problem])
    one = Config(dict(tile_m=16, tile_n=64, tile_k=64, num_warps=4, num_stages=2))
    print("stage1", worker.check(problem, What.STAGE1, one.replaced(split_k=2)))
    for reduce in ("arrive", "atomic"):
        print("stage2", worker.check(problem, What.STAGE2, one.replaced(reduce=reduce)))
    pair = LayerConfig(one, one.replaced(reduce="loop"))
    print("layer", worker.check(problem, What.LAYER, pair))

    # Every copy of the ring is used, and gives what the reference gives.
    worker.runtime.grow(2)
    work = worker._load().pass_of(problem, 0)
    step = replace(work.steps[-1], copy=1)
    from autotune.measure.gate import check_launches, make_case
    case = make_case("another copy", worker._load().weights, work.inputs, step)
    for what, config in ((What.STAGE1, one), (What.LAYER, pair)):
        launch = worker._bind(what, config, work.inputs, [step])[0]
        print("copy", check_launches([launch], [case], what, worker.runtime.path(what, config)))
    before = worker.runtime.digest()
    worker._load().weights.w2[:, 2] = 0x33
    assert worker.runtime.digest() != before
    try:  # the numbers that a kernel gives with a changed weight are not those of the references
        worker.check(problem, What.STAGE2, one.replaced(reduce="loop"))
        print("missed")
    except Incorrect as error:
        print("caught", error)
"""


SPREAD = """
    from autotune.backends.triton.runtime import make
    from autotune.measure.gate import check_launches, make_cases
    from autotune.measure.workload import make_weights
    from autotune.problem.layer import Layer, Stage
    from autotune.protocol.runtime import What
    from autotune.results import LayerConfig
    from autotune.space.config import Config

    layer = Layer("tiny", 128, 64, 2, 2, 2, ep=2)
    runtime, weights = make(), make_weights(layer, "cpu", 1)
    runtime.prepare(layer, weights)
    one = Config(dict(tile_m=16, tile_n=64, tile_k=64, num_warps=4, num_stages=2))
    for tokens, ways in ((2, ("loop", "arrive", "atomic")), (20, ("arrive", "atomic"))):
        cases = make_cases(layer, weights, tokens, None, 1, "cpu", 3, thorough=False)
        assert any("no expert of this GPU" in case.name for case in cases)
        inputs, steps = cases[0].inputs, [case.step for case in cases]
        for reduce in ways:
            two = one.replaced(reduce=reduce)
            for what, config in ((What.STAGE2, two), (What.LAYER, LayerConfig(one, two))):
                if what is What.LAYER:
                    launches = runtime.layer(config, inputs, steps)
                else:
                    launches = runtime.stage(Stage.STAGE2, config, inputs, steps)
                check_launches(launches, cases, what, runtime.path(what, config))
                print(tokens, reduce, what)
"""


@pytest.mark.slow
def test_no_way_of_summing_up_waits_for_experts_of_other_gpus() -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SPREAD)],
        capture_output=True,
        text=True,
        check=False,
        env={"TRITON_INTERPRET": "1", "PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 10


@pytest.mark.slow
def test_every_path_of_our_kernels_passes_the_gate_in_the_interpreter() -> None:
    """In a process of its own: Triton decides whether it interprets when a kernel is defined."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT)],
        capture_output=True,
        text=True,
        check=False,
        env={"TRITON_INTERPRET": "1", "PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == [
        "stage1",
        *["stage2"] * 2,
        "layer",
        *["copy"] * 2,
        "caught",
    ]


@pytest.fixture(scope="module")
def live() -> Any:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    from autotune.machine.probe import live_device

    return live_device()


def space(stage: Stage, device: Any, tokens: int = 4) -> BoundSpace:
    from autotune.protocol.registry import load_backend

    return load_backend("triton").space(KIMI, tokens, stage, device)


@pytest.mark.gpu
def test_the_defaults_are_right_and_repeat_on_the_gpu(live: Any) -> None:
    problems = [Problem(KIMI, 4), Problem(KIMI, 4, 40)]
    with Measurer("triton", problems) as measurer:
        fingerprint = measurer.fingerprint()
        assert fingerprint.compute_units > 0
        for problem in problems:
            for stage in Stage:
                default = space(stage, live, problem.tokens).default
                first, again = (measurer.submit(problem, stage, default).result() for _ in range(2))
                assert isinstance(first, Measurement), first
                assert isinstance(again, Measurement), again
                assert first.us == pytest.approx(again.us, rel=0.05)  # what two windows differ by
                # It cannot be faster than its bytes at the card's bandwidth, nor sloppier than one rounding.
                floor = weight_bytes("triton").read(problem, stage) / live.bandwidth_bytes_per_s * 1e6
                assert 0.8 * floor < first.us < 100 * floor
                assert 1e-3 < first.error < 2.5e-3
                print(problem.shape, stage, f"{first.us:.2f} us, floor {floor:.2f} us, {first.error:.2e}")


@pytest.mark.gpu
def test_the_driver_needs_no_torch_for_what_its_worker_measures(live: Any) -> None:
    script = f"""
        import sys
        from autotune.machine.devices import Device
        from autotune.measure.pool import Measurer
        from autotune.problem.layer import Layer, Problem, Stage
        from autotune.protocol.registry import load_backend
        if __name__ == "__main__":
            problem = Problem({KIMI!r}, 4)
            default = load_backend("triton").space(problem.layer, 4, Stage.STAGE1, {live!r}).default
            with Measurer("triton", [problem]) as measurer:
                measurer.fingerprint()
                print(measurer.submit(problem, Stage.STAGE1, default).result())
            sys.exit("torch" in sys.modules)
    """
    asked = [sys.executable, "-c", textwrap.dedent(script)]
    told = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout + told.stderr
    assert "Measurement" in told.stdout


@pytest.mark.gpu
def test_cold_is_slower_than_hot_on_the_gpu(live: Any) -> None:
    # 28 MiB of weights, which an H200 reads in half of the kernel's time and each GPU's cache holds.
    problem, default = Problem(KIMI, 2), space(Stage.STAGE1, live, 2).default
    times = []
    for cold in (2.0, 0.0):
        with Measurer("triton", [problem], MeasureSettings(cold=cold)) as measurer:
            result = measurer.submit(problem, Stage.STAGE1, default).result()
            assert isinstance(result, Measurement), result
            times.append(result.us)
    assert times[0] > 1.02 * times[1]


@pytest.mark.gpu
def test_a_final_of_layers_on_the_gpu(live: Any) -> None:
    problem = Problem(KIMI, 4)
    one, two = (space(stage, live).default for stage in Stage)
    with Measurer("triton", [problem], replace(MeasureSettings(), judge_rounds=8)) as measurer:
        same = measurer.compare(problem, LayerConfig(one, two), LayerConfig(one, two))
        assert isinstance(same, Comparison), same
        assert same.verdict is Verdict.SAME
        finalists = [
            Finalist("default", LayerConfig(one, two)),
            Finalist("candidate", LayerConfig(one.replaced(split_k=2), two)),
        ]
        result = measurer.confirm(problem, finalists)
        assert None not in result.errors, result.notes
        layer, first, second = (result.rounds[0].us[0][what] for what in ("layer", "stage1", "stage2"))
        assert layer > 0.9 * (first + second)


@pytest.mark.gpu
@pytest.mark.fault
def test_memory_that_is_taken_is_one_sentence_on_the_gpu(live: Any) -> None:
    import torch

    from autotune.errors import UserError

    held = []
    try:
        # Until no more comes: what an earlier process held is free when the driver has taken it apart.
        while (spare := torch.cuda.mem_get_info()[0] - (1 << 30)) > 1 << 26:
            held.append(torch.empty(spare, dtype=torch.int8, device="cuda"))
        with Measurer("triton", [Problem(KIMI, 4)]) as measurer, pytest.raises(UserError, match="are free"):
            measurer.fingerprint()
    finally:
        held.clear()
        torch.cuda.empty_cache()


FAULTY = "tests.measure.faulty_triton:make"


@pytest.mark.gpu
@pytest.mark.fault
@pytest.mark.parametrize("fault", ["illegal_address", "endless", "out_of_memory", "wrong_tile"])
def test_a_real_fault_on_the_gpu_is_one_failure_and_the_next_is_fine(live: Any, fault: str) -> None:
    problem, default = Problem(KIMI, 4), space(Stage.STAGE1, live).default
    with Measurer(FAULTY, [problem], MeasureSettings(timeout_s=15)) as measurer:
        assert isinstance(measurer.submit(problem, Stage.STAGE1, default).result(), Measurement)
        broken = measurer.submit(problem, Stage.STAGE1, default.replaced(fault=fault)).result()
        assert isinstance(broken, Failure)
        expected = {"endless": "timeout", "wrong_tile": "incorrect"}.get(fault, "runtime_error")
        assert broken.status.value == expected, broken
        after = measurer.submit(problem, Stage.STAGE1, default).result()
        assert isinstance(after, Measurement), after
        assert measurer.restarts == (fault in ("illegal_address", "endless"))
