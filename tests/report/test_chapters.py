"""One chapter a problem, with both of its estimates by name, its ties, and who was left out."""

import re
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import pytest

from autotune.compile.estimate import EXECUTED, PROMISED
from autotune.machine.targets import Kind
from autotune.problem.layer import Problem, Stage
from autotune.report.axis import focus
from autotune.report.content import ProblemReport, Report, Scope, gather
from autotune.report.history import episodes
from autotune.report.markdown import markdown
from autotune.report.page import page
from autotune.report.sections import final, layer_code
from autotune.report.show import winner_lines, winners_at_a_glance
from autotune.report.top import Filter, ranking_lines, rankings
from autotune.report.winners import print_winners, summarise
from autotune.results import Finalist, Round
from autotune.space.config import Config
from autotune.store.records import ShortListed
from autotune.store.store import Store
from tests.report.synthetic import fill
from tests.store.examples import (
    DEFAULT,
    FASTER,
    M4,
    OFFLINE,
    begin,
    confirmation,
    estimated,
    layer_config,
    trial,
    win,
)

AS_COMPILED = {128: 20.0, 64: 15.0, 32: 15.0, 256: 18.0}
AS_EXECUTED = {128: 25.0, 64: 14.0, 32: 14.001}


def search(store: Store, run: int) -> None:
    """What a search estimates of each stage; 128 ships."""
    for stage in Stage:
        for tile_k, us in AS_COMPILED.items():
            origin = "default" if tile_k == 128 else "joint"
            store.record_trial(run, estimated(stage, tile_k, time_us=us, workload=PROMISED, origin=origin))


def execute(store: Store, run: int) -> None:
    """What the execution of the short list makes of it."""
    for stage in Stage:
        for tile_k, us in AS_EXECUTED.items():
            made = estimated(stage, tile_k, time_us=us, workload=EXECUTED, origin="executed")
            store.record_trial(run, replace(made, gate_error=1.7e-3))


def shortlist(store: Store, run: int, *, executed: bool = True) -> None:
    times = AS_EXECUTED if executed else AS_COMPILED
    store.record_short_list(
        run,
        problem=M4,
        backend="triton",
        environment=OFFLINE,
        default=DEFAULT,
        entries=[
            ShortListed(layer_config(tile_k, tile_k), 1 - times[tile_k] / times[128])
            for tile_k in (64, 32, 128)
        ],
        workload=EXECUTED if executed else PROMISED,
    )


def offline(store: Store) -> int:
    return store.begin_run("autotune run --shape m4 --db /home/me/autotune.db", {}, 0, OFFLINE)


def only(store: Store, **scope: object) -> ProblemReport:
    (one,) = gather(store, Scope(**scope)).problems  # type: ignore[arg-type]
    return one


def text_of(store: Store, report: Report) -> str:
    return re.sub("<[^>]*>", " ", re.sub("<style>.*</style>", "", page(store, report), flags=re.DOTALL))


@pytest.mark.parametrize("order", list(permutations((search, execute))), ids=["search first", "check first"])
def test_a_problem_has_one_chapter_whatever_came_first(store: Store, order: tuple[object, ...]) -> None:
    run = offline(store)
    for step in order:
        step(store, run)  # type: ignore[operator]
    shortlist(store, run)
    one = only(store)
    assert len(one.trials[Stage.STAGE1]) == len(AS_COMPILED)
    assert len(one.executed[Stage.STAGE1]) == len(AS_EXECUTED)
    default = one.contender("default")
    assert default is not None
    assert default.us["layer"].value == 50.0
    assert one.compiled_us(DEFAULT)["layer"] == 40.0


def test_a_second_run_that_finds_all_tried_reports_the_whole(store: Store) -> None:
    first = offline(store)
    search(store, first)
    execute(store, first)
    shortlist(store, first)
    for again in (execute, lambda *_: None):  # checks that were made again, or nothing at all
        second = offline(store)
        again(store, second)
        shortlist(store, second)
        one = only(store, run=second)
        assert len(one.trials[Stage.STAGE2]) == len(AS_COMPILED)
        assert len(one.executed[Stage.STAGE2]) == len(AS_EXECUTED)


def test_both_estimates_stand_beside_each_other_by_name(store: Store) -> None:
    run = offline(store)
    search(store, run)
    execute(store, run)
    shortlist(store, run)
    report = gather(store, Scope())
    html = text_of(store, report)
    assert "as compiled 40.00" in html
    assert "for the default these are 40.00 and 50.00 µs" in html
    assert "| estimate as executed | 50.00 | 28.00 | 40.00 | 30.00 |" in markdown(store, report)


def test_the_lists_know_what_ships_and_call_no_estimate_a_winner(store: Store) -> None:
    run = offline(store)
    search(store, run)
    execute(store, run)
    shortlist(store, run)
    executed = ranking_lines(rankings(store, Filter(stage=Stage.STAGE1))[-1])
    assert [line.split()[2] for line in executed[2:]] == ["+44.0%", "+44.0%", "0.0%"]
    assert executed[2].endswith(" tile_k=64")
    assert executed[-1].endswith(" default")
    (heading, *_) = winner_lines(winners_at_a_glance(store))
    assert "listed first µs" in heading
    assert "winner" not in heading
    (episode,) = episodes(store)
    assert (episode.winners, episode.faster) == (1, 0)


def test_a_stage_s_estimate_is_shown_once_whatever_layers_share_it(store: Store) -> None:
    run = offline(store)
    search(store, run)
    execute(store, run)
    pairs = [(64, 64), (64, 32), (32, 64), (32, 32), (128, 128)]
    store.record_short_list(
        run,
        problem=M4,
        backend="triton",
        environment=OFFLINE,
        default=DEFAULT,
        entries=[ShortListed(layer_config(*pair), 0.44 if pair[0] < 128 else 0.0) for pair in pairs],
        workload=EXECUTED,
    )
    _, first, second, *_ = final(only(store))
    for chart in (first, second):
        assert len(re.findall('class="who">[^<]', chart)) == 3  # the default, and the two that are listed


def test_a_config_breaks_after_a_comma_only() -> None:
    assert (
        layer_code(replace(DEFAULT, stage1=Config({"a": 1, "b": 2})), DEFAULT)
        == "<code>stage1: a=1,<wbr>b=2</code>"
    )


def test_the_commands_print_both_estimates_too(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    run = offline(store)
    search(store, run)
    execute(store, run)
    shortlist(store, run)
    print_winners(summarise(store, store.winners()))
    said = capsys.readouterr().out
    assert re.search(r"stage1 as compiled +20.00 +15.00 +\+25.0%", said)
    assert re.search(r"stage1 as executed +25.00 +14.00 +\+44.0%", said)
    assert "2 configs tie at the head of the short list" in said


def test_a_list_keeps_the_estimates_that_it_was_ranked_by(store: Store) -> None:
    """Some of its configs were executed in another run, and this list was not ranked by that."""
    run = offline(store)
    search(store, run)
    execute(store, run)
    shortlist(store, run, executed=False)
    one = only(store)
    assert one.basis == "as compiled"
    assert [contender.us["layer"].value for contender in one.contenders] == [40.0, 30.0, 30.0]


def test_what_ties_is_told_and_no_estimate_is_called_a_winner(store: Store) -> None:
    run = offline(store)
    search(store, run)
    execute(store, run)
    shortlist(store, run)
    report = gather(store, Scope())
    (one,) = report.problems
    assert [tie.config for tie in one.ties] == [layer_config(32, 32)]
    said = text_of(store, report)
    assert "2 configs tie at the head of the short list" in said
    assert "2 configs tie at the fastest time, 15.00 µs estimated as compiled" in said
    assert "winner" not in re.sub("What is .*", "", said).replace("can be a winner", "")


def test_a_measured_winner_names_who_was_not_told_apart_from_it(store: Store) -> None:
    """In the rounds that chose, the third config was now faster, now slower than the winner."""
    other, far = layer_config(64, 64), layer_config(32, 32)
    finalists = (*confirmation().finalists, Finalist("candidate", other), Finalist("candidate", far))
    choosing = [
        Round(({"layer": 100.0}, {"layer": 90.0}, {"layer": 90.0 + (-1) ** (i // 2)}, {"layer": 95.0}))
        for i in range(8)
    ]
    judging = [Round(({"layer": 100.0}, {"layer": 90.0}, {}, {}))] * 8
    made = confirmation(finalists=finalists, rounds=(*choosing, *judging), errors=(1e-3,) * 4, winner=1)
    win(store, begin(store), made)
    report = gather(store, Scope())
    assert [tie.config for tie in report.problems[0].ties] == [other]
    said = text_of(store, report)
    assert "winner, ties" in said
    assert "2 configs tie: the preselection does not tell the winner from 1 other." in said


def test_who_was_left_out_of_a_final_is_told_with_the_reason(store: Store) -> None:
    wrong = Finalist("candidate", layer_config(64, 64))
    made = confirmation(
        finalists=(*confirmation().finalists, wrong),
        rounds=tuple(replace(r, us=(*r.us, {})) for r in confirmation().rounds),
        errors=(1.7e-3, 1.8e-3, None),
        notes=("candidate 2 was not timed: incorrect: the output is off by 3.1e-01",),
    )
    win(store, begin(store), made)
    report = gather(store, Scope())
    reason = "incorrect: the output is off by 3.1e-01"
    assert next(c.left_out for c in report.problems[0].contenders if c.config == wrong.config) == reason
    assert reason in text_of(store, report).replace("  ", " ")
    assert f"failed in the final: candidate 2 `stage1: tile_k=64; stage2: tile_k=64`: {reason}" in markdown(
        store, report
    )


def test_what_was_fast_and_in_no_final_is_told_with_the_reason(store: Store) -> None:
    run = begin(store)
    for stage in Stage:
        for config in (DEFAULT.of(stage), FASTER.of(stage)):
            store.record_trial(run, trial(stage=stage, config=config))
    store.record_trial(run, trial(config=layer_config(512, 512).stage1, time_us=1.0))
    win(store, run)
    report = gather(store, Scope())
    assert [(left.stage, left.config) for left in report.problems[0].left] == [
        (Stage.STAGE1, layer_config(512, 512).stage1)
    ]
    assert "Among the fastest of a stage, but not in the final" in text_of(store, report)
    assert "not in the final: stage1 `tile_k=512`: other pairs" in markdown(store, report)


def test_unlike_conditions_are_chapters_of_their_own_with_names(store: Store) -> None:
    run = begin(store)
    for workload in ("cold", "hot"):
        store.record_trial(run, trial(workload=workload))
    said = text_of(store, gather(store, Scope()))
    assert "m4 (cold): 4 tokens" in said
    assert "m4 (hot): 4 tokens" in said


@pytest.mark.slow
def test_a_page_of_many_shapes_opens_folded_and_a_link_opens_its_chapter(
    large: Store, large_report: Report
) -> None:
    html = page(large, large_report)
    chapters = re.findall(r'<details class="chapter"><summary><h2.*?</summary>(<div id="p\d">)?', html)
    assert len(chapters) == 8
    assert all(chapters)  # what a link names lies within the fold


def test_a_page_of_one_or_two_opens_whole(h100: Store) -> None:
    assert 'class="chapter"' not in page(h100, gather(h100, Scope()))


def test_columns_and_bars_that_hold_nothing_are_left_out(store: Store) -> None:
    run = offline(store)
    search(store, run)
    execute(store, run)
    shortlist(store, run)
    html = page(store, gather(store, Scope()))
    for heading in ("published", "gate error", "left out", "rounds"):
        assert f">{heading}</th>" not in html
    assert ">0%<" not in html


def test_the_title_says_what_was_tuned_and_names_no_file(store: Store, tmp_path: Path) -> None:
    search(store, offline(store))
    report = gather(store, Scope())
    assert report.title == "Run 1: kimi-k2.5-w4a8 m4 on offline:mi325x"
    for shapes in (2, 8):
        fill(store, trials=64, shapes=shapes)
    assert gather(store, Scope()).title == "Run 3: kimi-k2.5-w4a8 m1 to m8 on Made-up MI325X"


@pytest.mark.parametrize(
    ("times", "default", "low", "high"),
    [
        ([8.5, 8.6, 10.3, 40.0, 100.0], 10.3, 8.5, 10.3),
        ([8.5, 8.6, 8.7, 8.8, 100.0], 8.8, 8.5, 8.8),
        ([20.0, 60.0], 60.0, 20.0, 60.0),
    ],
)
def test_an_axis_shows_the_range_that_matters(
    times: list[float], default: float, low: float, high: float
) -> None:
    axis = focus(times, [default])
    assert low * 0.85 < axis.low <= low
    assert high <= axis.high < high * 1.05


def test_what_is_slower_than_the_axis_shows_is_counted(h100: Store) -> None:
    said = text_of(h100, gather(h100, Scope()))
    assert re.search(r"slower than the axis shows: \d+, up to 141.\d+ µs", said)
    assert "limit 17.01 µs, outside the axis" in said


def test_estimates_of_a_kind_are_not_taken_for_one_problem_on_another_stack(store: Store) -> None:
    search(store, offline(store))
    store.record_trial(begin(store), trial(problem=Problem(M4.layer, 4), kind=Kind.MEASURED))
    assert len(gather(store, Scope(device="mi325x")).problems) == 2
