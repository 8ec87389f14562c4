"""Exports: which winners are in which bundle."""

import socket
from pathlib import Path

import pytest
from sqlalchemy.exc import IntegrityError

from autotune import __version__
from autotune.machine.targets import Kind
from autotune.problem.layer import Problem
from autotune.store.store import Store
from tests.store.examples import LAYER, confirmation, win


def test_an_export_comes_back_as_it_was_recorded(store: Store, run: int, tmp_path: Path) -> None:
    winners = [win(store, run), win(store, run, confirmation(problem=Problem(LAYER, 2)))]
    id_ = store.record_export(tmp_path / "deploy", "ab" * 32, winners)
    (export,) = store.exports()
    assert (export.id, export.winners, export.manifest_hash) == (id_, tuple(winners), "ab" * 32)
    assert (export.host, export.bundle_path) == (socket.gethostname(), str(tmp_path / "deploy"))
    assert (export.unmeasured_allowed, export.tool_version) == (False, __version__)


def test_exporting_again_is_another_export(store: Store, run: int, tmp_path: Path) -> None:
    winner = win(store, run)
    ids = [store.record_export(tmp_path, "ab" * 32, [winner]) for _ in range(2)]
    assert [export.id for export in store.exports()] == ids


def test_an_export_names_winners_that_exist(store: Store, tmp_path: Path) -> None:
    with pytest.raises(LookupError):
        store.record_export(tmp_path, "ab" * 32, [12345])
    assert store.exports() == []


def test_what_was_not_measured_is_exported_only_where_the_user_let_it(
    store: Store, run: int, tmp_path: Path
) -> None:
    replayed = win(store, run, kind=Kind.REPLAYED)
    with pytest.raises(IntegrityError, match="measured"):
        store.record_export(tmp_path, "ab" * 32, [replayed])
    assert store.exports() == []
    store.record_export(tmp_path, "ab" * 32, [replayed], unmeasured_allowed=True)
    assert store.exports()[0].unmeasured_allowed
