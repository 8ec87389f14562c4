"""The same store on a PostgreSQL server, which the tests start: schema, records, claims, copies both ways."""

import socket
import sqlite3
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, inspect, text
from sqlalchemy.exc import IntegrityError

from autotune.cli import app
from autotune.errors import UserError
from autotune.machine.targets import Kind
from autotune.problem.layer import Problem, Stage
from autotune.processes import interrupt
from autotune.results import Gpu, LayerMeasurement, Sample, Status
from autotune.store import claims, copying
from autotune.store.base import Base
from autotune.store.copying import copy_rows, copy_to_file
from autotune.store.location import locate
from autotune.store.merge import merge
from autotune.store.records import CalibrationWindow, LayerTrial, RunState, ShortListed
from autotune.store.store import Store
from tests.cli.helper import autotune
from tests.store import examples
from tests.store.examples import DEFAULT, FASTER, LAYER, M4, MI325X, OFFLINE, PASS, TRITON, WRONG, config
from tests.store.postgres import control, missing, server
from tests.store.postgres import postgres as postgres
from tests.store.postgres import shared_url as shared_url

GPU = Gpu("node3", "GPU-1")
LAYER_TIMES = LayerMeasurement((80.5, 81.0), (90.0, 90.5), 1e-3, 0.2, gpu=GPU)


def _fill(store: Store) -> int:
    """Something of everything that is stored; the run."""
    run = examples.begin(store)
    samples = [Sample(41.0, 2100), Sample(42.0, None, throttled=True)]
    first = store.record_trial(run, examples.trial(gpu=GPU), samples)
    store.record_trial(run, examples.trial(config=config(64), merged_into=first))
    store.record_trial(run, examples.failed(gate_error=float("inf"), config=config(512)))
    store.record_trial(run, examples.trial(config=config(32), contended="process 7 (python)"), samples)
    store.record_calibration(run, [CalibrationWindow(M4, Stage.STAGE1, config(64), GPU, 41.25)])
    store.record_layer(
        run,
        LayerTrial(
            problem=M4,
            backend="triton",
            environment=MI325X,
            workload="cold",
            config=FASTER,
            default=DEFAULT,
            origin="layer",
            kind=Kind.MEASURED,
            outcome=LAYER_TIMES,
        ),
    )
    winner = examples.win(store, run, examples.confirmation(gpu=GPU))
    for stage in Stage:
        store.record_trial(run, examples.estimated(stage, 64, binary_hash="cd" * 32))
    entries = [ShortListed(examples.layer_config(64, 64), 0.3)]
    store.record_short_list(
        run, problem=M4, backend="triton", environment=OFFLINE, default=DEFAULT, entries=entries
    )
    store.record_verdict("ef" * 32, TRITON, "gfx942", WRONG)
    store.record_export(Path("bundle"), "12" * 32, [winner])
    store.end_run(run, RunState.FINISHED)
    return run


def test_the_scripts_make_the_schema_on_a_server(shared_url: str) -> None:
    Store.open(shared_url).close()
    location = locate(shared_url)
    engine = create_engine(location.url or "")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
    declared = create_engine("sqlite://")
    Base.metadata.create_all(declared)
    for table in Base.metadata.tables:
        checks = {check["name"] for check in inspect(declared).get_check_constraints(table)}
        assert {check["name"] for check in inspect(engine).get_check_constraints(table)} == checks
    engine.dispose()


def test_what_is_stored_comes_back(shared_url: str) -> None:
    with Store.open(shared_url) as store:
        run = _fill(store)
        trials = store.trials_of(run)
        assert [trial.config for trial in trials[:3]] == [config(256), config(64), config(512)]
        assert trials[0].gpu == GPU
        assert trials[2].gate_error == float("inf")
        assert store.samples(trials[0].id) == (Sample(41.0, 2100), Sample(42.0, None, throttled=True))
        assert len(store.trials_of(run, contended=True)) == 1
        assert [trial.outcome for trial in store.layers_of(run)] == [LAYER_TIMES]
        assert {winner.kind for winner in store.winners()} == {Kind.MEASURED, Kind.ESTIMATE}
        (winner,) = store.winners(kind=Kind.MEASURED)
        assert winner.config == FASTER
        assert store.confirmation(winner.confirmation or 0).confirmation == examples.confirmation(gpu=GPU)
        assert winner.id in {near.id for near in store.nearby_winners(Problem(LAYER, 2), "triton")}
        assert store.calibration(run) == [CalibrationWindow(M4, Stage.STAGE1, config(64), GPU, 41.25)]
        assert store.verdict("ef" * 32, TRITON) == WRONG
        store.record_verdict("ef" * 32, TRITON, "gfx942", PASS)
        assert store.verdict("ef" * 32, TRITON) == PASS
        assert len(store.exports()) == 1
        assert store.run(run).state is RunState.FINISHED
    with Store.open(shared_url, read_only=True) as store:
        assert store.trial_counts(run)[Status.OK] == 4
    assert "m4" in autotune("show", "--db", shared_url).stdout


@pytest.mark.parametrize(
    "command", ["show", "show --why", "show 1", "top --json", "history", "report --out report.md"]
)
def test_a_command_that_looks_says_the_same_of_a_server(
    command: str,
    store: Store,
    shared_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _fill(store)
    copy_rows(store.location, shared_url)
    monkeypatch.chdir(tmp_path)

    def said(database: str) -> str:
        app([*command.split(), "--db", database], prog_name="autotune", standalone_mode=False)
        written = Path("report.md").read_text() if "report" in command else ""
        return (capsys.readouterr().out + written).replace(database, "DATABASE")

    assert said(shared_url) == said(str(store.location)) != ""


@pytest.mark.slow
def test_a_server_that_is_restarted_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autotune.store.server._LOOK_EVERY_S", 0.01)
    if (reason := missing()) is not None:
        pytest.skip(reason)
    with server() as own, Store.open(own) as store:
        run = examples.begin(store)
        control("restart", own)
        store.record_trial(run, examples.trial())  # what its pool holds is dead
        control("stop", own)
        starting = threading.Timer(0.2, control, ("start", own))
        starting.start()
        store.record_trial(run, examples.trial(config=config(64)))
        starting.join()
        assert len(store.trials_of(run)) == 2
        control("stop", own)
        monkeypatch.setattr(interrupt, "ended", lambda: True)
        monkeypatch.setattr("autotune.store.server._LAST_S", 0.05)
        with pytest.raises(UserError, match="cannot reach"):
            store.trials_of(run)
        control("start", own)


def test_what_must_never_be_read_cannot_be_written(shared_url: str) -> None:
    with Store.open(shared_url) as store:
        run = examples.begin(store)
        for wrong in (
            examples.trial(time_us=None),
            examples.trial(gate_error=None),
            replace(examples.failed(), reason=None),
        ):
            with pytest.raises(IntegrityError):
                store.record_trial(run, wrong)
        with pytest.raises(ValueError, match="failed the numeric gate"):
            examples.win(store, run, examples.confirmation(errors=(1e-3, None)))
        with pytest.raises(IntegrityError):  # not the default, and not faster than it
            examples.win(store, run, examples.confirmation(gain_low=-0.1))
        assert store.trials_of(run) == []


def test_a_claim_is_one_drivers_until_it_runs_out(shared_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store.open(shared_url) as ours, Store.open(shared_url) as theirs:
        assert ours.shared
        first, second = examples.begin(ours), examples.begin(theirs)
        assert ours.claim(first, ["a", "b"]) == {"a", "b"}
        assert theirs.claim(second, ["b", "c"]) == {"c"}
        assert ours.claim(first, ["a", "c"]) == {"a"}  # what is its own it may claim again
        # A driver that is dead renews nothing.
        monkeypatch.setattr(claims, "EXPIRY_S", -1.0)
        ours.renew_claims(first, ["a"])
        monkeypatch.undo()
        assert theirs.claim(second, ["a", "b"]) == {"a"}
        ours.return_claims(first, ["a", "b"])  # which is another's by now
        assert theirs.claim(second, ["b"]) == {"b"}
        assert ours.claim(first, ["a"]) == set()


def test_a_final_counts_as_anothers_by_the_servers_order_not_by_a_hosts_clock(
    shared_url: str,
) -> None:
    with Store.open(shared_url) as ours, Store.open(shared_url) as theirs:
        first, second = examples.begin(ours), examples.begin(theirs)
        earlier = examples.win(theirs, second)
        _, last = ours.last_ids()
        assert last == earlier

        def heard() -> list[int]:
            stack = {"backend": "triton", "environment_key": MI325X.key}
            return [each.id for each in ours.winners_of_others(first, M4, after=last, **stack)]

        assert heard() == []
        examples.win(ours, first)
        later = examples.win(theirs, second)
        assert heard() == [later]


def test_others_trials_are_heard_of(shared_url: str) -> None:
    with Store.open(shared_url) as ours, Store.open(shared_url) as theirs:
        first, second = examples.begin(ours), examples.begin(theirs)
        ours.record_trial(first, examples.trial())
        theirs.record_trial(second, examples.trial(config=config(64)))
        theirs.record_trial(second, examples.trial(config=config(32), contended="others"))
        theirs.record_trial(second, examples.trial(config=config(16), workload="hot"))

        def heard(after: int) -> list[object]:
            found = ours.trials_of_others(
                first, [M4], backend="triton", environment_key=MI325X.key, workload="cold", after=after
            )
            return [trial.config for trial in found]

        assert heard(0) == [config(64)]
        last, _ = ours.last_ids()
        assert heard(last) == [config(64)]  # ids may come out of order
        assert heard(last + 10_000) == []


def test_two_that_store_the_same_problem_at_once_share_its_row(shared_url: str) -> None:
    with Store.open(shared_url) as ours, Store.open(shared_url) as theirs:
        for store in (ours, theirs):
            store.record_trial(examples.begin(store), examples.trial())
        assert len({trial.environment for trial in ours.trials_of(1) + ours.trials_of(2)}) == 1
        with ours.reading() as session:
            assert session.execute(text("SELECT count(*) FROM problems")).scalar() == 1


@pytest.mark.slow
def test_a_database_goes_to_a_server_and_back_row_by_row(
    store: Store, shared_url: str, tmp_path: Path
) -> None:
    run = _fill(store)
    source = str(store.location)
    copied = autotune("db", "copy", source, shared_url)
    assert "compared and equal" in copied.stdout
    back = tmp_path / "back.db"
    assert autotune("db", "copy", shared_url, str(back)).returncode == 0
    with sqlite3.connect(source) as ours, sqlite3.connect(back) as theirs:
        for table in Base.metadata.tables:
            rows = ours.execute(f"SELECT * FROM {table}").fetchall()
            assert theirs.execute(f"SELECT * FROM {table}").fetchall() == rows
            assert rows or table == "claims", table
    with Store.open(shared_url) as there:  # which goes on counting where the file ended
        assert there.trials_of(run) == store.trials_of(run)
        assert there.record_trial(run, examples.trial(config=config(8))) > len(store.trials_of(run))
        examples.win(there, examples.begin(there))


def test_a_copy_never_mixes_with_what_is_there(store: Store, shared_url: str) -> None:
    _fill(store)
    copy_rows(store.location, shared_url)
    with pytest.raises(UserError, match="is not empty, it has"):
        copy_rows(store.location, shared_url)


def test_a_copy_that_came_out_otherwise_is_undone(
    store: Store, shared_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fill(store)
    whole = copying._copy

    def loses_a_sample(ours: object, theirs: sqlalchemy.Connection, table: sqlalchemy.Table) -> None:
        whole(ours, theirs, table)  # type: ignore[arg-type]
        if table.name == "samples":
            theirs.execute(text("UPDATE samples SET us = us + 1e-9 WHERE trial_id = 1 AND number = 1"))

    monkeypatch.setattr(copying, "_copy", loses_a_sample)
    with pytest.raises(UserError, match="row 1, 1 of samples came out otherwise"):
        copy_rows(store.location, shared_url)
    monkeypatch.undo()
    assert copy_rows(store.location, shared_url)["samples"] == 4


def test_what_a_killed_writer_left_beside_an_older_file_is_not_taken_for_the_copys(
    store: Store, tmp_path: Path
) -> None:
    _fill(store)
    target = tmp_path / "older.db"
    for suffix in ("", "-wal", "-shm"):
        target.with_name(f"older.db{suffix}").write_text("an older file")
    copy_to_file(store.location, target)
    assert not target.with_name("older.db-wal").exists()
    with Store.open(target, read_only=True) as copied:
        assert copied.trials_of(1) == store.trials_of(1)


def test_a_file_is_merged_into_a_server(store: Store, shared_url: str, tmp_path: Path) -> None:
    _fill(store)
    other = tmp_path / "other.db"
    copy_to_file(store.location, other)
    with Store.open(shared_url) as there:
        assert merge(there, other).trials == 6
        assert merge(there, other).trials == 0
        assert merge(there, other).calibrations == 0


def test_a_server_that_cannot_be_used_is_a_sentence(shared_url: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot reach .* see that the server runs"):
        Store.open(f"postgresql://nobody@/none?host={tmp_path}")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"postgresql://tuner:secret@127.0.0.1:{free.getsockname()[1]}/none"
        with pytest.raises(UserError) as refused:
            Store.open(url)
    assert "secret" not in str(refused.value)
    for wrong, said in {
        "postgresql://127.0.0.1/a?nonsense=1&password=secret": r"=\*\*\* .*invalid connection option",
        "mysql://tuner:secret@host/a": r"--db mysql://… is no database that this tool knows",
    }.items():
        with pytest.raises(UserError, match=said) as refused:
            Store.open(wrong)
        assert "secret" not in str(refused.value)
    with pytest.raises(UserError, match=r"gave up \(canceling statement due to statement timeout\)"):
        Store.open(f"{shared_url}&options=-c%20statement_timeout%3D1", read_only=True).trials_of(1)
    plain, _, options = shared_url.partition("?")
    with pytest.raises(UserError, match=r"nosuch.* does not exist.* see that"):
        Store.open(f"{plain.rpartition('/')[0]}/nosuch?{options}")
