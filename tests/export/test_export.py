"""From winners in a database to a bundle, for each kind of format."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from autotune.errors import UserError
from autotune.export.deploy import deploy_files
from autotune.export.export import Selection, export, plan, serving_folder
from autotune.machine.fingerprint import Fingerprint
from autotune.machine.targets import Kind
from autotune.problem.layer import Problem, Stage
from autotune.protocol.exporter import Place
from autotune.results import Confirmation, Finalist, LayerConfig, Round
from autotune.store.records import ShortListed
from autotune.store.store import Store
from tests.export.winners import KIMI, config, fingerprint, winner
from tests.store.examples import trial


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
    on: Fingerprint | None = None,
) -> int:
    """A confirmation of `configs`, the first of them the default, won by the fastest; the winner's id."""
    environment = on or fingerprint(backend=backend)
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
    return store.record_winner(run, stored)


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
    lines = [line for preview in made.previews for line in preview.lines()]
    assert lines[0].startswith("sglang/configs/triton_3_6_0/E=384,N=256,device_name=AMD_Instinct_MI325X,")
    assert any("for M = 4, 5, 6 (tuned): BLOCK_SIZE_M=16 BLOCK_SIZE_N=64" in line for line in lines)
    assert list(tmp_path.glob("deploy*")) == []


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


def test_the_stack_is_the_backends_own_and_what_is_not_known_to_run_it_is_refused() -> None:
    def script(backend: str, engine: str) -> str:
        files = deploy_files(engine, "/opt/b", [winner(4, backend=backend)], {})
        return files[f"deploy/{engine}-tuned.sh"]

    assert "published image" in script("aiter", "sglang")
    assert "int4 x fp8" in script("aiter", "vllm")
    assert "export AITER_W4A8_USE_INT8=1\n" in script("flydsl", "sglang")
    assert "AITER_W4A8_USE_INT8" not in script("aiter_main", "vllm")
    with pytest.raises(UserError, match="winners of backend vllm serve in vllm: use that --deploy"):
        script("vllm", "sglang")
    with pytest.raises(UserError, match=r"no launch of sglang is known .* backend aiter_main_w4a16: leave"):
        script("aiter_main_w4a16", "sglang")


def estimate(store: Store, backend: str) -> None:
    """A short list of one entry at four tokens, which nothing measured."""
    environment = fingerprint(backend=backend, device="offline:mi325x")
    run = store.begin_run("autotune run", {}, 0, environment)
    for stage in Stage:
        store.record_trial(
            run,
            trial(
                problem=Problem(KIMI, 4),
                stage=stage,
                backend=backend,
                environment=environment,
                kind=Kind.ESTIMATE,
                config=both(tile_n=64).of(stage),
            ),
        )
    store.record_short_list(
        run,
        problem=Problem(KIMI, 4),
        backend=backend,
        environment=environment,
        default=both(),
        entries=[ShortListed(both(tile_n=64), 0.2)],
    )


@pytest.mark.parametrize("backend", ["sglang", "vllm", "triton"])
def test_every_file_of_an_estimate_says_so_or_one_beside_it_does(
    store: Store, tmp_path: Path, backend: str
) -> None:
    estimate(store, backend)
    place = Place("/opt/b", device_name="AMD_Instinct_MI325X", triton_version="3.6.0")
    made = plan(
        store,
        Selection(backend, allow_estimates=True),
        place,
        deploy="vllm" if backend == "vllm" else "sglang",
    )
    assert len(made.files) > 5
    for name, text in made.files.items():
        beside = made.files.get(f"{Path(name).parent}/ESTIMATES.txt", "")
        assert "ESTIMATES for mi325x" in text or (backend == "sglang" and "ESTIMATES for mi325x" in beside)
    assert "estimate" in {row.source for preview in made.previews for row in preview.rows}


def test_sglang_s_and_vllm_s_bodies_stay_what_their_readers_take(store: Store) -> None:
    """SGLang makes every key an integer; vLLM does, after it has dropped triton_version."""
    place = Place("/opt/b", device_name="AMD_Instinct_MI325X", triton_version="3.6.0")
    for backend in ("sglang", "vllm"):
        estimate(store, backend)
        made = plan(store, Selection(backend, allow_estimates=True), place)
        bodies = [json.loads(text) for name, text in made.files.items() if "/E=" in name]
        assert bodies
        for body in bodies:
            if backend == "vllm":
                body.pop("triton_version")
            assert all(int(key) and isinstance(entry, dict) for key, entry in body.items())


def test_what_was_measured_says_nothing_of_estimates(store: Store) -> None:
    win(store, 4, [both(), both(tile_n=64)], [10.0, 8.0])
    made = plan(store, Selection("sglang"), Place("/opt/b"))
    assert not any("ESTIMATE" in name + text for name, text in made.files.items())


@pytest.mark.parametrize("path", ["deploy", "./deploy", "~/deploy", ""])
def test_a_bundle_path_is_absolute_or_refused(path: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not absolute"):
        serving_folder(tmp_path, path)
    assert serving_folder(tmp_path, "/opt/b/") == "/opt/b"
    assert serving_folder(tmp_path, None) == str(tmp_path)


def test_what_a_bundle_leaves_out_is_told(store: Store) -> None:
    """Another GPU's, or what was tuned on an earlier stack only; not what is there in a newer version."""
    h100 = fingerprint(device="NVIDIA H100 80GB HBM3", arch="sm_90", backend="sglang")
    for tokens in (1, 2):
        win(store, tokens, [both(), both(tile_n=64)], [10.0, 8.0], on=h100)
    for tokens in (4, 8):
        win(store, tokens, [both(), both(tile_n=64)], [10.0, 8.0], on=fingerprint(driver="6.10"))
    win(store, 4, [both(), both(tile_n=64)], [10.0, 8.0])
    assert plan(store, Selection("sglang"), Place("/opt/b")).notes[1:] == (
        "a bundle is of one layer on one stack, the newest; left out: m1, m2 of kimi-k2.5-w4a8 TP 8 on NVIDIA"
        " H100 80GB HBM3; m8 of kimi-k2.5-w4a8 TP 8 on AMD Instinct MI325X, another stack (--model, --tp,"
        " --ep and --device choose)",
    )
    assert plan(store, Selection("sglang", device="h100"), Place("/opt/b")).notes[1:] == ()
