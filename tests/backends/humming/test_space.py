"""The spaces against humming itself: its rules, its sum of shared memory, its own choice. No GPU."""

import random
from collections.abc import Iterator
from contextlib import suppress

import pytest
import torch

pytest.importorskip("humming")

from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.backends.humming import backend as backend_module
from autotune.backends.humming import library
from autotune.backends.humming.backend import HummingBackend, kernel_arguments, kernel_class
from autotune.backends.humming.knobs import config_of, entry
from autotune.backends.humming.rows import ROWS, Row
from autotune.backends.humming.shared_memory import shared_memory_rules
from autotune.errors import UserError
from autotune.machine.devices import DEVICES
from autotune.problem.layer import Layer, Stage
from autotune.protocol.backend import CompileRefused, remedy
from autotune.space.config import Config
from autotune.space.space import BoundSpace
from tests.export.winners import KIMI

H100 = DEVICES["h100"]
ODD = Layer("odd", model_dim=2048, inter_dim=384, experts=60, top_k=4, tp=1)  # both N are filled up
STRICTER = {
    "rows-that-occur",  # legal, but mostly padding
    "rows-of-mma",
    "rows-of-wgmma",  # humming leaves these to its compiler
    "swizzle",
    "producer-is-there",  # has no effect
    "shared-memory-of-all",  # humming's tuner has it, its kernel does not ask
}
CASES = [(row, layer, stage) for row in ROWS for layer in (KIMI, ODD) for stage in Stage]
every_case = pytest.mark.parametrize(
    ("row", "layer", "stage"), CASES, ids=[f"{row.name}-{layer.model}-{stage}" for row, layer, stage in CASES]
)


def space_of(row: Row, layer: Layer, stage: Stage, tokens: int = 160) -> BoundSpace:
    return HummingBackend(row).space(layer, tokens, stage, H100)


def drawn(space: BoundSpace, seed: int) -> Iterator[Config]:
    """Legal configs and their neighbours, legal or not."""
    rng = random.Random(seed)
    for _ in range(20):
        config = space.sample(rng)
        yield config
        for param in rng.sample(space.params, 4):
            yield config.replaced(**{param.name: rng.choice(param.values)})


def refusal(row: Row, layer: Layer, stage: Stage, config: Config) -> str | None:
    """Why humming refuses a config; None: it takes it."""
    try:
        kernel = kernel_class(compiling=False)(**kernel_arguments(row, layer, stage, config))
    except (AssertionError, ValueError, ZeroDivisionError) as error:
        return f"{type(error).__name__} {error}"
    return "shared memory" if kernel.estimated_smem_size > H100.lds_bytes else None


@every_case
def test_the_rules_are_humming_s_own(row: Row, layer: Layer, stage: Stage) -> None:
    space = space_of(row, layer, stage)
    for config in drawn(space, seed=1):
        rule, theirs = space.broken_rule(config), refusal(row, layer, stage, config)
        if rule is None:
            assert theirs is None, config
        elif rule.name not in STRICTER:
            assert theirs is not None, (rule.name, config)


@every_case
def test_the_rule_on_shared_memory_adds_up_what_humming_adds_up(row: Row, layer: Layer, stage: Stage) -> None:
    space, (rule, _) = space_of(row, layer, stage), shared_memory_rules(row)
    for config in drawn(space, seed=2):
        if refusal(row, layer, stage, config) not in (None, "shared memory"):
            continue
        size = kernel_class(compiling=False)(
            **kernel_arguments(row, layer, stage, config)
        ).estimated_smem_size
        fits = {**space._variables, **config, "lds_bytes": size}
        assert rule.require(fits)
        assert not rule.require({**fits, "lds_bytes": size - 1})


@every_case
def test_the_default_is_the_kernel_of_humming_s_own_choice(row: Row, layer: Layer, stage: Stage) -> None:
    kernel = kernel_class(compiling=False)
    for tokens in (1, 2, 3, 4, 8, 40, 160, 320):
        space = space_of(row, layer, stage, tokens)
        assert space.is_legal(space.default), (tokens, space.broken_rule(space.default))
        own = library.heuristic(row, layer, stage, tokens * layer.top_k)
        facts = {**library.layer_facts(row, layer, stage), **library.COMPUTE}
        theirs = kernel(**{**facts, **own})
        ours = kernel(**kernel_arguments(row, layer, stage, space.default))
        assert ours.code == theirs.code
        assert ours.kernel_expr == theirs.kernel_expr


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_config_and_humming_s_entry_are_one_made_of_the_other(row: Row) -> None:
    for config in drawn(space_of(row, KIMI, Stage.STAGE1), seed=3):
        assert config_of(entry(config)) == config


def test_an_entry_with_something_that_no_knob_sets_is_refused() -> None:
    library.without_gpu(H100)
    own = library.heuristic(ROWS[0], KIMI, Stage.STAGE1, 32)
    for strange in ({"multi_cast_size_a": 2}, {"new_option": True}, {"warp_shape": [4, 64, 32]}):
        with pytest.raises(UserError, match=next(iter(strange))):
            config_of({**own, **strange})


def test_one_binary_serves_every_number_of_tokens_and_only_equal_configs() -> None:
    backend = HummingBackend(ROWS[0])
    default = space_of(ROWS[0], KIMI, Stage.STAGE1).default
    key = backend.artefact_key(KIMI, 4, Stage.STAGE1, default)
    assert key == backend.artefact_key(KIMI, 160, Stage.STAGE1, default)
    others = [default.replaced(pdl=True), default.replaced(num_stages=6)]
    assert len({key, *(backend.artefact_key(KIMI, 4, Stage.STAGE1, other) for other in others)}) == 3
    assert key != backend.artefact_key(KIMI, 4, Stage.STAGE2, default)


class Fails:
    """humming's kernel class where compiling fails: it prints what the compiler said."""

    printed, raised = "", ""

    def __init__(self, **_: object) -> None:
        print(self.printed)
        raise RuntimeError(self.raised)


@pytest.mark.parametrize(
    ("printed", "raised", "reason", "environment"),
    [
        (
            "a.cu(3): error: static assertion failed",
            "NVRTCCompiler failed with exit code 6; logs",
            "static",
            False,
        ),
        ("", "NVRTCCompiler failed with exit code -11; logs", "exit code -11", False),
        ("", "Could not locate the NVRTC library in CUDA path", "NVRTC library", True),
    ],
)
def test_a_failed_compile_is_the_candidate_s_and_a_missing_compiler_the_machine_s(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    printed: str,
    raised: str,
    reason: str,
    environment: bool,
) -> None:
    failing = type("Failing", (Fails,), {"printed": printed, "raised": raised})
    monkeypatch.setattr(backend_module, "kernel_class", lambda: failing)
    default = space_of(ROWS[0], KIMI, Stage.STAGE1).default
    with pytest.raises(CompileRefused, match=reason) as refused:
        HummingBackend(ROWS[0]).compile(KIMI, 4, Stage.STAGE1, default, H100)
    assert capsys.readouterr().out == ""
    assert (remedy(str(refused.value)) is not None) == environment


def test_another_gpu_is_refused_in_a_sentence() -> None:
    with pytest.raises(UserError, match=r"compute capability 9.0 \(H100, H200\), not for mi325x"):
        HummingBackend(ROWS[0]).space(KIMI, 4, Stage.STAGE1, DEVICES["mi325x"])


def test_a_layer_without_whole_groups_is_refused_with_degrees_that_do() -> None:
    wide = next(row for row in ROWS if row.group == 128)
    layer = Layer("glm", model_dim=5120, inter_dim=192, experts=160, top_k=8, tp=8)
    with pytest.raises(UserError, match="K=192 is not a whole number of groups of 128"):
        HummingBackend(wide).space(layer, 4, Stage.STAGE1, H100)


@settings(max_examples=30, deadline=None)
@given(
    row=st.sampled_from(ROWS), model=st.integers(1, 100), inter=st.integers(1, 100), tokens=st.integers(1, 40)
)
def test_a_layout_that_is_not_refused_has_a_kernel(row: Row, model: int, inter: int, tokens: int) -> None:
    layer, spaces = Layer("any", 16 * model, 8 * inter, 16, 2, 1), {}
    with suppress(UserError):
        spaces = {stage: space_of(row, layer, stage, tokens) for stage in Stage}
    if len(spaces) < len(Stage):
        return
    for stage, space in spaces.items():
        assert refusal(row, layer, stage, space.default) is None


def test_layer_configs_are_vllm_s() -> None:
    """As vLLM's quant_key_to_input_schema and compressed-tensors' schema spell the same kinds out."""
    schema, dtypes = library.load("humming.schema"), library.load("humming.dtypes")
    mode = library.load("humming.config").InputQuantizationMode
    library.without_gpu(H100)
    for name, spelled in (
        ("humming_w4a16", schema.HummingInputSchema(input_quant_mode=mode.Disabled)),
        (
            "humming_w4a8",
            schema.HummingInputSchema(
                a_dtype=dtypes.int8,
                input_scale_group_size=0,
                input_scale_dtype=dtypes.float32,
                input_quant_mode=mode.DynamicToken,
            ),
        ),
    ):
        row = next(row for row in ROWS if row.name == name)
        told = schema.HummingWeightSchema(
            b_dtype=dtypes.uint4,
            bs_dtype=dtypes.bfloat16,
            weight_scale_group_size=row.group,
            weight_scale_type="group" if row.group else "channel",
        )
        theirs = library.load("humming.transform").prepare_layer_config(
            shape_n=512, shape_k=7168, weight_schema=told, input_schema=spelled, num_experts=384,
            pad_n_to_multiple=256, pad_k_to_multiple=128, torch_dtype=torch.bfloat16, device=0,
        )  # fmt: skip
        assert theirs.to_str() == library.layer_config(row, KIMI, Stage.STAGE1).to_str()


def test_the_stand_in_answers_what_humming_s_quantisation_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that asked for a space may launch kernels afterwards."""
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    library.without_gpu(H100)
    config, dtypes = library.load("humming.config"), library.load("humming.dtypes")
    problem = config.ProcessInputProblemConfig(
        input_dtype=dtypes.bfloat16, hidden_size=7168, quant_mode="dynamic_token", quant_dtype="int8"
    )
    ranges = library.load("humming.tune.process_input").get_process_input_tuning_intervals(problem)
    assert ranges[0][0] == 0
    assert ranges[-1][1] == 1 << 30
