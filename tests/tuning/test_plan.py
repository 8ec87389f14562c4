"""Plans of many problems: reading, order, what is done, how long it takes, and a whole one offline."""

import json
import re
import string
import sys
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.cli import many
from autotune.cli.asked import asked_by_entry
from autotune.cli.many import PlanRun, _makespan, run_plan
from autotune.errors import UserError
from autotune.machine.devices import DEVICES
from autotune.machine.targets import Target, offline_fingerprint
from autotune.problem.layer import Layer, Problem
from autotune.problem.models import preset
from autotune.store.records import RunRecord, RunState
from autotune.store.store import Store
from autotune.tuning.plan import Entry, expected_seconds, read_plan
from tests.cli.helper import autotune
from tests.store.examples import LAYER, MI325X
from tests.store.postgres import postgres as postgres

BACKEND = 'backend = "tests.live_stand_in:StandIn"\n'
OFFLINE = Target("offline:mi325x", DEVICES["mi325x"], live=False, why="for the test")
LIVE = Target("live", DEVICES["mi325x"], live=True, why="for the test")


def _plan(folder: Path, *entries: str) -> Path:
    path = folder / "plan.toml"
    path.write_text("".join(f"[[problems]]\n{entry}\n" for entry in entries))
    return path


def _read(path: Path, target: Target = LIVE, name: str | None = None) -> list[Entry]:
    return read_plan(path, lambda options: asked_by_entry(options, target), name)


def test_the_most_valuable_comes_first_and_equals_stay_in_order(tmp_path: Path) -> None:
    path = _plan(
        tmp_path, 'shape = "m1"', 'shape = "m2"\nweight = 3', 'shape = "m3,m5"\nconcurrency = "1,40"'
    )
    entries = _read(path)
    assert [entry.options["shape"] for entry in entries] == ["m2", "m1", "m3,m5"]
    assert [[problem.tokens for problem in entry.problems] for entry in entries] == [
        [2],
        [1],
        [3, 5, 120, 200],
    ]
    assert entries[2].arguments == ["run", "--concurrency", "1,40", "--shape", "m3,m5", "--json"]


def test_an_entry_has_the_layer_and_backend_of_a_run_with_its_options(tmp_path: Path) -> None:
    path = _plan(
        tmp_path,
        'model = "deepseek-v3"\nep = 4\nfused_shared_experts = false',
        'model = "deepseek-r1"\nrequantised = true\nbackend = "vllm"\nrouting = "zipf:1"',
    )
    spread, requantised = _read(path, name="live")
    assert spread.backend == "sglang_fp8_block"  # by the checkpoint's numbers
    assert spread.layer == ["--model", "deepseek-v3", "--ep", "4", "--no-fused-shared-experts"]
    assert spread.problems[0].layer.ep == 4
    assert spread.arguments[-3:] == ["--target", "live", "--json"]
    assert requantised.layer == ["--model", "deepseek-r1", "--requantised"]
    assert requantised.problems[0].routing.key == "zipf:1"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is no plan"),
        ("problems = 3", "is no plan"),
        ("[[problems]]\n[other]", "is no plan"),
        ("problems = [1]", "entry 1 is no table"),
        ("[[problems", "is not TOML"),
        ("[[problems]]\nshapes = 'm1'", "unknown key 'shapes': use some of model, "),
        ("[[problems]]\nshape = 1", 'wrong type: write it like shape = "m1,m4"'),
        ("[[problems]]\ntrials = true", "wrong type: write it like trials = 400"),
        ("[[problems]]\nrequantised = 1", "wrong type: write it like requantised = true"),
        ("[[problems]]\nweight = 0", "out of range"),
        ("[[problems]]\nseed = -1", "out of range: give 0 to 4294967295"),
        ("[[problems]]\ntimeout = nan", "out of range: give 0.1 to"),
        ("[[problems]]\n[[problems]]\nshape = 'm99'", "entry 2: unknown --shape 'm99'"),
        ("[[problems]]\ntp = 3", "entry 1: --tp 3 does not split"),
        ("[[problems]]\nrouting = 'zipf'", "is not a routing model"),
        ("[[problems]]\nbackend = 'nothing'", "entry 1: unknown backend"),
        ("[[problems]]\nbackend = 'humming_w4a8'", "entry 1: backend humming_w4a8 tunes"),
        ("[[problems]]\nmodel = 'nothing'", "entry 1: unknown model 'nothing'"),
        ("[[problems]]\nmodel = 'deepseek-v3'\nmodel_config = 'x'", "both name the model"),
        ("[[problems]]\nmodel_config = 'nowhere'", "cannot read nowhere"),
        ("[[problems]]\n[[problems]]\nweight = 2", "entry 2: m4 of .* is in entry 1 .defaults. too"),
        ("[[problems]]\nshape = 'all'\n[[problems]]\nshape = 'm3'\ntrials = 9", "m3 of .* is in entry 1"),
    ],
)
def test_what_is_no_plan_is_refused(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=rf"^{re.escape(str(path))}.*{says}"):
        _read(path)


def test_a_routing_that_nothing_is_timed_on_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="routing has no effect with offline:mi325x"):
        _read(_plan(tmp_path, 'routing = "zipf:1"'), OFFLINE)


def test_an_entry_that_a_recording_has_not_is_refused(tmp_path: Path) -> None:
    target = replace(OFFLINE, name="replay:t", table=Path("t"), routing="zipf:1")
    layer = Layer.of(preset("qwen3-235b-a22b"), 4)
    table: Any = SimpleNamespace(
        layer=layer, fingerprint=SimpleNamespace(backend="triton"), space=lambda tokens, stage: None
    )

    def read(text: str) -> list[Entry]:
        return read_plan(_plan(tmp_path, text), lambda options: asked_by_entry(options, target, table))

    (entry,) = read('model = "qwen3-235b-a22b"\ntp = 4\nshape = "m2"')
    assert entry.problems[0].routing.key == "zipf:1"  # the recording's
    (unnamed,) = read("")
    assert unnamed.problems[0].layer == layer
    with pytest.raises(UserError, match="entry 1: the table is of qwen3-235b"):
        read("tp = 4")


@given(st.text(alphabet=string.printable, max_size=60))
def test_any_text_is_a_plan_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("plan") / "plan.toml"
    path.write_text(f"[[problems]]\n{text}")
    with suppress(UserError):  # and nothing else
        assert _read(path)


PROBLEMS = [Problem(LAYER, 4)]
ENTRY = Entry("1", {"shape": "m4", "trials": 10}, 1.0, "triton", PROBLEMS)
COMMAND = "autotune run --shape m4 --trials 10 --json"


def _run(command: str = COMMAND, seconds: float = 60.0, **changes: Any) -> RunRecord:
    began = datetime(2026, 1, 1, tzinfo=UTC)
    run = RunRecord(
        id=1,
        uid="1",
        command=command,
        spec={"problems": [problem.key for problem in PROBLEMS], "trials": 10, "target": "live"},
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
    today = {"driver": MI325X.driver, "kernel_source": MI325X.kernel_source}
    assert ENTRY.was_done([_run(f"{COMMAND} --devices 3 --workers 4")], today)
    assert ENTRY.was_done([_run()], {})
    assert not ENTRY.was_done([_run(state=RunState.INTERRUPTED)], today)
    assert not ENTRY.was_done([_run()], today | {"driver": "another"})
    assert not ENTRY.was_done([_run()], today | {"kernel_source": "another"})
    assert not ENTRY.was_done([_run(COMMAND.replace("10", "100"))], today)
    assert not ENTRY.was_done([_run(spec={"problems": ["of a config.json that has changed"]})], today)
    assert not ENTRY.was_done([_run(environment=replace(MI325X, backend="another"))], today)
    assert not ENTRY.was_done([], today)


def test_todays_stack_is_the_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"driver": "7", "backend": "", "kernel_source": "", "lds_bytes": 1}
    monkeypatch.setattr(many, "probe", lambda _: told)
    assert many._today(LIVE) == {"driver": "7"}
    today = many._today(OFFLINE)
    ran = offline_fingerprint(OFFLINE, backend="triton", kernel_source="1")
    assert today["device"] == "offline:mi325x"
    assert not ran.differences(today)
    assert MI325X.differences(today)
    assert many._today(replace(OFFLINE, name="replay:t", table=Path("t"))) == {}


def test_how_long_it_takes_is_known_from_runs_of_the_same_kind() -> None:
    def expected(**changes: Any) -> float | None:
        return expected_seconds(replace(ENTRY, **changes), "live", [_run(), _run(seconds=120)])

    assert expected(problems=PROBLEMS * 3) == 3 * 90
    assert expected(options={"trials": 20}) is None
    assert expected(backend="vllm") is None
    assert expected_seconds(ENTRY, "offline:mi325x", [_run()]) is None
    assert _makespan([5.0, 1.0, 1.0, 4.0], 2) == 6.0


def test_fewer_entries_than_gpus_have_several_each() -> None:
    def places(entries: int, gpus: int) -> list[Any]:
        plan = PlanRun([ENTRY] * entries, LIVE, range(gpus), 16, None, Path("out"), print)
        return [list(place) for place in plan.places]

    assert places(5, 4) == [[0], [1], [2], [3]]
    assert places(2, 4) == [[0, 2], [1, 3]]
    assert places(3, 0) == [[]]


_PLACE = """
import json, os, signal, sys
for number, line in enumerate(sys.stdin):
    request = json.loads(line)
    os.environ.update(request["environment"])
    if "m1" in line:
        os.kill(os.getpid(), signal.SIGKILL)
    if "m2" in line:
        sys.exit("error: no memory is left")
    if "m3" in line:
        print(json.dumps({"code": None, "output": "", "errors": "a mistake of ours"}), flush=True)
        sys.exit()
    refused = {"code": 2, "output": "", "errors": f"error: refused, request {number}"}
    result = {"code": 0, "output": json.dumps({"winners": [], "run": os.environ["CUDA_VISIBLE_DEVICES"]})}
    print(json.dumps(refused if "m4" in line else {**result, "errors": ""}), flush=True)
"""


def test_an_entry_says_how_it_ended_and_the_next_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the process that is there, unless that has ended."""
    monkeypatch.setattr(many.PlaceProcess, "command", [sys.executable, "-c", _PLACE])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    said: list[str] = []
    entries = [replace(ENTRY, name=f"m{n}", options={"shape": f"m{n}"}) for n in range(1, 6)]
    ahead = [many.PlaceProcess() for _ in range(2)]
    taken, other = ahead
    plan = PlanRun(entries, LIVE, [1], 1, str(tmp_path / "a.db"), tmp_path / "out", said.append, ahead)
    assert plan.work() == {
        "m1": "SIGKILL ended it: the same command goes on",
        "m2": "no memory is left",
        "m3": "a mistake of ours",
        "m4": "refused, request 0",
    }
    assert said[-1] == "m5: 0 winners, run 7"  # where its GPU alone is visible
    assert len(plan._workers) == 4
    assert plan._workers[0] is taken  # which was there
    other._process.wait(10)  # there is one place


def test_a_plan_has_no_earlier_runs_where_there_is_no_database_or_an_empty_one(
    tmp_path: Path, postgres: str
) -> None:
    for db in (str(tmp_path / "none.db"), postgres):
        assert PlanRun([ENTRY], OFFLINE, (), 1, db, tmp_path, print).done() == []
    assert list(tmp_path.iterdir()) == []


def test_a_place_for_the_bundles_is_made_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    plan = PlanRun([ENTRY], OFFLINE, (), 1, None, tmp_path / "file" / "out", print)
    plan.work = lambda: pytest.fail("it ran")  # type: ignore[method-assign]
    with pytest.raises(UserError, match=r"cannot make the folder .*out \(Not a directory\)"):
        run_plan(plan, as_json=False, quiet=False)


def test_an_entry_whose_engine_is_not_here_is_told_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOTUNE_SGLANG_SRC", str(tmp_path / "none"))
    plan = PlanRun([replace(ENTRY, backend="sglang")], OFFLINE, (), 1, None, tmp_path / "out", print)
    plan.work = lambda: pytest.fail("it ran")  # type: ignore[method-assign]
    with pytest.raises(UserError, match=r"entry 1: .*none"):
        run_plan(plan, as_json=False, quiet=False)
    assert not plan.out.exists()


def test_gpus_that_end_at_the_same_time_do_not_wait_for_one_entry(tmp_path: Path) -> None:
    """A queue that was not empty a moment ago may be."""
    plan = PlanRun([], OFFLINE, (), 1, None, tmp_path, print)
    waiting: Any = SimpleNamespace(
        empty=lambda: False, get=SimpleQueue().get, get_nowait=SimpleQueue().get_nowait
    )
    plan._serve((), waiting, {})


@pytest.mark.slow
def test_a_plan_is_worked_through_and_taken_up_again(tmp_path: Path, own_database: Path) -> None:
    path = _plan(
        tmp_path, f'{BACKEND}shape = "m1"\ntrials = 2', f'{BACKEND}shape = "m2"\ntrials = 2\nweight = 2'
    )
    dry = autotune("run", "--plan", path, "--dry-run")
    assert "weight 2: 1 problem of tests.live_stand_in:StandIn, time not known" in dry.stdout.splitlines()[0]
    assert not own_database.exists()

    whole = autotune("run", "--plan", path, "--out", tmp_path / "out")
    assert whole.returncode == 0, whole.stderr
    assert "brings no exporter" in whole.stdout  # the stand-in: said, and the rest is written
    assert (tmp_path / "out" / "report.html").exists()
    with Store.open(own_database) as store:
        assert [winner.problem.shape for winner in store.winners()] == ["m2", "m1"]
        assert {run.state for run in store.runs()} == {RunState.FINISHED}
        assert len({run.process for run in store.runs()}) == 1  # which has kept what starts slowly

    again = json.loads(autotune("run", "--plan", path, "--dry-run", "--json").stdout)
    assert [entry["done"] for entry in again["entries"]] == [True, True]
    autotune("run", "--plan", path, "--out", tmp_path / "out")
    with Store.open(own_database) as store:
        assert len(store.runs()) == 2
