"""`autotune isa`, as a user runs it, with stand-ins of a FlyDSL tree and wheel."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.helper import Refused, autotune
from tests.standins import PUBLISHED_TREE, python_with_wheel

OFFLINE = ("--target", "offline:mi325x")


@pytest.fixture
def flydsl(tmp_path: Path) -> tuple[str, ...]:
    """Options that name the stand-ins."""
    python = python_with_wheel(tmp_path)
    return (
        *("--backend", "flydsl", "--flydsl-root", str(PUBLISHED_TREE)),
        *("--flydsl-python", str(python), *OFFLINE),
    )


def facts(*options: str) -> dict[str, Any]:
    done = autotune("isa", *options, "--json")
    assert done.returncode == 0, done.stderr
    compared: dict[str, Any] = json.loads(done.stdout)
    return compared


def test_the_gates_sign_turns_with_the_tile(flydsl: tuple[str, ...]) -> None:
    differences = [
        facts(*flydsl, "--config", f"tile_k={k}", "--config", f"tile_k={k},sched=false")["facts"]["s_waitcnt"]
        for k in (128, 256)
    ]
    assert differences == [{"a": 300, "b": 100, "b-a": -200}, {"a": 300, "b": 320, "b-a": 20}]


def test_one_config_is_compared_with_the_default_and_printed_for_people(flydsl: tuple[str, ...]) -> None:
    done = autotune("isa", *flydsl, "--stage", "stage2", "--config", "tile_k=128")
    assert done.returncode == 0, done.stderr
    assert "A: mode=atomic,sched=true,tile_k=64" in done.stdout
    assert "B: mode=atomic,sched=true,tile_k=128" in done.stdout
    assert "LDS bytes per workgroup" in done.stdout


def test_equal_code_is_said(flydsl: tuple[str, ...]) -> None:
    done = autotune("isa", *flydsl, "--config", "default", "--config", "tile_k=256")
    assert "One program" in done.stdout


def test_any_backend_can_be_looked_at() -> None:
    compared = facts(*OFFLINE, "--config", "tile_k=256", "--config", "tile_k=256,waves_per_eu=4")
    assert compared["facts"]["mfma"]["a"] > 0
    assert compared["a"]["waves_per_eu"] is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--config", "tile_k=512", "--config", "tile_k=512", "--config", "tile_k=512"), "twice"),
        (("--config", "tile_k=1024"), "two tiles of K"),
        (("--config", "tile_k=100"), "use one of"),
        (("--config", "tile_k"), "knob=value"),
        (("--config", "tile_k=128", "--stage", "stage3"), "use stage1 or stage2"),
        (("--config", "tile_k=128", "--shape", "m1,m2"), "one --shape"),
    ],
)
def test_a_mistake_is_one_sentence(
    flydsl: tuple[str, ...], options: tuple[str, ...], words: str, refused: Refused
) -> None:
    assert words in refused("isa", *flydsl, *options)


@pytest.mark.slow
def test_executed_counts_stand_beside_those_of_the_text() -> None:
    compared = facts(*OFFLINE, "--stage", "stage2", "--config", "reduce=atomic", "--executed")
    executed = compared["executed"]
    assert [each["verdict"]["status"] for each in executed["verdicts"]] == ["pass", "pass"]
    assert executed["facts"]["atomic bytes requested"]["b"] > executed["facts"]["atomic bytes requested"]["a"]
    assert executed["facts"]["mfma instructions"]["a"] > 0
    assert executed["facts"]["load 64-byte segments"]["a"] > 0
    assert all(wait["max_bytes"] >= wait["mean_bytes"] for waits in executed["waits"] for wait in waits)


@pytest.mark.slow
def test_executed_counts_read_well() -> None:
    done = autotune("isa", *OFFLINE, "--stage", "stage2", "--config", "split_k=2,tile_k=128", "--executed")
    assert done.returncode == 0, done.stderr
    assert "A: pass, error" in done.stdout
    assert "load bytes in flight per wave" in done.stdout
    assert "reached" in done.stdout
