"""AITER main's winners as rows of its table, written by the command and read by AITER's lookup.

The AITER is a stand-in of ours by default. `AUTOTUNE_AITER_SRC` names a real tree, whose lookup needs pandas.
"""

import csv
import importlib.util
import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from autotune.backends.aiter.source import AiterGeneration
from autotune.cli import app
from autotune.errors import UserError
from autotune.problem.layer import Problem
from autotune.results import Confirmation, Finalist, LayerConfig, Round
from autotune.space.config import Config, Value
from autotune.store.store import Store
from tests.aiter_trees import parameters
from tests.export.winners import KIMI, fingerprint
from tests.standins import SITE_MAIN

RUNNER = CliRunner()
REAL = parameters(AiterGeneration.MAIN) if importlib.util.find_spec("pandas") else []  # AITER reads by it
TREES = pytest.mark.parametrize("tree", [pytest.param(SITE_MAIN, id="stand-in"), *REAL])


@pytest.fixture
def store(own_database: Path) -> Iterator[Store]:
    with Store.open() as store:
        yield store


def layer(tile_m: int, one: Value = None, two: Value = None) -> LayerConfig:
    return LayerConfig(Config({"tile_m": tile_m, "kernel": one}), Config({"tile_m": tile_m, "kernel": two}))


SHIPS, TALL, TALLER = layer(32, "ships1", "ships2"), layer(64), layer(128, "named1", "named2")


def final(store: Store, tokens: int, us: dict[LayerConfig, float], *, backend: str = "aiter_main") -> None:
    """The final of a shape, whose first config ships, won by the fastest."""
    environment = fingerprint(backend=backend, kernel_source="aiter main")
    times = list(us.values())
    best = times.index(min(times))
    gain = 1 - times[best] / times[0]
    confirmation = Confirmation(
        problem=Problem(KIMI, tokens),
        finalists=tuple(Finalist("candidate" if i else "default", config) for i, config in enumerate(us)),
        rounds=(Round(tuple({"layer": t, "stage1": t / 2, "stage2": t / 4} for t in times)),) * 2,
        errors=(2e-3,) * len(us),
        winner=best,
        gain=gain,
        gain_low=gain,
        gain_high=gain,
    )
    run = store.begin_run("autotune run", {}, 0, environment)
    stored = store.record_confirmation(
        run, confirmation, backend=backend, environment=environment, workload="cold"
    )
    store.record_winner(run, stored)


def exported(tree: Path, *options: str, backend: str = "aiter_main") -> str:
    done = RUNNER.invoke(
        app,
        ["export", "--backend", backend, "--aiter-source", str(tree), *options],
        catch_exceptions=False,
    )
    assert done.exit_code == 0, done.output
    return done.output


@TREES
def test_a_buckets_row_is_written_beside_the_shipped_tables_and_aiter_selects_it(
    store: Store, tmp_path: Path, tree: Path
) -> None:
    final(store, 4, {SHIPS: 20.0, TALL: 16.0})
    final(store, 8, {SHIPS: 30.0, TALL: 24.0})
    out = tmp_path / "deploy"
    preview = exported(tree, "--format", "aiter", "--out", str(out), "--preview")
    assert "4 for M = 3, 4 (tuned): block_m=64 moe_ck2stages_gemm1_256x64x" in preview
    assert not out.exists()

    exported(tree, "--out", str(out), "--bundle-path", "/opt/b", "--aiter-root", "/app/aiter")
    rows = list(csv.DictReader((out / "aiter/autotune_fmoe.csv").open()))
    assert [(row["token"], row["q_dtype_w"]) for row in rows] == [
        (tokens, dtype) for tokens in ("4", "8") for dtype in ("torch.uint32", "torch.int4")
    ]
    # What the winner leaves to AITER has its name: an empty one stops AITER.
    assert all("_256x64x" in row["kernelName1"] and "_256x64x" in row["kernelName2"] for row in rows)
    assert (rows[0]["us1"], rows[0]["us2"], rows[0]["gfx"], rows[0]["cu_num"]) == (
        *("8.0000", "4.0000", "gfx942", "304"),
    )
    listed = (out / "autotune.env").read_text().split("AITER_CONFIG_FMOE=")[1].strip().split(os.pathsep)
    assert listed[0] == "/opt/b/aiter/autotune_fmoe.csv"
    assert "/app/aiter/aiter/configs/tuned_fmoe.csv" in listed

    done = RUNNER.invoke(app, ["verify", str(out), "--engine-source", str(tree)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "ok   weights torch.uint32 at M = 3: row 4: moe_ck2stages_gemm1_256x64x" in done.output


@pytest.fixture
def regimes(tmp_path: Path) -> Path:
    """The stand-in with a table for each regime, as newer AITERs have, whose columns end in `nt`."""
    tree = shutil.copytree(SITE_MAIN, tmp_path / "regimes")
    path = tree / "aiter/fused_moe.py"
    text = path.read_text().replace("AITER_CONFIGS.AITER_CONFIG_FMOE_FILE", "_table(AITER_CONFIGS)")
    path.write_text(
        text
        + """
_REGIME = None


def set_moe_regime(regime):
    global _REGIME
    _REGIME = regime


def _table(configs):
    import os

    variable = {"decode": "AITER_CONFIG_FMOE_DECODE", "prefill": "AITER_CONFIG_FMOE_PREFILL"}.get(_REGIME)
    return os.environ.get(variable or "") or configs.AITER_CONFIG_FMOE_FILE
"""
    )
    for table in (tree / "aiter/configs").rglob("*.csv"):
        head, *rows = table.read_text().splitlines()
        table.write_text("\n".join([head.replace("bw,_tag", "bw,nt"), *(f"{row}1" for row in rows)]) + "\n")
    return tree


def test_where_decode_has_a_table_of_its_own_prefill_is_left_alone(
    store: Store, tmp_path: Path, regimes: Path
) -> None:
    final(store, 4, {SHIPS: 20.0, TALL: 16.0})
    out = tmp_path / "deploy"
    said = exported(regimes, "--out", str(out))
    assert "set_moe_regime('decode')" in said
    environment = (out / "autotune.env").read_text()
    assert "AITER_CONFIG_FMOE_DECODE=" in environment
    assert "AITER_CONFIG_FMOE=" not in environment
    rows = list(csv.DictReader((out / "aiter/autotune_fmoe.csv").open()))
    assert list(rows[0])[-1] == "nt"
    ours, shipped = rows[:2], rows[2:]
    assert [(row["token"], row["nt"]) for row in ours] == [("4", "0"), ("4", "0")]
    # A shape that the decode table lacks gets heuristics, so the shipped rows go with it, as they are.
    assert {(row["inter_dim"], row["token"], row["nt"]) for row in shipped} >= {
        ("256", "8", "1"),
        ("512", "4", "1"),
    }

    done = RUNNER.invoke(app, ["verify", str(out), "--engine-source", str(regimes)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "ok   weights torch.uint32 at M = 4: row 4: moe_ck2stages_gemm1_256x64x" in done.output
    assert "the engine says: it was told that the server decodes" in done.output
    # An AITER without such tables reads it never.
    done = RUNNER.invoke(app, ["verify", str(out), "--engine-source", str(SITE_MAIN)], catch_exceptions=False)
    assert done.exit_code == 1
    assert "this AITER has no table for decode" in done.output


@TREES
def test_a_row_that_nobody_reads_is_told(store: Store, tmp_path: Path, tree: Path) -> None:
    final(store, 4, {SHIPS: 20.0, TALL: 16.0})
    out = tmp_path / "deploy"
    exported(tree, "--out", str(out))
    table = out / "aiter/autotune_fmoe.csv"
    table.write_text(table.read_text().replace(",304,", ",80,"))
    done = RUNNER.invoke(app, ["verify", str(out), "--engine-source", str(tree)])
    assert done.exit_code == 1
    assert "key: no row matches weights torch.uint32 at M = 3" in done.output


def test_a_shipped_row_with_our_key_is_left_out_of_a_copy(store: Store, tmp_path: Path) -> None:
    final(store, 8, {SHIPS: 30.0, TALL: 24.0})
    out = tmp_path / "deploy"
    said = exported(SITE_MAIN, "--out", str(out))
    assert "kimi_tuned_fmoe.csv has rows with our keys" in said
    copy = list(csv.DictReader((out / "aiter/kimi_tuned_fmoe.csv").open()))
    assert [row["token"] for row in copy] == ["16"]
    done = RUNNER.invoke(app, ["verify", str(out), "--engine-source", str(SITE_MAIN)])
    assert done.exit_code == 0, done.output


def test_the_row_for_4_is_chosen_for_3_as_well(store: Store, tmp_path: Path) -> None:
    # The best at 4 loses at 3; the best at 3 is good at both.
    final(store, 3, {SHIPS: 20.0, TALLER: 18.0, TALL: 21.0})
    final(store, 4, {SHIPS: 20.0, TALL: 15.0, TALLER: 18.0})
    said = exported(SITE_MAIN, "--preview")
    assert "4 for M = 3, 4 (tuned): block_m=128 named1 + named2" in said
    assert "row 4, of 3, 4 tokens: named1 +10.0% at 3, +10.0% at 4: chosen" in said
    assert "refused, loses 5.0% at 3 tokens" in said
    # What is said of each count is what the row does there, not what won there alone.
    assert said.count("10.0% faster than the default") == 2


def test_a_choice_confirmed_at_another_bucket_only_makes_no_row_here(store: Store) -> None:
    final(store, 4, {SHIPS: 20.0, TALL: 16.0})
    # Faster by the rounds that chose it, and not confirmed: the default was kept.
    final(store, 8, {SHIPS: 30.0})
    said = exported(SITE_MAIN, "--preview")
    assert "8 for M = 5, 6, 7, 8 (no row of ours): as shipped" in said


def test_what_cannot_be_written_is_one_sentence(store: Store, tmp_path: Path) -> None:
    final(store, 4, {SHIPS: 20.0, TALL: 21.0})
    with pytest.raises(UserError, match="nothing to write"):
        exported(SITE_MAIN)
    with pytest.raises(UserError, match="served by --format aiter, not by env"):
        exported(SITE_MAIN, "--format", "env")


def test_without_an_aiter_what_was_left_to_it_has_no_name(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AUTOTUNE_AITER_SRC", raising=False)
    final(store, 4, {SHIPS: 20.0, TALL: 16.0})
    with pytest.raises(UserError, match="--aiter-source"):
        RUNNER.invoke(app, ["export", "--backend", "aiter_main"], catch_exceptions=False)


def test_tiles_of_the_grouped_kernels_become_names(store: Store) -> None:
    def grouped(tile_n: int) -> LayerConfig:
        tiles = {"tile_m": 16, "tile_n": tile_n, "tile_k": 256}
        return LayerConfig(Config({**tiles, "k_wave": 4, "b_nt": 0}), Config({**tiles, "tile_n": 128}))

    final(store, 4, {grouped(64): 20.0, grouped(16): 16.0}, backend="aiter_main_w4a16")
    said = exported(SITE_MAIN, "--preview", backend="aiter_main_w4a16")
    one, two = (
        "flydsl_moe1_abf16_wint4_bf16_t16x16x256_bnt0_kw4",
        "flydsl_moe2_abf16_wint4_bf16_t16x128x256_atomic",
    )
    assert f"block_m=16 {one} + {two}" in said


def test_a_wheel_does_not_tell_where_it_will_be_installed(store: Store, tmp_path: Path) -> None:
    final(store, 4, {SHIPS: 20.0, TALLER: 16.0})
    wheel = tmp_path / "aiter.whl"
    with zipfile.ZipFile(wheel, "w") as made:
        made.write(SITE_MAIN / "aiter/configs/tuned_fmoe.csv", "aiter/configs/tuned_fmoe.csv")
        generator = "csrc/ck_gemm_moe_2stages_codegen/gemm_moe_ck2stages_common.py"
        made.write(SITE_MAIN / generator, generator)
    with pytest.raises(UserError, match="--aiter-root"):
        exported(wheel)
