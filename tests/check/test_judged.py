"""Verdicts are kept: what this compiler's binary was found to be is not found again."""

import pytest

from autotune.check.check import checker_of
from autotune.check.judged import Candidate, Checks
from autotune.problem.layer import Stage
from autotune.results import CompilerVersion
from autotune.store.store import Store
from tests.spaces import KIMI, MI325X
from tests.store.examples import M4, WRONG

pytest.importorskip("triton")
from autotune.backends.triton.backend import TritonW4A8


@pytest.fixture
def candidate() -> Candidate:
    config = TritonW4A8().space(KIMI, 4, Stage.STAGE2, MI325X).default
    compiled = TritonW4A8().compile(KIMI, 4, Stage.STAGE2, config, MI325X)
    return Candidate(M4, Stage.STAGE2, config, "default", compiled.binary_hash)


def test_a_verdict_is_stored_and_used_again(candidate: Candidate) -> None:
    with Store.open() as store, Checks("triton", MI325X, workers=1, store=store) as checks:
        (first,) = checks.judge([candidate])
        assert (first.stored, first.wrong, first.binary_hash) == (False, False, candidate.binary_hash)
        (again,) = checks.judge([candidate])
        assert again.stored
        assert again.verdict == first.verdict


def test_a_stored_verdict_counts_unless_another_compiler_made_the_binary(candidate: Candidate) -> None:
    assert candidate.binary_hash is not None
    with Store.open() as store:
        other = CompilerVersion("triton", "0.1")
        store.record_verdict(candidate.binary_hash, other, "gfx942", WRONG)
        with Checks("triton", MI325X, workers=1, store=store) as checks:
            assert not checks.judge([candidate])[0].wrong
        store.record_verdict(candidate.binary_hash, checker_of("triton").compiler(), "gfx942", WRONG)
        with Checks("triton", MI325X, workers=1, store=store) as checks:
            assert checks.judge([candidate])[0].wrong


def test_time_that_is_up_leaves_candidates_unchecked(candidate: Candidate) -> None:
    with Store.open() as store, Checks("triton", MI325X, workers=1, store=store, budget_s=0.0) as checks:
        (judged,) = checks.judge([candidate])
    assert judged.verdict is None
    assert judged.text == "not checked: the time for checks was up"
