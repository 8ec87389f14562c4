"""Merging brings in all that another machine found, once, and leaves its file as it was."""

import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import astuple, replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest

from autotune.errors import UserError
from autotune.problem.layer import Problem, Stage
from autotune.results import Sample
from autotune.store import merge as merging
from autotune.store import migrations
from autotune.store.merge import Merged, merge
from autotune.store.records import RunState, ShortListed
from autotune.store.store import Store
from tests.store.examples import (
    DEFAULT,
    LAYER,
    M4,
    MI325X,
    OFFLINE,
    PASS,
    TRITON,
    WRONG,
    begin,
    config,
    confirmation,
    estimated,
    layer_config,
    layer_trial,
    trial,
    win,
)
from tests.store.test_migrations import NEXT, SCRIPT, columns, next_version  # noqa: F401  (a fixture)

NOTHING = Merged(0, 0, 0, 0, 0, 0, 0, 0, 0, 0)


@pytest.fixture
def other(empty: Path, tmp_path: Path) -> Iterator[Store]:
    """The other machine's database."""
    place = tmp_path / "other" / "autotune.db"
    place.parent.mkdir()
    shutil.copy(empty, place)
    with Store.open(place) as store:
        yield store


def file(store: Store) -> Path:
    assert store.location.path is not None
    return store.location.path


def fill(store: Store) -> int:
    """A finished run with something in every table."""
    run = begin(store)
    first = store.record_trial(run, trial(config=config(64)), [Sample(41.0, 2100), Sample(42.0, None, True)])
    store.record_trial(run, trial(config=config(128), merged_into=first))
    winner = win(store, run)
    for stage in Stage:
        store.record_trial(run, estimated(stage, 32))
    store.record_short_list(
        run,
        problem=M4,
        backend="triton",
        environment=OFFLINE,
        default=DEFAULT,
        entries=[ShortListed(layer_config(32, 32), 0.3)],
    )
    store.record_export(Path("/deploy"), "ab" * 32, [winner])
    store.record_layer(run, layer_trial())
    store.record_verdict("cd" * 32, TRITON, "gfx942", PASS)
    store.end_run(run, RunState.FINISHED)
    return run


def test_everything_arrives_with_new_ids(store: Store, run: int, other: Store) -> None:
    store.record_trial(run, trial(problem=Problem(LAYER, 2), environment=replace(MI325X, driver="7.0")))
    win(store, run, confirmation(problem=Problem(LAYER, 2)))
    theirs = fill(other)
    added = merge(store, file(other))
    assert added == Merged(
        environments=1,
        problems=1,
        runs=1,
        trials=4,
        layers=1,
        confirmations=1,
        winners=2,
        calibrations=0,
        exports=1,
        verdicts=1,
    )

    ours = store.runs()[-1]
    assert ours.id != theirs
    assert replace(ours, id=theirs) == other.run(theirs)
    arrived, sent = store.trials_of(ours.id), other.trials_of(theirs)
    assert [replace(one, id=0, run=0, merged_into=None) for one in arrived] == [
        replace(one, id=0, run=0, merged_into=None) for one in sent
    ]
    assert arrived[1].merged_into == arrived[0].id
    assert store.samples(arrived[0].id) == other.samples(sent[0].id)
    assert store.layers_of(ours.id) == other.layers_of(theirs) == [layer_trial()]

    measured, listed = (winner for winner in store.winners(problem=M4))
    assert measured.confirmation is not None
    assert store.confirmation(measured.confirmation).confirmation == confirmation()
    assert (listed.stage1_trial, listed.stage2_trial) == (arrived[2].id, arrived[3].id)
    assert store.exports()[0].winners == (measured.id,)


def test_where_two_machines_judged_a_binary_the_one_that_found_it_wrong_is_believed(
    store: Store, other: Store
) -> None:
    ours, theirs = "01" * 32, "02" * 32
    for binary, here, there in ((ours, WRONG, PASS), (theirs, PASS, WRONG)):
        store.record_verdict(binary, TRITON, "gfx942", here)
        other.record_verdict(binary, TRITON, "gfx942", there)
    assert merge(store, file(other)) == NOTHING
    assert store.verdict(ours, TRITON) == store.verdict(theirs, TRITON) == WRONG


def test_merging_twice_adds_nothing(store: Store, other: Store) -> None:
    fill(other)
    merge(store, file(other))
    before = dump(file(store))
    assert merge(store, file(other)) == NOTHING
    assert dump(file(store)) == before


def test_merging_to_and_fro_ends(store: Store, other: Store) -> None:
    fill(store)
    fill(other)
    merge(store, file(other))
    assert astuple(merge(other, file(store)))[2] == 1  # the run that only this one had
    assert merge(store, file(other)) == NOTHING
    assert len(store.runs()) == len(other.runs()) == 2


def test_a_run_under_way_is_completed_by_merging_again(store: Store, other: Store) -> None:
    run = begin(other)
    other.record_trial(run, trial(config=config(64)))
    merge(store, file(other))
    assert store.runs()[0].state is RunState.RUNNING
    other.record_trial(run, trial(config=config(128)))
    other.end_run(run, RunState.FINISHED)
    assert merge(store, file(other)) == replace(NOTHING, trials=1)
    (merged,) = store.runs()
    assert (merged.state, merged.ended_at) == (RunState.FINISHED, other.run(run).ended_at)
    assert [each.config for each in store.trials_of(merged.id)] == [config(64), config(128)]


def test_resuming_finds_what_was_merged(store: Store, other: Store) -> None:
    fill(other)
    merge(store, file(other))
    found = store.trials(
        problem=M4, stage=Stage.STAGE1, backend="triton", environment_key=MI325X.key, workload="cold"
    )
    assert [each.config for each in found] == [config(64), config(128)]


def test_an_older_winner_that_arrives_late_does_not_replace_a_newer_one(store: Store, other: Store) -> None:
    win(other, begin(other))
    newer = win(store, begin(store))
    merge(store, file(other))
    assert [winner.id for winner in store.winners()] == [newer]
    assert len(rows(file(store), "winners")) == 2


def test_the_other_file_is_left_as_it_was(store: Store, other: Store) -> None:
    fill(other)
    other.close()
    before = folder(file(other).parent)
    merge(store, file(other))
    assert folder(file(other).parent) == before


def test_a_file_that_is_being_written_is_merged_as_of_now(store: Store, other: Store) -> None:
    run = begin(other)
    other.record_trial(run, trial())
    with other.writing() as session:
        session.connection().exec_driver_sql("DELETE FROM trials")  # not yet committed
        assert merge(store, file(other)).trials == 1


def test_a_killed_writers_log_is_merged_too(store: Store, other: Store, tmp_path: Path) -> None:
    other.record_trial(begin(other), trial())
    killed = tmp_path / "killed.db"
    for suffix in ("", "-wal"):  # what lies on the disk while the other still has it open
        shutil.copy(f"{file(other)}{suffix}", f"{killed}{suffix}")
    before = killed.read_bytes()
    assert merge(store, killed).trials == 1
    assert killed.read_bytes() == before


def test_a_killed_writers_log_where_nothing_can_be_written(
    store: Store, other: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other.record_trial(begin(other), trial())
    killed = tmp_path / "killed.db"
    for suffix in ("", "-wal"):
        shutil.copy(f"{file(other)}{suffix}", f"{killed}{suffix}")
    connect = sqlite3.connect

    def refuse(name: str | Path, **options: bool) -> sqlite3.Connection:
        if str(killed) in str(name):
            return connect("file:/nowhere/at/all.db?mode=ro", uri=True)
        return connect(name, **options)

    monkeypatch.setattr(sqlite3, "connect", refuse)
    assert merge(store, killed).trials == 1


def test_an_older_file_is_upgraded_in_a_copy(
    path: Path,
    tmp_path: Path,
    next_version: Path,  # noqa: F811
) -> None:
    older = tmp_path / "older.db"
    with Store.open(older) as written:
        begin(written)
    before = older.read_bytes()
    next_version.write_text(SCRIPT)
    migrations.revisions.cache_clear()
    with Store.open(path) as store:
        assert store.version == NEXT
        assert merge(store, older).runs == 1
    assert older.read_bytes() == before
    assert "note" not in columns(older, "runs")


@pytest.mark.slow
def test_a_run_writes_while_a_merge_is_under_way(
    store: Store, run: int, other: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between any two rows at most: a merge never holds the lock for long."""
    begun = begin(other)
    for width in range(1000):
        other.record_trial(begun, trial(config=config(width)))
    written = 0
    with Store.open(path) as running:

        def write(_: float) -> None:
            nonlocal written
            running.record_trial(run, trial())
            written += 1

        monkeypatch.setattr(merging, "time", SimpleNamespace(sleep=write, monotonic=lambda: 0.0))
        assert merge(store, file(other)).trials == 1000
    assert written >= 10
    assert len(store.trials_of(run)) == written


@pytest.mark.slow
def test_a_merge_that_is_killed_anywhere_is_completed_by_the_next(
    empty: Path, other: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(other)
    monkeypatch.setattr(merging, "_PARTS", tuple(replace(part, at_once=1) for part in merging._PARTS))
    whole = tmp_path / "whole.db"
    shutil.copy(empty, whole)
    with Store.open(whole) as store:
        merge(store, file(other))
    for turns in count():
        killed = tmp_path / f"killed{turns}.db"
        shutil.copy(empty, killed)
        with Store.open(killed) as store, monkeypatch.context() as patch:
            left = iter(range(turns))

            def kill(_: float, left: Iterator[int] = left) -> None:
                if next(left, None) is None:
                    raise KeyboardInterrupt

            patch.setattr(merging, "time", SimpleNamespace(sleep=kill, monotonic=lambda: 0.0))
            try:
                merge(store, file(other))
            except KeyboardInterrupt:
                pass
            else:
                break
            finally:
                patch.undo()
            for run in store.runs():
                trials = store.trials_of(run.id)
                assert run.state is not RunState.FINISHED or len(trials) == 4
                assert not trials or len(store.samples(trials[0].id)) == 2  # never without them
            merge(store, file(other))
        assert dump(killed) == dump(whole)
    assert turns > 10


def test_what_the_schema_refuses_leaves_whole_rows_only(store: Store, other: Store) -> None:
    fill(other)
    with sqlite3.connect(file(other)) as by_hand:
        by_hand.execute("PRAGMA ignore_check_constraints = ON")
        by_hand.execute("UPDATE winners SET rank = -1, gain_low = -1 WHERE kind = 'measured'")
    with pytest.raises(Exception, match="CHECK constraint failed"):
        merge(store, file(other))
    (run,) = store.runs()
    assert run.state is not RunState.FINISHED
    assert len(store.trials_of(run.id)) == 4
    assert store.winners() == []


def test_files_that_cannot_be_merged(store: Store, other: Store, tmp_path: Path) -> None:
    missing, text, newer = tmp_path / "missing.db", tmp_path / "notes.txt", file(other)
    text.write_text("notes\n" * 1000)
    with sqlite3.connect(newer) as by_hand:
        by_hand.execute("UPDATE alembic_version SET version_num = '9999'")
    for place, message in (
        (missing, f"there is no database at {missing}"),
        (text, f"{text} is not an SQLite database"),
        (newer, f"{newer} is of version 9999, newer than this tool knows"),
        (file(store), f"{file(store)} is this database itself"),
    ):
        with pytest.raises(UserError) as error:
            merge(store, place)
        assert str(error.value).startswith(message)


def test_a_file_that_cannot_be_read(store: Store, other: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError, match=r"cannot read .* \(Permission denied\): make it readable"):
        merge(store, file(other))


def rows(path: Path, table: str) -> list[tuple[object, ...]]:
    with sqlite3.connect(path) as connection:
        return connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall()


def dump(path: Path) -> list[str]:
    with sqlite3.connect(path) as connection:
        return list(connection.iterdump())


def folder(path: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in path.iterdir()}
