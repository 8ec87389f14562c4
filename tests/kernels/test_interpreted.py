"""Every kernel against the float32 reference, on the CPU through Triton's interpreter.

The interpreter is chosen when Triton is imported, and other tests compile: so this file runs itself in a
process of its own. Bounds: integer results are equal, and float32
ones to a few units in the last place, so a stage is as far from its reference as its bfloat16 output makes
it.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

if not INTERPRETED:

    @pytest.mark.slow
    def test_kernels_in_the_interpreter(tmp_path: Path) -> None:
        environment = {**os.environ, "TRITON_INTERPRET": "1"}
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", __file__]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        assert " passed" in done.stdout

else:
    import torch
    from hypothesis import given, settings
    from hypothesis import strategies as st

    from autotune.errors import UserError
    from autotune.kernels import fused_moe_w4a8
    from autotune.kernels.chain import layer_chain, quantise_spec
    from autotune.kernels.config import LayerDims, Stage1Config, Stage2Config
    from autotune.kernels.reference import (
        layer_reference,
        quantise_reference,
        stage1_reference,
        stage2_reference,
    )
    from autotune.kernels.sort import plan, sort_with_torch
    from autotune.kernels.spec import buffers, grid, launch, stage_spec
    from autotune.kernels.tuned import TunedLayer

    from .layers import Layer, layer, relative_error, routing

    # The interpreter cuts a float32 off to bfloat16, a GPU rounds: up to a whole unit in the last place here.
    STAGE_BOUND = 2.0**-8

    def sort(ids: torch.Tensor, experts: int, tile_m: int) -> dict[str, torch.Tensor]:
        """By the kernels; arrays poisoned first."""
        tokens, top_k = ids.shape
        one, two = Stage1Config(tile_m=tile_m, tile_n=16, tile_k=64), Stage2Config(tile_m=tile_m, tile_k=64)
        chain = layer_chain(LayerDims(64, 64, experts, top_k), one, two, tokens, "cuda")
        tensors = {
            name: torch.full(buffer.shape, 0 if buffer.zeroed else 77, dtype=getattr(torch, buffer.dtype))
            for name, buffer in chain.scratch.items()
        }
        tensors |= {"topk_ids": ids, "x": torch.zeros(tokens, 64).bfloat16()}
        for link in chain.links:
            if link.spec.stage in ("prepare", "place"):
                values = {name: tensors[tensor] for name, tensor in link.tensors.items()}
                programs = link.grid
                if link.spec.stage == "prepare":  # the sort's and one token's: the interpreter is slow
                    programs = (plan(tokens, top_k, experts).programs + 1, 1, 1)
                launch(link.spec, None, programs, {**values, **link.numbers})
        assert not tensors["arrived"].any()
        return {name: tensors[name] for name in ("block_expert", "block_slots", "valid_blocks")}

    def check_sort(ids: torch.Tensor, experts: int, tile_m: int) -> None:
        """Blocks ascend by expert, each slot has one row of its expert, padding and the rest are -1."""
        out = sort(ids, experts, tile_m)
        valid = int(out["valid_blocks"])
        expert, slots = out["block_expert"], out["block_slots"]
        assert (expert[:valid].diff() >= 0).all()
        assert (expert[:valid] >= 0).all()
        assert (expert[valid:] == -1).all()
        assert (slots[valid:] == -1).all()
        assert (slots[:valid] >= 0).any(dim=1).all(), "a block without a slot"
        real = slots[slots >= 0]
        flat = ids.reshape(-1)
        wanted = torch.nonzero((flat >= 0) & (flat < experts)).int().flatten()
        assert torch.equal(real.sort().values, wanted)
        owner = expert[:, None].expand_as(slots)[slots >= 0]
        assert torch.equal(owner, flat[real.long()])
        for each in expert[:valid].unique():
            # By token, or without gaps in the order of the slots.
            rows = slots[:valid][expert[:valid] == each].flatten()
            mine = rows[rows >= 0]
            if len(ids) <= 16:
                assert torch.equal(torch.nonzero(rows >= 0).flatten(), mine.long() // ids.shape[1])
            else:
                assert torch.equal(rows[: len(mine)], mine.sort().values)

    @pytest.mark.parametrize("kind", ["uniform", "same"])
    @pytest.mark.parametrize(
        ("tokens", "experts", "top_k", "tile_m", "way"),
        [
            (1, 8, 2, 16, "token"),
            (5, 12, 3, 16, "token"),
            (16, 40, 8, 16, "token"),
            (17, 40, 8, 16, "alone"),
            (40, 10, 4, 16, "alone"),
            (64, 33, 8, 64, "alone"),
            (65, 33, 8, 16, "count"),
            (257, 33, 8, 32, "count"),
            (300, 384, 8, 16, "count"),
            (800, 20, 8, 64, "count"),
        ],
    )
    def test_the_sort_is_the_reference_s(
        tokens: int, experts: int, top_k: int, tile_m: int, way: str, kind: str
    ) -> None:
        assert plan(tokens, top_k, experts).way == way
        ids = routing(tokens, experts, top_k, kind=kind)
        check_sort(ids, experts, tile_m)
        out = sort(ids, experts, tile_m)
        same = {name: torch.empty_like(tensor) for name, tensor in out.items()}
        sort_with_torch(**same, topk_ids=ids, experts=experts)
        assert all(torch.equal(same[name], out[name]) for name in out)

    @settings(max_examples=30, deadline=None)
    @given(st.data())
    def test_any_ids_are_sorted(data: st.DataObject) -> None:
        """Whole tokens on one expert, experts without tokens, ids that name no expert."""
        tokens, top_k = data.draw(st.sampled_from([1, 7, 16, 17, 33, 100, 700])), data.draw(st.integers(1, 5))
        experts = data.draw(st.integers(top_k, 50))
        seed = data.draw(st.integers(0, 99))
        spread = data.draw(st.sampled_from(["uniform", "same", "any"]))
        if tokens <= 16 or spread != "any":  # few tokens have a row each: there experts of a token differ
            ids = routing(tokens, experts, top_k, seed, spread)
        else:
            g = torch.Generator().manual_seed(seed)
            most = data.draw(st.integers(1, experts + 2))
            ids = (torch.randint(0, most, (tokens, top_k), generator=g) - 1).int()
        check_sort(ids, experts, data.draw(st.sampled_from([16, 32, 64])))

    @pytest.mark.parametrize("seed", range(20))
    @pytest.mark.parametrize("width", [64, 72, 256])
    def test_quantisation_equals_the_reference(width: int, seed: int) -> None:
        """To the last bit: values next to a rounding tie are common among ratios of bfloat16 numbers."""
        x = torch.randn(5, width, generator=torch.Generator().manual_seed(seed)).bfloat16()
        x[2] = 0
        x[3, 7] = 1000.0
        q = torch.full((5, width), 99, dtype=torch.int8)
        scale, low_sum = torch.empty(5), torch.empty(5, dtype=torch.int32)
        spec = quantise_spec(width, LayerDims(width, width, 4, 2), "cuda")
        launch(spec, None, (5, 1, 1), {"q": q, "scale": scale, "low_sum": low_sum, "x": x})
        expected = quantise_reference(x)
        assert torch.equal(q, expected[0])
        torch.testing.assert_close(scale, expected[1], rtol=1e-6, atol=0)
        assert torch.equal(low_sum, expected[2])

    def run_stage(
        stage: str, config: dict, a: Layer, tokens: int, dims: LayerDims
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(out, reference) of a stage, outputs poisoned; scratch must be left as zeros."""
        spec = stage_spec(stage, config, dims, "cuda")
        shapes = buffers(spec, tokens)
        x = a["x"] if stage == "stage1" else torch.randn(tokens * dims.top_k, dims.inter_dim).bfloat16()
        q, scale, low_sum = quantise_reference(x)
        n = "1" if stage == "stage1" else "2"
        values = {
            **sort(a["topk_ids"], dims.experts, spec.config.tile_m),
            "a": q,
            "a_scale": scale,
            "a_low_sum": low_sum,
            "w": a[f"w{n}"],
            "w_scale": a[f"w{n}_scale"],
            "topk_weight": a["topk_weight"].reshape(-1),
            "topk_ids": a["topk_ids"],
            "tokens": tokens,
            "out": torch.full(shapes["out"].shape, float("nan"), dtype=torch.bfloat16),
        }
        scratch = {}
        for name in ("partial", "arrivals", "finished", "q", "scale", "low_sum"):
            if name in spec.run_time:
                fill = 0 if shapes[name].zeroed else 77
                scratch[name] = torch.full(shapes[name].shape, fill, dtype=getattr(torch, shapes[name].dtype))
        for _ in range(2):  # twice: the second launch finds what the first left behind
            values["out"].fill_(float("nan"))
            launch(spec, None, grid(spec, tokens), {**values, **scratch})
        for name, tensor in scratch.items():
            assert not shapes[name].zeroed or not tensor.any(), f"{name} was not left as zeros"
        if getattr(spec.config, "requantise", "launch") == "last":
            rows = quantise_reference(values["out"])
            assert all(
                torch.equal(scratch[name], row)
                for name, row in zip(("q", "scale", "low_sum"), rows, strict=True)
            )
        if stage == "stage1":
            return values["out"], stage1_reference(q, scale, a["w1"], a["w1_scale"], a["topk_ids"])
        reference = stage2_reference(q, scale, a["w2"], a["w2_scale"], a["topk_ids"], a["topk_weight"])
        return values["out"], reference

    STAGE1 = [
        {"tile_n": 32, "tile_k": 64},
        {"tile_n": 16, "tile_k": 128, "split_k": 2},
        {"tile_n": 64, "tile_k": 64, "split_k": 4, "group": 4},
        {"tile_m": 32, "tile_n": 32, "tile_k": 256, "w_cache": "first"},
        {"tile_n": 32, "tile_k": 64, "requantise": "last"},
        {"tile_n": 32, "tile_k": 64, "split_k": 2, "requantise": "last"},
    ]

    @pytest.mark.parametrize("config", STAGE1, ids=str)
    @pytest.mark.parametrize(("tokens", "kind"), [(3, "uniform"), (20, "same")])
    def test_stage1(config: dict, tokens: int, kind: str) -> None:
        dims = LayerDims(256, 64, 8, 3)
        out, reference = run_stage("stage1", config, layer(tokens, 256, 64, 8, 3, kind=kind), tokens, dims)
        assert relative_error(out, reference) < STAGE_BOUND

    @pytest.mark.parametrize(
        "config",
        [
            {"tile_n": 32, "tile_k": 64, "split_k": 2},
            {"tile_n": 32, "tile_k": 512},
            {"tile_m": 8, "tile_n": 32, "tile_k": 64, "requantise": "last"},
        ],
        ids=str,
    )
    def test_stage1_where_no_tile_divides(config: dict) -> None:
        dims = LayerDims(200, 72, 6, 2)
        out, reference = run_stage("stage1", config, layer(5, 200, 72, 6, 2), 5, dims)
        assert relative_error(out, reference) < STAGE_BOUND

    STAGE2 = [
        {"tile_n": 32, "tile_k": 64, "reduce": "arrive"},
        {"tile_n": 64, "tile_k": 64, "reduce": "arrive", "split_k": 2, "group": 4},
        {"tile_n": 32, "tile_k": 64, "reduce": "arrive", "partials": "bfloat16"},
        {"tile_n": 64, "tile_k": 128, "reduce": "atomic"},
        {"tile_n": 32, "tile_k": 64, "reduce": "loop"},
        {"tile_n": 64, "tile_k": 128, "reduce": "loop", "split_blocks": 3},
    ]

    @pytest.mark.parametrize("config", STAGE2, ids=str)
    @pytest.mark.parametrize(("tokens", "kind"), [(16, "same"), (20, "uniform")])
    def test_stage2(config: dict, tokens: int, kind: str) -> None:
        if config["reduce"] == "loop" and tokens > 16:
            pytest.skip("reduce=loop serves up to 16 tokens")
        dims = LayerDims(128, 128, 8, 3)
        out, reference = run_stage("stage2", config, layer(tokens, 128, 128, 8, 3, kind=kind), tokens, dims)
        # Parts that are cut off to bfloat16 lose as much again.
        roundings = 2 if config.get("partials") == "bfloat16" else 1
        assert relative_error(out, reference) < roundings * STAGE_BOUND

    @pytest.mark.parametrize("config", STAGE2, ids=str)
    def test_stage2_where_no_tile_divides(config: dict) -> None:
        dims = LayerDims(200, 72, 6, 2)
        out, reference = run_stage("stage2", config, layer(5, 200, 72, 6, 2), 5, dims)
        # Parts that are cut off to bfloat16 lose as much again.
        roundings = 2 if config.get("partials") == "bfloat16" else 1
        assert relative_error(out, reference) < roundings * STAGE_BOUND

    def simulated(a: Layer) -> torch.Tensor:
        """The layer with the one rounding that the operator has inside: the intermediate, cut to bfloat16."""
        q, scale, _ = quantise_reference(a["x"])
        middle = stage1_reference(q, scale, a["w1"], a["w1_scale"], a["topk_ids"])
        middle = (middle.view(torch.int32) & -65536).view(torch.float32)
        q, scale, _ = quantise_reference(middle)
        return stage2_reference(q, scale, a["w2"], a["w2_scale"], a["topk_ids"], a["topk_weight"])

    @pytest.mark.parametrize("tokens", [1, 20])
    def test_the_whole_layer(tokens: int) -> None:
        a = layer(tokens, 256, 64, 8, 3)
        out = fused_moe_w4a8(**a)
        # The path's own roundings; an intermediate one ulp aside flips a quantised value now and then.
        assert relative_error(out, simulated(a)) < 2 * STAGE_BOUND
        # Against no rounding inside: the re-quantisation flips more; measured bounds of the simulation.
        path = relative_error(simulated(a), layer_reference(**a))
        assert relative_error(out, layer_reference(**a)) < 1.5 * path + STAGE_BOUND

    ARRIVE = {"tile_n": 64, "tile_k": 64, "reduce": "arrive"}

    @pytest.mark.parametrize(
        ("tokens", "stage2"),
        [
            (5, {**ARRIVE, "reduce": "loop"}),
            (5, ARRIVE),
            (20, ARRIVE),
            (20, {**ARRIVE, "partials": "bfloat16"}),
            (20, {**ARRIVE, "reduce": "atomic"}),
        ],
    )
    def test_ranks_with_a_share_of_the_experts_sum_up_to_the_layer(tokens: int, stage2: dict) -> None:
        a = layer(tokens, 256, 64, 8, 3)
        a["topk_ids"][0] = torch.tensor([5, 6, 7])  # nothing of it on the first rank
        config = TunedLayer(Stage1Config(tile_n=64, tile_k=64), Stage2Config(**stage2))
        total = torch.zeros(tokens, 256)
        for first in (0, 4):
            mine = {name: a[name][first : first + 4] for name in ("w1", "w2", "w1_scale", "w2_scale")}
            ids = torch.where(
                (a["topk_ids"] >= first) & (a["topk_ids"] < first + 4), a["topk_ids"] - first, -1
            )
            for _ in range(2):  # counters and zeros are as they were after a call
                part = fused_moe_w4a8(**{**a, **mine, "topk_ids": ids}, config=config, absent=True)
            assert first or not part[0].any()
            total += part.float()
        assert relative_error(total, simulated(a)) < 4 * STAGE_BOUND

    def test_the_operator_takes_its_config_from_the_file(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        knobs = TunedLayer(
            Stage1Config(tile_n=32, tile_k=64, split_k=2), Stage2Config(tile_n=32, tile_k=64, reduce="loop")
        )
        content = {
            "format": "autotune-moe-w4a8",
            "version": 1,
            "model_dim": 256,
            "inter_dim": 64,
            "experts": 8,
            "top_k": 3,
            "entries": [{"tokens": 4, "stage1": knobs.stage1.knobs(), "stage2": knobs.stage2.knobs()}],
        }
        path = tmp_path / "moe.json"
        path.write_text(json.dumps(content))
        a = layer(3, 256, 64, 8, 3)
        monkeypatch.setenv("AUTOTUNE_MOE_CONFIG", str(path))
        assert torch.equal(fused_moe_w4a8(**a), fused_moe_w4a8(**a, config=knobs))
        other = layer(3, 128, 64, 8, 3)
        with pytest.raises(UserError, match="export a config for this layer"):
            fused_moe_w4a8(**other)

    def test_arguments_that_do_not_fit_are_refused() -> None:
        a = layer(3, 256, 64, 8, 3)
        with pytest.raises(UserError, match="w2_scale has shape"):
            fused_moe_w4a8(**{**a, "w2_scale": a["w2_scale"][:, :-2]})
        with pytest.raises(UserError, match=r"x is torch\.float32"):
            fused_moe_w4a8(**{**a, "x": a["x"].float()})
        assert fused_moe_w4a8(**{**a, "x": a["x"][:0], "topk_ids": a["topk_ids"][:0],
                                 "topk_weight": a["topk_weight"][:0]}).shape == (0, 256)  # fmt: skip
