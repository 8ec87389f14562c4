"""The worker's gate: what is checked where, and what need not be checked twice."""

from collections.abc import Sequence
from typing import Any

import pytest

from autotune.measure import worker as working
from autotune.measure.gate import Case, Incorrect
from autotune.measure.timer import FIRST
from autotune.measure.worker import Worker
from autotune.problem.layer import Problem, Stage
from autotune.protocol.runtime import Launch, What
from autotune.results import LayerConfig
from tests.measure.conftest import FAKE, QUICK, TINY
from tests.measure.fake_runtime import Fault, fake_config


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the cases that were launched, in order."""
    names: list[str] = []
    check_launches = working.check_launches

    def noted(launches: Sequence[Launch], cases: Sequence[Case], *others: Any) -> float:
        names.extend(case.name for case in cases)
        return check_launches(launches, cases, *others)

    monkeypatch.setattr(working, "check_launches", noted)
    return names


def worker(*problems: Problem) -> Worker:
    made = Worker(FAKE, QUICK)
    made.prepare(TINY, problems)
    return made


M2, M4 = Problem(TINY, 2), Problem(TINY, 4)


def counts(names: list[str]) -> list[int]:
    return sorted({int(name.split()[0]) for name in names})


def test_a_config_is_checked_at_every_count_that_it_may_serve(checked: list[str]) -> None:
    worker(M4).check(M4, What.STAGE1, fake_config())
    assert counts(checked) == [1, 2, 3, 4]


def test_a_count_that_another_problems_gate_has_seen_is_not_checked_again(checked: list[str]) -> None:
    both = worker(M2, M4)
    error = both.check(M2, What.STAGE1, fake_config())
    checked.clear()
    assert both.check(M4, What.STAGE1, fake_config()) >= error
    assert counts(checked) == [3, 4]


def test_a_problems_own_count_is_checked_with_all_cases_whatever_others_have_seen(checked: list[str]) -> None:
    both = worker(M2, M4)
    both.check(M4, What.STAGE1, fake_config())
    checked.clear()
    both.check(M2, What.STAGE1, fake_config())
    assert counts(checked) == [2]
    assert any("spread out" in name for name in checked)


def test_another_config_or_stage_is_checked_anew(checked: list[str]) -> None:
    both = worker(M2, M4)
    both.check(M2, What.STAGE1, fake_config())
    for what, config in ((What.STAGE2, fake_config()), (What.STAGE1, fake_config(11))):
        checked.clear()
        both.check(M4, what, config)
        assert counts(checked) == [1, 2, 3, 4]


def test_what_is_wrong_at_another_problems_count_is_refused_by_both() -> None:
    both = worker(M2, M4)
    wrong = fake_config(fault=Fault.WRONG_TILE, at=2)
    for problem in (M2, M4):
        with pytest.raises(Incorrect, match="2 tokens"):
            both.check(problem, What.STAGE1, wrong)


def test_a_stage_that_passed_alone_is_not_checked_again_within_a_layer(checked: list[str]) -> None:
    both = worker(M4)
    both.check(M4, What.STAGE1, fake_config())
    checked.clear()
    layer = LayerConfig(fake_config(), fake_config(us=8000))
    both.check(M4, What.STAGE1, layer)
    assert not checked
    both.check(M4, What.STAGE2, layer)
    both.check(M4, What.LAYER, layer)
    assert counts(checked) == [1, 2, 3, 4]


def test_a_layer_is_loaded_anew_for_other_problems_which_may_need_more_copies() -> None:
    kept = worker(M2)
    weights = kept._load().weights
    kept.prepare(TINY, (M2,))
    assert kept._load().weights is weights
    kept.prepare(TINY, (M4,))
    assert kept._load().weights is not weights


def test_a_candidate_far_behind_the_fastest_gets_no_whole_window() -> None:
    one = worker(M4)
    whole = one.measure(M4, Stage.STAGE1, fake_config(us=1000))
    poor = one.measure(M4, Stage.STAGE1, fake_config(us=8000))
    assert len(poor.samples) == FIRST < len(whole.samples)
    assert poor.us == pytest.approx(8 * whole.us, rel=0.1)
    # Another stage, another race.
    assert len(one.measure(M4, Stage.STAGE2, fake_config(us=8000)).samples) == len(whole.samples)
