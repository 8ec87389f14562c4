"""A verdict on machine code stands in the manifest, and a wrong one keeps its winner from every bundle."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from autotune.errors import UserError
from autotune.export.export import Selection, export
from autotune.problem.layer import Stage
from autotune.results import VerdictStatus
from autotune.store.records import ShortListed
from autotune.store.store import Store
from tests.store.examples import (
    DEFAULT,
    FASTER,
    M4,
    OFFLINE,
    PASS,
    TRITON,
    WRONG,
    begin,
    estimated,
    layer_config,
    trial,
    win,
)

BINARIES = {Stage.STAGE1: "01" * 32, Stage.STAGE2: "02" * 32}


@pytest.fixture
def store(own_database: Path) -> Iterator[Store]:
    with Store.open() as store:
        yield store


def measured(store: Store) -> None:
    """A measured winner whose binaries are known."""
    run = begin(store)
    for stage in Stage:
        store.record_trial(run, trial(stage=stage, config=FASTER.of(stage), binary_hash=BINARIES[stage]))
    win(store, run)


def short_listed(store: Store) -> None:
    """The same on a machine without the card."""
    run = begin(store)
    for stage in Stage:
        store.record_trial(run, estimated(stage, 32, binary_hash=BINARIES[stage]))
    listed = [ShortListed(layer_config(32, 32), 0.3)]
    store.record_short_list(
        run, problem=M4, backend="triton", environment=OFFLINE, default=DEFAULT, entries=listed
    )


def test_the_manifest_says_what_was_executed_and_what_was_not(store: Store, tmp_path: Path) -> None:
    measured(store)
    store.record_verdict(BINARIES[Stage.STAGE1], TRITON, "gfx942", PASS)
    written = export(store, tmp_path / "deploy", Selection())
    (told,) = json.loads((written.folder / "manifest.json").read_text())["winners"]
    assert told["executed_on_cpu"] == {
        "stage1": {"verdict": "pass", "error": PASS.error, "reason": None},
        "stage2": None,
    }


@pytest.mark.parametrize("status", [VerdictStatus.INCORRECT, VerdictStatus.FAULT])
@pytest.mark.parametrize("listed", [measured, short_listed], ids=["measured", "estimate"])
def test_what_is_wrong_is_exported_on_no_target(
    store: Store, tmp_path: Path, listed, status: VerdictStatus
) -> None:
    from dataclasses import replace

    listed(store)
    selection = Selection(allow_estimates=True)
    store.record_verdict(BINARIES[Stage.STAGE2], TRITON, "gfx942", replace(WRONG, status=status))
    with pytest.raises(UserError, match="winner of m4 is wrong, its stage2 machine code was executed"):
        export(store, tmp_path / "deploy", selection)
    assert not (tmp_path / "deploy").exists()
    assert store.exports() == []
