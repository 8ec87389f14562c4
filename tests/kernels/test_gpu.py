"""The kernels at the real size on a GPU: poisoned outputs, several routings, graph capture."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

# ruff: noqa: E402
from autotune.kernels.config import LayerDims, Stage1Config, Stage2Config
from autotune.kernels.sort import max_blocks, sort_with_torch
from autotune.kernels.tuned import TunedLayer

from .layers import relative_error, routing

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA or ROCm device"),
]
KIMI = LayerDims(7168, 256, 384, 8)
STAGE_BOUND = 2.0**-8  # bfloat16 output: half a unit in the last place, at most

STAGE1 = [
    {"tile_n": 16, "tile_k": 1024, "num_warps": 1, "num_stages": 4},
    {"tile_n": 64, "tile_k": 512, "split_k": 7},
    {"tile_n": 128, "tile_k": 512, "split_k": 2, "group": 4, "num_warps": 8},
    {"tile_n": 32, "tile_k": 512, "num_warps": 2, "requantise": "last"},
    {"tile_n": 64, "tile_k": 512, "split_k": 2, "requantise": "last"},
    {"tile_m": 8, "tile_n": 64, "tile_k": 512},
]
STAGE2 = [
    {"tile_n": 64, "tile_k": 256, "num_stages": 8, "reduce": "loop"},
    {"tile_n": 64, "tile_k": 256, "num_stages": 8, "reduce": "loop", "split_blocks": 3},
    {"tile_n": 128, "tile_k": 128, "reduce": "arrive", "split_k": 2, "group": 4},
    {"tile_n": 128, "tile_k": 256, "reduce": "arrive", "num_warps": 8},
    {"tile_n": 256, "tile_k": 256, "reduce": "arrive", "w_cache": "first"},
    {"tile_n": 256, "tile_k": 256, "reduce": "atomic"},
    {"tile_n": 64, "tile_k": 128, "reduce": "atomic", "split_k": 2},
    {"tile_m": 8, "tile_n": 64, "tile_k": 256, "num_stages": 8, "reduce": "loop", "split_blocks": 2},
    {"tile_m": 8, "tile_n": 128, "tile_k": 256, "reduce": "arrive"},
]


@pytest.fixture(scope="module")
def weights() -> dict[str, "torch.Tensor"]:
    g = torch.Generator("cuda").manual_seed(0)

    def uniform(low: float, high: float, *shape: int) -> "torch.Tensor":
        return torch.rand(shape, device="cuda", generator=g) * (high - low) + low

    def byte(*shape: int) -> "torch.Tensor":
        return torch.randint(-128, 128, shape, dtype=torch.int8, device="cuda", generator=g)

    return {
        "w1": byte(384, 512, 3584),
        "w2": byte(384, 7168, 128),
        "w1_scale": uniform(0.001, 0.005, 384, 512),
        "w2_scale": uniform(0.002, 0.012, 384, 7168),
    }


def stage_error(stage: str, config: dict, weights: dict, tokens: int, kind: str = "uniform") -> float:
    """The worst relative error of 20 launches, one after the other on shared scratch."""
    import triton

    from autotune.kernels import reference
    from autotune.kernels.spec import buffers, compile_kernel, grid, launch, stage_spec

    spec = stage_spec(stage, config, KIMI, "hip" if torch.version.hip else "cuda")
    compiled = compile_kernel(spec, triton.runtime.driver.active.get_current_target())
    shapes = buffers(spec, tokens)
    scratch = {
        name: torch.zeros(shapes[name].shape, dtype=getattr(torch, shapes[name].dtype), device="cuda")
        for name in ("partial", "arrivals", "finished", "q", "scale", "low_sum")
        if name in shapes
    }
    worst = 0.0
    n = "1" if stage == "stage1" else "2"
    rows, width = (tokens, 7168) if stage == "stage1" else (tokens * 8, 256)
    for seed in range(4):
        ids = routing(tokens, 384, 8, seed, kind).cuda()
        blocks = max_blocks(tokens, 8, 384, spec.config.tile_m)
        x = torch.randn(rows, width, device="cuda").bfloat16()
        weight = torch.softmax(torch.randn(tokens, 8, device="cuda"), -1)
        q, scale, low_sum = reference.quantise_reference(x)
        values = {
            "block_expert": torch.empty(blocks, dtype=torch.int32, device="cuda"),
            "block_slots": torch.empty(blocks, spec.config.tile_m, dtype=torch.int32, device="cuda"),
            "valid_blocks": torch.empty(1, dtype=torch.int32, device="cuda"),
        }
        sort_with_torch(**values, topk_ids=ids, experts=384)
        values |= {"a": q, "a_scale": scale, "a_low_sum": low_sum, "tokens": tokens, "topk_weight": weight}
        values["topk_ids"] = ids
        values |= {"w": weights[f"w{n}"], "w_scale": weights[f"w{n}_scale"], **scratch}
        if stage == "stage1":
            expected = reference.stage1_reference(q, scale, weights["w1"], weights["w1_scale"], ids)
        else:
            expected = reference.stage2_reference(q, scale, weights["w2"], weights["w2_scale"], ids, weight)
        outs = [torch.full_like(expected, float("nan"), dtype=torch.bfloat16) for _ in range(5)]
        for out in outs:
            launch(spec, compiled, grid(spec, tokens), {**values, "out": out})
        # A NaN anywhere must come out as the worst error, which max() would hide.
        errors = torch.tensor([relative_error(out, expected) for out in outs])
        worst = max(worst, float(errors.nan_to_num(nan=float("inf")).max()))
        assert not scratch["arrivals"].any()
        if config.get("requantise") == "last":
            assert not scratch["finished"].any()
            quantised = reference.quantise_reference(outs[-1])
            for name, right in zip(("q", "scale", "low_sum"), quantised, strict=True):
                assert torch.equal(scratch[name], right), name
    return worst


@pytest.mark.parametrize("tokens", [1, 4, 8, 40])
@pytest.mark.parametrize("config", STAGE1, ids=str)
def test_stage1(config: dict, tokens: int, weights: dict) -> None:
    if config.get("tile_m") == 8 and tokens > 8:
        pytest.skip("tile_m=8 serves up to 8 tokens")
    assert stage_error("stage1", config, weights, tokens) < STAGE_BOUND


@pytest.mark.parametrize("tokens", [1, 4, 8, 40])
@pytest.mark.parametrize("config", STAGE2, ids=str)
def test_stage2(config: dict, tokens: int, weights: dict) -> None:
    if config["reduce"] == "loop" and tokens > 16:
        pytest.skip("reduce=loop serves up to 16 tokens")
    if config.get("tile_m") == 8 and tokens > 8:
        pytest.skip("tile_m=8 serves up to 8 tokens")
    assert stage_error("stage2", config, weights, tokens) < STAGE_BOUND


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_all_tokens_on_the_same_experts(stage: str, weights: dict) -> None:
    config = {**(STAGE1[1] if stage == "stage1" else STAGE2[2]), "tile_m": 32}
    assert stage_error(stage, config, weights, 40, "same") < STAGE_BOUND


@pytest.mark.parametrize("tokens", [1, 8, 16, 17, 64, 65, 160, 1000, 4096, 16_384])
@pytest.mark.parametrize("kind", ["uniform", "same"])
def test_the_sort_is_the_reference_s(tokens: int, kind: str) -> None:
    """To the last bit, launched again and again: nothing depends on who comes first."""
    import triton

    from autotune.kernels.chain import layer_chain
    from autotune.kernels.spec import compile_kernel, launch

    chain = layer_chain(KIMI, Stage1Config(), Stage2Config(), tokens, "hip" if torch.version.hip else "cuda")
    target = triton.runtime.driver.active.get_current_target()
    ids = torch.rand(tokens, 384).topk(8).indices if kind == "uniform" else torch.arange(8).repeat(tokens, 1)
    tensors = {
        name: torch.zeros(buffer.shape, dtype=getattr(torch, buffer.dtype), device="cuda")
        for name, buffer in chain.scratch.items()
        if name not in ("middle", "partial1", "partial2_float32")
    }
    tensors |= {"topk_ids": ids.int().cuda(), "x": torch.randn(tokens, 7168, device="cuda").bfloat16()}
    expected = {
        name: torch.empty_like(tensors[name]) for name in ("block_expert", "block_slots", "valid_blocks")
    }
    sort_with_torch(**expected, topk_ids=tensors["topk_ids"], experts=384)
    for _ in range(5):
        for name in expected:
            tensors[name].fill_(77)
        for link in chain.links:
            if link.spec.stage in ("prepare", "place"):
                arguments = {argument: tensors[name] for argument, name in link.tensors.items()}
                launch(link.spec, compile_kernel(link.spec, target), link.grid, {**arguments, **link.numbers})
        assert all(torch.equal(tensors[name], expected[name]) for name in expected)
        assert not tensors["arrived"].any()


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"requantise": "last"}, {}),
        ({"prefetch": 512}, {}),
        ({"requantise": "last", "prefetch": 1024}, {}),
        ({"tile_m": 8}, {"tile_m": 8}),
    ],
    ids=str,
)
@pytest.mark.parametrize("tokens", [1, 5, 8])
def test_what_only_saves_time_changes_no_bit(tokens: int, first: dict, second: dict, weights: dict) -> None:
    """Call after call in one graph, each with a routing of its own: nothing is read too early."""
    from autotune.kernels import fused_moe_w4a8

    pdl = None if torch.version.hip or torch.cuda.get_device_capability() < (9, 0) else True
    if pdl is None and {"prefetch", "tile_m"} & first.keys():
        pytest.skip("needs sm_90")
    one = {"tile_n": 32, "tile_k": 512, "num_warps": 2, "pdl": pdl}
    two = {"tile_k": 256, "num_stages": 8, "reduce": "loop", "split_blocks": 2, "pdl": pdl}
    plain = TunedLayer(Stage1Config(**one), Stage2Config(**two))
    other = TunedLayer(Stage1Config(**{**one, **first}), Stage2Config(**{**two, **second}))
    calls = [
        {
            "x": torch.randn(tokens, 7168, device="cuda").bfloat16(),
            **weights,
            "topk_weight": torch.softmax(torch.randn(tokens, 8, device="cuda"), -1),
            "topk_ids": routing(tokens, 384, 8, seed).cuda(),
        }
        for seed in range(8)
    ]
    expected = [fused_moe_w4a8(**call, config=plain) for call in calls]
    fused_moe_w4a8(**calls[0], config=other)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outs = [fused_moe_w4a8(**call, config=other) for call in calls]
    for _ in range(5):
        for out in outs:
            out.fill_(float("nan"))
        graph.replay()
        torch.cuda.synchronize()
        assert all(torch.equal(out, right) for out, right in zip(outs, expected, strict=True))


@pytest.mark.parametrize("pdl", [None, True])
@pytest.mark.parametrize("tokens", [1, 8, 300])
def test_the_layer_in_a_graph(tokens: int, pdl: bool | None, weights: dict) -> None:
    from autotune.kernels import fused_moe_w4a8
    from autotune.kernels.reference import quantise_reference, stage1_reference, stage2_reference

    if pdl and (torch.version.hip or torch.cuda.get_device_capability() < (9, 0)):
        pytest.skip("dependent launch needs sm_90")
    loop = {"reduce": "loop", "split_blocks": 2, "num_stages": 8} if tokens <= 16 else {}
    config = TunedLayer(
        Stage1Config(tile_n=64, tile_k=512, split_k=2, pdl=pdl), Stage2Config(tile_k=256, pdl=pdl, **loop)
    )
    x = torch.randn(tokens, 7168, device="cuda").bfloat16()
    ids = routing(tokens, 384, 8).cuda()
    weight = torch.softmax(torch.randn(tokens, 8, device="cuda"), -1)
    call = {**weights, "topk_weight": weight, "topk_ids": ids}
    fused_moe_w4a8(x, **call, config=config)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outs = [fused_moe_w4a8(x, **call, config=config) for _ in range(3)]
    for seed in (1, 2):  # other routings and inputs through the same graph
        x.copy_(torch.randn(tokens, 7168, device="cuda"))
        ids.copy_(routing(tokens, 384, 8, seed))
        for out in outs:
            out.fill_(float("nan"))
        graph.replay()
        torch.cuda.synchronize()
        q, scale, _ = quantise_reference(x)
        middle = stage1_reference(q, scale, weights["w1"], weights["w1_scale"], ids).bfloat16()
        q, scale, _ = quantise_reference(middle)
        path = stage2_reference(q, scale, weights["w2"], weights["w2_scale"], ids, weight)
        for out in outs:
            # The path's own roundings, and a re-quantised value that a last bit flips now and then.
            assert relative_error(out, path) < 1.25 * STAGE_BOUND


@pytest.mark.parametrize("tokens", [1, 4, 64, 600])
def test_ranks_with_a_share_of_the_experts_sum_up_to_the_layer_in_graphs(weights: dict, tokens: int) -> None:
    from autotune.kernels import fused_moe_w4a8

    g = torch.Generator("cuda").manual_seed(tokens)
    x = torch.randn(tokens, 7168, device="cuda", generator=g).bfloat16()
    ids = routing(tokens, 384, 8, tokens).cuda()
    ids[0] = torch.arange(8, device="cuda")  # nothing of it on the second rank
    weight = torch.rand(tokens, 8, device="cuda", generator=g)
    total = torch.zeros(tokens, 7168, device="cuda")
    for first in (0, 192):
        mine = {name: tensor[first : first + 192] for name, tensor in weights.items()}
        local = torch.where((ids >= first) & (ids < first + 192), ids - first, -1).int()
        call = {**mine, "x": x, "topk_weight": weight, "topk_ids": local, "absent": True}
        fused_moe_w4a8(**call)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = fused_moe_w4a8(**call)
        for _ in range(20):  # each leaves counters and zeros as it found them
            out.fill_(float("nan"))
            graph.replay()
        total += out.float()
    whole = fused_moe_w4a8(x=x, **weights, topk_weight=weight, topk_ids=ids).float()
    assert relative_error(total, whole) < 2 * STAGE_BOUND
