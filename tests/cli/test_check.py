"""`autotune check`, as a user runs it."""

import json

import pytest

from autotune.store.store import Store
from tests.cli.helper import Refused, autotune

pytest.importorskip("triton")


def test_the_default_of_both_stages_passes_and_the_verdict_is_stored() -> None:
    done = autotune("check", "--shape", "m4", "--json")
    assert done.returncode == 0, done.stderr
    one, two, *beside = json.loads(done.stdout)
    assert (one["stage"], two["stage"]) == ("stage1", "stage2")
    assert [each["stage"] for each in beside] == ["prepare", "quantise"]
    assert {each["verdict"]["status"] for each in beside} == {"pass"}
    for each in (one, two):
        assert each["label"] == "default"
        assert each["verdict"]["status"] == "pass"
        assert each["verdict"]["error"] < 3e-3
        assert each["verdict"]["counts"]["classes"]["mfma"] > 0
    from autotune.check.check import checker_of

    with Store.open(read_only=True) as store:
        assert store.verdict(one["binary"], checker_of("triton").compiler()) is not None


@pytest.mark.slow
def test_it_reads_well() -> None:
    done = autotune("check", "--stage", "stage2", "--config", "reduce=atomic")
    assert done.returncode == 0, done.stderr
    assert "m4 stage2 reduce=atomic: pass, error 1." in done.stdout
    assert "1 pass (largest error" in done.stdout
    assert "prepare" not in done.stdout


@pytest.mark.slow
def test_what_is_launched_beside_the_gemms_is_told_once_for_a_block_size() -> None:
    done = autotune("check", "--config", "stage1:tile_k=256", "--config", "stage1:tile_n=32,num_warps=2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("m4 prepare tile_m=16: pass, error 0.00e+00") == 1
    assert done.stdout.count("m4 quantise tile_m=16: pass, error 0.00e+00") == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--stage", "stage3"), "unknown --stage"),
        (("--backend", "vllm"), "backend vllm brings no checker"),
        (("--config", "tile_k=1024", "--stage", "stage2"), "not in the triton stage2 space"),
        (("--config", "num_warps=8,tile_n=16"), "is illegal"),
    ],
)
def test_what_cannot_be_checked_is_one_sentence(
    options: tuple[str, ...], words: str, refused: Refused
) -> None:
    assert words in refused("check", *options)
