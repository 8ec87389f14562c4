"""Plans of many problems: reading, order, what is done, how long it takes, and a whole one offline."""

import json
import string
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.cli.many import PlanRun, _makespan
from autotune.errors import UserError
from autotune.store.records import RunRecord, RunState
from autotune.store.store import Store
from autotune.tuning.plan import Entry, expected_seconds, read_plan, stack_of_today
from tests.cli.helper import autotune
from tests.store.examples import MI325X

BACKEND = 'backend = "tests.live_stand_in:StandIn"\n'


def _plan(folder: Path, *entries: str) -> Path:
    path = folder / "plan.toml"
    path.write_text("".join(f"[[problems]]\n{entry}\n" for entry in entries))
    return path


def test_the_most_valuable_comes_first_and_equals_stay_in_order(tmp_path: Path) -> None:
    path = _plan(
        tmp_path, 'shape = "m1"', 'shape = "m2"\nweight = 3', 'shape = "m3,m5"\nconcurrency = "1,40"'
    )
    entries = read_plan(path)
    assert [entry.options["shape"] for entry in entries] == ["m2", "m1", "m3,m5"]
    assert [entry.problems for entry in entries] == [1, 1, 4]
    assert entries[2].arguments == ["run", "--concurrency", "1,40", "--shape", "m3,m5", "--json"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is no plan"),
        ("problems = 3", "is no plan"),
        ("[[problems]]\n[other]", "is no plan"),
        ("problems = [1]", "entry 1 is no table"),
        ("[[problems", "is not TOML"),
        ("[[problems]]\nshapes = 'm1'", "unknown key 'shapes'"),
        ("[[problems]]\nshape = 1", "wrong type"),
        ("[[problems]]\ntrials = true", "wrong type"),
        ("[[problems]]\nweight = 0", "out of range"),
        ("[[problems]]\ntimeout = nan", "out of range"),
        ("[[problems]]\nshape = 'm99'", "m99"),
        ("[[problems]]\nbackend = 'nothing'", "unknown backend"),
        ("[[problems]]\nmodel = 'nothing'", "nothing"),
        ("[[problems]]\n[[problems]]\nweight = 2", "stands there twice"),
    ],
)
def test_what_is_no_plan_is_refused(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=says):
        read_plan(path)


@given(st.text(alphabet=string.printable, max_size=60))
def test_any_text_is_a_plan_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("plan") / "plan.toml"
    path.write_text(f"[[problems]]\n{text}")
    with suppress(UserError):  # and nothing else
        assert read_plan(path)


ENTRY = Entry("1", {"shape": "m4", "trials": 10}, 1.0, 1)
COMMAND = "autotune run --shape m4 --trials 10 --json"


def _run(command: str = COMMAND, seconds: float = 60.0, **changes: Any) -> RunRecord:
    began = datetime(2026, 1, 1, tzinfo=UTC)
    run = RunRecord(
        id=1,
        uid="1",
        command=command,
        spec={"problems": ["a", "b"], "trials": 10},
        seed=0,
        state=RunState.FINISHED,
        host="h",
        pid=1,
        process=None,
        started_at=began,
        ended_at=began + timedelta(seconds=seconds),
        tool_version="1",
        environment=MI325X,
    )
    return replace(run, **changes)


def test_an_entry_is_done_when_its_command_has_finished_on_todays_stack() -> None:
    today = stack_of_today({"driver": MI325X.driver, "backend": "", "kernel_source": "", "lds_bytes": 1})
    assert today == {"driver": MI325X.driver}
    assert ENTRY.was_done([_run(f"{COMMAND} --devices 3 --workers 4")], today)
    assert ENTRY.was_done([_run()], {})
    assert not ENTRY.was_done([_run(state=RunState.INTERRUPTED)], today)
    assert not ENTRY.was_done([_run()], {"driver": "another"})
    assert not ENTRY.was_done([_run(COMMAND.replace("10", "100"))], today)
    assert not ENTRY.was_done([], today)


def test_how_long_it_takes_is_known_from_runs_of_the_same_kind() -> None:
    assert expected_seconds(replace(ENTRY, problems=3), [_run(), _run(seconds=120)]) == 3 * 45
    assert expected_seconds(replace(ENTRY, options={"trials": 20}), [_run()]) is None
    assert expected_seconds(replace(ENTRY, options={"backend": "vllm", "trials": 10}), [_run()]) is None
    assert _makespan([5.0, 1.0, 1.0, 4.0], 2) == 6.0


def test_fewer_entries_than_gpus_have_several_each() -> None:
    def places(entries: int, gpus: int) -> list[Any]:
        plan = PlanRun([ENTRY] * entries, range(gpus), 16, None, Path("out"), print)
        return [list(place) for place in plan.places]

    assert places(5, 4) == [[0], [1], [2], [3]]
    assert places(2, 4) == [[0, 2], [1, 3]]
    assert places(3, 0) == [[]]


@pytest.mark.slow
def test_a_plan_is_worked_through_and_taken_up_again(tmp_path: Path, own_database: Path) -> None:
    path = _plan(
        tmp_path, f'{BACKEND}shape = "m1"\ntrials = 2', f'{BACKEND}shape = "m2"\ntrials = 2\nweight = 2'
    )
    dry = autotune("run", "--plan", path, "--dry-run")
    assert "weight 2: 1 problem, time not known yet" in dry.stdout.splitlines()[0]
    assert not own_database.exists()

    whole = autotune("run", "--plan", path, "--out", tmp_path / "out")
    assert whole.returncode == 0, whole.stderr
    assert "brings no exporter" in whole.stdout  # the stand-in: said, and the rest is written
    assert (tmp_path / "out" / "report.html").exists()
    with Store.open(own_database) as store:
        assert [winner.problem.shape for winner in store.winners()] == ["m2", "m1"]
        assert {run.state for run in store.runs()} == {RunState.FINISHED}

    again = json.loads(autotune("run", "--plan", path, "--dry-run", "--json").stdout)
    assert [entry["done"] for entry in again["entries"]] == [True, True]
    autotune("run", "--plan", path, "--out", tmp_path / "out")
    with Store.open(own_database) as store:
        assert len(store.runs()) == 2
