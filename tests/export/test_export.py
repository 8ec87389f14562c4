"""From winners in a database to a bundle, for each kind of format."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from autotune.config import Config
from autotune.errors import UserError
from autotune.export.content import Place
from autotune.export.deploy import deploy_files, stack
from autotune.export.env_knobs import PUBLISHED
from autotune.export.export import Selection, export, plan
from autotune.export.global_env import shared_finalists
from autotune.export.mix import Mix
from autotune.export.text import decision_lines, preview_lines
from autotune.problem import Problem, Stage
from autotune.results import Confirmation, Finalist, LayerConfig, Round
from autotune.store.store import Store
from tests.export.winners import KIMI, config, fingerprint, winner


@pytest.fixture
def store(own_database: Path) -> Iterator[Store]:
    with Store.open() as store:
        yield store


def win(
    store: Store,
    tokens: int,
    configs: list[LayerConfig],
    us: list[float],
    *,
    backend: str = "sglang",
) -> None:
    """A confirmation of `configs`, the first of them the default, won by the fastest."""
    environment = fingerprint(backend=backend)
    best = us.index(min(us))
    labels = ["default"] + ["candidate"] * (len(us) - 1)
    confirmation = Confirmation(
        problem=Problem(KIMI, tokens) if tokens <= 8 else Problem(KIMI, 1, tokens),
        finalists=tuple(Finalist(label, c) for label, c in zip(labels, configs, strict=True)),
        rounds=(Round(tuple({"layer": one} for one in us)),) * 2,
        errors=(1e-3,) * len(us),
        winner=best,
        gain=1 - us[best] / us[0],
        gain_low=1 - us[best] / us[0],
        gain_high=1 - us[best] / us[0],
    )
    run = store.begin_run("autotune run", {}, 0, environment)
    stored = store.record_confirmation(
        run, confirmation, backend=backend, environment=environment, workload="cold"
    )
    store.record_winner(run, stored)


def both(**knobs: int) -> LayerConfig:
    return LayerConfig(config(**knobs), config(**knobs))


def test_sglang_winners_become_a_bundle(store: Store, tmp_path: Path) -> None:
    win(store, 4, [both(), both(tile_n=64)], [10.0, 8.0])
    win(store, 3, [both(), both(tile_n=128)], [9.0, 8.0])
    written = export(store, tmp_path / "deploy", Selection("sglang"), bundle_path="/opt/b")
    assert sorted(written.files) == sorted(
        str(path.relative_to(tmp_path / "deploy"))
        for path in (tmp_path / "deploy").rglob("*")
        if path.is_file()
    )
    manifest = json.loads((tmp_path / "deploy/manifest.json").read_text())
    assert manifest["variables"] == {"SGLANG_MOE_CONFIG_DIR": "/opt/b/sglang"}
    wanted = manifest["lookups"]["sglang"]["intended"]["stage1"]
    assert {m: wanted[m]["BLOCK_SIZE_N"] for m in ("3", "4", "8", "4096")} == {
        "3": 128,
        "4": 64,
        "8": 32,
        "4096": 64,
    }


def test_exporting_again_gives_equal_bytes(store: Store, tmp_path: Path) -> None:
    win(store, 4, [both(), both(tile_n=64)], [10.0, 8.0])

    def content() -> dict[str, bytes]:
        folder = tmp_path / "deploy"
        export(store, folder, Selection("sglang"), bundle_path="/opt/b")
        return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    assert content() == content()


def test_a_preview_names_the_files_and_the_keys_and_writes_nothing(store: Store, tmp_path: Path) -> None:
    win(store, 4, [both(), both(tile_n=64)], [10.0, 8.0])
    made = plan(store, Selection("sglang"), Place("/opt/b"))
    lines = list(preview_lines(made.previews))
    assert lines[0].startswith("sglang/configs/triton_3_6_0/E=384,N=256,device_name=AMD_Instinct_MI325X,")
    assert any("for M = 4, 5, 6 (tuned): BLOCK_SIZE_M=16 BLOCK_SIZE_N=64" in line for line in lines)
    assert list(tmp_path.glob("deploy*")) == []


def flydsl(tile_m: int = 16, **knobs: bool | int | str) -> LayerConfig:
    """FlyDSL's default of the published generation at a block size, with changes by `STAGE_KNOB`."""
    one: dict[str, bool | int | str] = {
        "tile_m": tile_m,
        "tile_n": 64,
        "tile_k": 256 if tile_m == 16 else 128,
        "sched": True,
    }
    two: dict[str, bool | int | str] = {
        "tile_m": tile_m,
        "tile_n": 256,
        "tile_k": 64,
        "mode": "atomic",
        "sched": True,
    }
    for name, value in knobs.items():
        stage, _, knob = name.partition("_")
        (one if stage == "one" else two)[knob] = value
    return LayerConfig(Config(one), Config(two))


def finals(store: Store, tokens: int, tile_m: int, us: dict[str, float]) -> None:
    """The final of a shape: the default, stage 1's gate off, and besides stage 2's wider tile."""
    configs = {
        "default": flydsl(tile_m),
        "gate": flydsl(tile_m, one_sched=False),
        "both": flydsl(tile_m, one_sched=False, two_tile_k=256),
    }
    win(store, tokens, [configs[name] for name in us], list(us.values()), backend="flydsl")


def test_global_knobs_are_chosen_over_the_mix_and_the_table_is_kept(store: Store) -> None:
    finals(store, 4, 16, {"default": 10.0, "gate": 9.0, "both": 8.0})
    finals(store, 160, 32, {"default": 40.0, "gate": 38.0, "both": 39.0})
    finals(store, 64, 16, {"default": 20.0, "gate": 19.0, "both": 19.0})
    finals(store, 512, 32, {"default": 90.0, "gate": 90.0, "both": 90.0})
    # Prefill would lose 2 % to the wider tile.
    finals(store, 4096, 64, {"default": 500.0, "gate": 500.0, "both": 510.0})
    made = plan(store, Selection("flydsl"), Place("/b"), mix=Mix.of({4: 1.0, 160: 1.0}))
    path, knob, cache = made.files["autotune.env"].splitlines()[1:]
    assert path == "AITER_W4A8_USE_INT8=1"
    assert knob == "FLYDSL_MOE_STAGE1_SCHED=0"
    # The gate is in no key of FlyDSL's disk cache: a warm one would serve the other kernel.
    assert cache.startswith("FLYDSL_RUNTIME_CACHE_DIR=/tmp/autotune-kernels-")
    assert made.decision is not None
    lines = list(decision_lines(made.decision))
    assert any("chosen: FLYDSL_MOE_STAGE1_SCHED=0" in line for line in lines)
    assert any(
        "AITER_FLYDSL_STAGE2_TILE_K=256 FLYDSL_MOE_STAGE1_SCHED=0 (refused: loses 2.0% at 4096 tokens)"
        in line
        for line in lines
    )
    manifest = json.loads(made.files["manifest.json"])
    assert [c["chosen"] for c in manifest["decision"]["candidates"]].count(True) == 1


def test_a_tile_that_is_one_shapes_default_is_a_setting_at_another(store: Store) -> None:
    # 256 is what the engine takes at 4 tokens by itself, and a change at 160.
    win(store, 4, [flydsl(16), flydsl(16, one_sched=False)], [10.0, 11.0], backend="flydsl")
    win(store, 160, [flydsl(32), flydsl(32, one_tile_k=256)], [40.0, 30.0], backend="flydsl")
    made = plan(store, Selection("flydsl"), Place("/b"), mix=Mix.of({4: 1.0, 160: 1.0}, guards=()))
    assert "AITER_FLYDSL_STAGE1_TILE_K=256\n" in made.files["autotune.env"]


def test_a_variable_that_both_stages_read_deploys_what_both_agree_on() -> None:
    unset = {"tile_m": 16, "tile_n": None, "tile_k": None, "sched": None, "grid_trim": None}
    default = LayerConfig(Config(unset), Config({**unset, "mode": None}))
    off = LayerConfig(*(default.of(stage).replaced(grid_trim=False, sched=False) for stage in Stage))
    assert PUBLISHED.variables(off, default) == {
        "AITER_FLYDSL_MOE_GRID_TRIM": "0",
        "FLYDSL_MOE_STAGE1_SCHED": "0",
        "FLYDSL_MOE_STAGE2_SCHED": "0",
    }
    assert PUBLISHED.deployable(off, default)
    half = LayerConfig(off.stage1, default.stage2)
    assert not PUBLISHED.deployable(half, default)


def test_every_setting_goes_to_the_final_of_every_shape_and_guard() -> None:
    defaults = {4: flydsl(16), 160: flydsl(32), 4096: flydsl(64)}
    best = {4: [flydsl(16, one_sched=False)], 160: [flydsl(32, two_tile_k=256)]}
    assert shared_finalists(PUBLISHED, defaults, best) == {
        4: [flydsl(16), flydsl(16, one_sched=False), flydsl(16, two_tile_k=256)],
        160: [flydsl(32), flydsl(32, one_sched=False), flydsl(32, two_tile_k=256)],
        4096: [flydsl(64), flydsl(64, one_sched=False), flydsl(64, two_tile_k=256)],
    }


def test_global_knobs_without_measured_guards_are_not_exported(store: Store) -> None:
    finals(store, 4, 16, {"default": 10.0, "both": 8.0})
    with pytest.raises(UserError, match="guard"):
        plan(store, Selection("flydsl"), Place("/b"), mix=Mix.of({4: 1.0}))


def test_a_block_size_of_ones_own_cannot_be_deployed() -> None:
    with pytest.raises(UserError, match="no variable"):
        PUBLISHED.variables(flydsl(32), flydsl(16))


@pytest.mark.parametrize("engine", ["sglang", "vllm"])
def test_both_arms_are_the_same_command_and_one_of_them_loads_the_bundle(engine: str) -> None:
    files = deploy_files(engine, "/opt/b", [winner(4, backend=engine)], {"X": "1"})
    baseline, tuned = files[f"deploy/{engine}-baseline.sh"], files[f"deploy/{engine}-tuned.sh"]
    assert ". /opt/b/env/autotune.sh\n" in tuned
    assert tuned.replace(". /opt/b/env/autotune.sh\n", "").replace("tuned", "baseline") == baseline.replace(
        "tuned", "baseline"
    )
    assert "Rollback" in tuned


def test_eagle3_verifies_four_tokens() -> None:
    sglang = deploy_files("sglang", "/b", [winner(4)], {})["deploy/sglang-tuned.sh"]
    for flag in (
        "--speculative-num-steps 3",
        "--speculative-eagle-topk 1",
        "--speculative-num-draft-tokens 4",
    ):
        assert flag in sglang
    vllm = deploy_files("vllm", "/b", [winner(4, backend="vllm")], {})["deploy/vllm-tuned.sh"]
    assert '"num_speculative_tokens": 3' in vllm
    assert "'\"$DRAFT\"'" in vllm


def test_the_stack_is_named() -> None:
    assert "published image" in stack("aiter", "sglang").text
    assert "int4 x fp8" in stack("aiter", "vllm").text
    with pytest.raises(UserError, match="--deploy"):
        stack("vllm", "sglang")
