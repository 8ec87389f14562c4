"""What a run says of its progress."""

import pytest

from autotune.cli.progress import LiveProgress, PlainProgress, Progress
from autotune.problem.layer import Problem, Stage
from autotune.results import Status
from autotune.search.driver import Task
from autotune.search.study import StageSearch
from tests.live_stand_in import TARGET, TINY, StandIn
from tests.store.examples import failed, trial

TASK: Task = (Problem(TINY, 2), Stage.STAGE1)


@pytest.fixture
def search() -> StageSearch:
    space = StandIn().space(TINY, 2, Stage.STAGE1, TARGET.device)
    return StageSearch(space, sampler="random", seed=0, budget=3)


def _told(tally: Progress, search: StageSearch) -> None:
    """The search asks for the default and hears that it takes 40 us."""
    ask = search.ask()
    assert ask is not None
    search.tell(ask.config, 40.0)
    tally.on_trial(trial(problem=TASK[0], config=ask.config, time_us=40.0, origin=ask.origin), search)


def test_counts_by_status_and_what_was_merged(search: StageSearch) -> None:
    tally = Progress()
    tally.on_start({TASK: search}, resumed=0)
    assert tally.by_status() == "no result yet"
    tally.on_trial(trial(), search)
    tally.on_trial(trial(merged_into=1), search)
    tally.on_trial(failed(Status.TIMEOUT), search)
    assert tally.by_status() == "2 ok, 1 timeout, 1 trial reused an identical binary"


def test_a_run_that_finds_nothing_left_to_try_says_so(search: StageSearch) -> None:
    tally = Progress()
    tally.on_start({TASK: search}, resumed=96)
    assert tally.spoken() == "nothing left to try; 96 stored trials used"
    tally.on_trial(trial(), search)
    assert tally.spoken() == "1 trial: 1 ok"


def test_a_run_that_is_stopped_while_others_are_on_the_gpu_says_that_it_waited(search: StageSearch) -> None:
    progress = Progress()
    progress.on_start({TASK: search}, resumed=0)
    progress.on_wait("process 7 (python3) is on this GPU too")
    progress.on_trial(trial(contended="process 7 (python3)"), search)
    assert progress.stopped("autotune run").endswith("since it said: process 7 (python3) is on this GPU too")
    progress.on_trial(trial(), search)
    assert progress.stopped("autotune run").splitlines()[1:] == ["  autotune run"]


def test_plain_lines_name_the_kind_of_every_time(
    search: StageSearch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = PlainProgress("estimate")
    plain.on_start({TASK: search}, resumed=2)
    for _ in range(3):
        _told(plain, search)
    plain.on_confirm(TASK[0], 9)
    out = capsys.readouterr().out
    assert "m2 stage1: 6 legal configs, 3 trials" in out
    assert "resuming: 2 stored trials" in out
    assert "best 40.00 µs (3 configs tie), default 40.00 µs (estimate)" in out
    assert "confirming 9 layer configs" in out


def test_a_replay_is_not_said_to_confirm_anything(capsys: pytest.CaptureFixture[str]) -> None:
    PlainProgress("replayed").on_confirm(TASK[0], 9)
    assert capsys.readouterr().out == "m2: drawing recorded samples of 9 layer configs\n"


def test_the_live_display_shows_the_best_against_the_default(search: StageSearch) -> None:
    from rich.console import Console

    live = LiveProgress("measured")
    live.on_start({TASK: search}, resumed=0)
    _told(live, search)
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(live._render())
    text = console.export_text()
    assert "best 40.00 µs, default 40.00 µs" in text
    assert "measured" in text
    assert "1 ok" in text
