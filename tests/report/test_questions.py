"""The questions that a result raises, answered from the records."""

from autotune.machine.devices import known_device
from autotune.problem.layer import Problem, Stage
from autotune.report.content import ProblemReport, Report, Scope, gather
from autotune.report.questions import answers, gain_text, legal_configs
from autotune.space.read import shipped_spaces
from autotune.store.store import Store
from tests.store.examples import LAYER, begin, estimated, trial


def _said(store: Store, one: ProblemReport) -> dict[str, str]:
    return {answer.question: answer.text for answer in answers(store, one)}


def test_they_are_answered_from_a_real_run(h100: Store) -> None:
    (one,) = gather(h100, Scope()).problems
    said = _said(h100, one)
    assert "150 configs" in said["How much of the space was tried?"]
    assert "81 of them had machine code" in said["How much of the space was tried?"]
    assert (
        "32 rounds on routings that the search had not seen"
        in said["Is the winner just the luckiest of many noisy times?"]
    )
    assert "2,200 raw samples" in said["How noisy was the device?"]
    assert "9.1e-03" in said["Are its numbers right?"]
    assert said["What failed?"] == "None of 300 candidates."


def test_failures_throttling_and_a_kept_default_are_told(large: Store, large_report: Report) -> None:
    problems = {one.problem.verify_tokens: one for one in large_report.problems}
    kept, undecided = _said(large, problems[2]), _said(large, problems[3])
    assert "the default was kept" in kept["Is the winner just the luckiest of many noisy times?"]
    assert "Kept default: the gain is not surely above 1.0%." in kept["What does it not tell?"]
    assert "no final" in undecided["Is the winner just the luckiest of many noisy times?"]
    assert "incorrect" in kept["What failed?"]
    assert "clock limit" in kept["How noisy was the device?"]


def test_the_size_of_the_space_is_told_while_that_very_space_ships(store: Store) -> None:
    space = shipped_spaces("triton")[Stage.STAGE1]
    device = known_device("AMD Instinct MI325X")
    assert device is not None
    bound = space.at(LAYER, 4, device)
    run = begin(store)
    store.record_trial(run, trial(config=bound.default, space_digest=space.digest, origin="default"))
    (one,) = gather(store, Scope()).problems
    assert legal_configs(one, Stage.STAGE1) == bound.size
    assert f"1 configs of {bound.size:,} legal ones" in _said(store, one)["How much of the space was tried?"]


def test_it_is_left_out_where_another_space_ships_today(store: Store) -> None:
    store.record_trial(begin(store), trial(space_digest="of another day"))
    (one,) = gather(store, Scope()).problems
    assert legal_configs(one, Stage.STAGE1) is None


def test_an_estimate_is_never_dressed_up(store: Store) -> None:
    store.record_trial(begin(store), estimated(Stage.STAGE1, 128, problem=Problem(LAYER, 4)))
    (one,) = gather(store, Scope()).problems
    said = _said(store, one)
    assert "Nothing was measured" in said["What is an estimate worth?"]
    assert "Are its numbers right?" not in said


def test_a_gain_has_its_interval_where_there_is_one() -> None:
    assert gain_text(0.0163, 0.015, 0.0182) == "+1.6% (+1.5% to +1.8%)"
    assert gain_text(0.1, None, None) == gain_text(0.1, 0.1, 0.1) == "+10.0%"
