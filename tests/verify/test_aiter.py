"""Bundles against the lookup code of real AITERs, which `AUTOTUNE_AITER_SRC` names."""

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from autotune.backends.aiter.source import AiterGeneration
from autotune.backends.aiter_main.csv import FmoeKey, FmoeRow
from autotune.backends.aiter_main.export import aiter_content, shipped_tables
from autotune.backends.aiter_main.verify import verify_aiter
from autotune.engines.source import EngineSource, open_source
from autotune.protocol.bundle import Bundle
from autotune.protocol.exporter import Content, Place
from tests.aiter_trees import parameters
from tests.verify.conftest import plant, write_as_bundle

PLACE = Place("/opt/b")
KEY = FmoeKey("gfx942", 304, 7168, 256, 384, 8, "torch.float8_e4m3fnuz", ("torch.uint32", "torch.int4"))
ROWS = [FmoeRow(m, 32, f"sentinel1_{m}", f"sentinel2_{m}", 10.0, 5.0) for m in (1, 2, 4, 8, 64)]


@pytest.fixture(scope="module", params=parameters(AiterGeneration.MAIN))
def aiter(request: pytest.FixtureRequest) -> EngineSource:
    pytest.importorskip("pandas", reason="AITER reads its tables with pandas")
    return open_source("aiter", str(request.param))


@pytest.fixture(scope="module", params=parameters(AiterGeneration.PUBLISHED))
def published(request: pytest.FixtureRequest) -> EngineSource:
    pytest.importorskip("pandas", reason="AITER reads its tables with pandas")
    return open_source("aiter", str(request.param))


def write(folder: Path, made: Content) -> Bundle:
    write_as_bundle(folder / "deploy", made, PLACE)
    return Bundle.read(folder / "deploy")


def merged(aiter: EngineSource, key: FmoeKey = KEY, rows: list[FmoeRow] = ROWS) -> Content:
    """With shipped tables, as `--aiter-source` does; three of them, for speed."""
    shipped = dict(list(shipped_tables(aiter).items())[:3])
    return aiter_content(key, rows, PLACE, shipped=shipped, installed="/opt/aiter")


def table(folder: Path) -> Path:
    return folder / "aiter/autotune_fmoe.csv"


def edit(old: str, new: str) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        path = table(folder)
        path.write_text(path.read_text().replace(old, new))

    return act


def test_every_verify_shape_finds_its_buckets_row_beside_the_shipped_tables(
    tmp_path: Path, aiter: EngineSource
) -> None:
    verification = verify_aiter(write(tmp_path, merged(aiter)), aiter)
    assert verification.reasons == ()
    assert verification.ok
    rows = {check.subject: check.found for check in verification.checks}
    assert rows["weights torch.uint32 at M = 3"] == "row 4: sentinel1_4 + sentinel2_4"
    assert rows["weights torch.uint32 at M = 4"] == "row 4: sentinel1_4 + sentinel2_4"
    assert rows["weights torch.int4 at M = 5"] == "row 8: sentinel1_8 + sentinel2_8"
    assert rows["weights torch.int4 at M = 64"] == "row 64: sentinel1_64 + sentinel2_64"


def test_nothing_of_the_source_is_changed(tmp_path: Path, aiter: EngineSource) -> None:
    before = shipped_tables(aiter)
    verify_aiter(write(tmp_path, merged(aiter)), aiter)
    assert shipped_tables(aiter) == before


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (edit("torch.uint32", "torch.int4x2"), "key: no row matches weights torch.uint32"),
        (edit(",304,", ",80,"), "key: no row matches"),
        (edit("gfx942", "gfx950"), "key: no row matches"),
        (edit("QuantType.per_Token", "QuantType.per_1x32"), "key: no row matches"),
        (edit(",384,8,", ",385,9,"), "key: no row matches"),
        (edit("sentinel1_4,", "sentinel1_2,"), "bucket: .* M = 3 takes row 4"),
        (edit(",32,0,", ",64,0,"), "bucket: .* block_m=64.*, meant was .* block_m=32"),
        (edit(",32,0,", ",32,2,"), "bucket: .* ksplit=2.*, meant was .* ksplit=0"),
    ],
    ids=["dtype", "CUs", "gfx", "q_type", "fused shared expert", "another bucket's row", "block_m", "ksplit"],
)
def test_each_row_that_nobody_reads_is_caught(
    change: Callable[[Path], None], reason: str, tmp_path: Path, aiter: EngineSource
) -> None:
    verification = verify_aiter(plant(write(tmp_path, merged(aiter)), change), aiter)
    assert not verification.ok
    assert any(re.search(reason, one) for one in verification.reasons), verification.reasons


def test_a_key_that_is_shipped_as_well_is_caught_before_a_server_stumbles(
    tmp_path: Path, aiter: EngineSource
) -> None:
    made = write(tmp_path, merged(aiter))

    def twice(folder: Path) -> None:
        path = table(folder)
        copy = folder / "aiter/shipped.csv"
        copy.write_text(path.read_text())
        env = folder / "autotune.env"
        env.write_text(
            env.read_text().replace(
                "autotune_fmoe.csv", f"autotune_fmoe.csv{os.pathsep}/opt/b/aiter/shipped.csv"
            )
        )

    verification = verify_aiter(plant(made, twice), aiter)
    assert any("merge: aiter raises RuntimeError" in one for one in verification.reasons), (
        verification.reasons
    )


def test_a_table_that_does_not_exist_is_told(tmp_path: Path, aiter: EngineSource) -> None:
    def gone(folder: Path) -> None:
        env = folder / "autotune.env"
        env.write_text(env.read_text().replace("/opt/b/aiter/", "/opt/b/elsewhere/"))

    verification = verify_aiter(plant(write(tmp_path, merged(aiter)), gone), aiter)
    assert any("folder: /opt/b/elsewhere/autotune_fmoe.csv" in one for one in verification.reasons)


def test_without_the_variable_the_shipped_tables_serve(tmp_path: Path, aiter: EngineSource) -> None:
    def unset(folder: Path) -> None:
        (folder / "autotune.env").write_text("# nothing\n")

    verification = verify_aiter(plant(write(tmp_path, merged(aiter)), unset), aiter)
    assert any(one.startswith("variable: ") for one in verification.reasons)


def test_a_row_of_ours_that_is_shipped_too_is_left_out_of_the_merge(
    tmp_path: Path, aiter: EngineSource
) -> None:
    import csv
    import io

    shipped = shipped_tables(aiter)
    name, text = next(iter(shipped.items()))
    first = next(row for row in csv.DictReader(io.StringIO(text)) if row["_tag"] == "")
    key = replace(
        KEY,
        cu_num=int(first["cu_num"]),
        model_dim=int(first["model_dim"]),
        inter_dim=int(first["inter_dim"]),
        experts=int(first["expert"]),
        top_k=int(first["topk"]),
        q_dtype_a=first["q_dtype_a"],
        q_dtypes_w=(first["q_dtype_w"],),
        q_type=first["q_type"],
        act_type=first["act_type"],
        use_g1u1=first["use_g1u1"] == "1",
        doweight_stage1=first["doweight_stage1"] == "1",
    )
    rows = [replace(ROWS[0], tokens=int(first["token"]))]
    made = aiter_content(key, rows, PLACE, shipped=shipped, installed="/opt/aiter")
    assert f"aiter/{Path(name).name}" in made.files
    verification = verify_aiter(write(tmp_path, made), aiter)
    assert verification.ok, verification.reasons


def test_the_published_generation_reads_no_table_while_its_dsl_is_enforced(
    tmp_path: Path, published: EngineSource
) -> None:
    made = aiter_content(KEY, ROWS, PLACE)
    verification = verify_aiter(write(tmp_path, made), published)
    assert any("AITER_ENFORCE_DSL=0" in one for one in verification.reasons), verification.reasons
    freed = replace(made, variables={**made.variables, "AITER_ENFORCE_DSL": "0"})
    assert verify_aiter(write(tmp_path, freed), published).reasons == ()
