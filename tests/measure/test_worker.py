"""The worker's gate: what is checked where, and what need not be checked twice."""

from typing import Any

import pytest

from autotune.measure import worker as working
from autotune.measure.gate import Case, Incorrect
from autotune.measure.runtime import Launch, What
from autotune.measure.worker import Worker
from autotune.problem import Problem
from tests.measure.conftest import FAKE, QUICK, TINY
from tests.measure.fake_runtime import Fault, fake_config


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the cases that were launched, in order."""
    names: list[str] = []
    check_launch = working.check_launch

    def noted(launch: Launch, case: Case, *others: Any) -> float:
        names.append(case.name)
        return check_launch(launch, case, *others)

    monkeypatch.setattr(working, "check_launch", noted)
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
