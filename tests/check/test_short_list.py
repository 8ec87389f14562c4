"""What a check finds wrong leaves the short list and the next best takes its place."""

from collections.abc import Iterable
from typing import Any, cast

from autotune.check.judged import Candidate, Checks, Judged
from autotune.problem.layer import Stage
from autotune.results import CheckVerdict, LayerConfig, VerdictStatus
from autotune.space.config import Config
from autotune.tuning.short_list import Sifter
from tests.store.examples import M4

RANKING = [
    LayerConfig(Config({"one": one}), Config({"two": two}))
    for one, two in ((1, 1), (1, 2), (2, 1), (2, 2), (3, 3))
]
DEFAULT = RANKING[-1]
WRONG = CheckVerdict(VerdictStatus.INCORRECT, 0.5, "off", 0.1)
VERDICTS = {
    "pass": CheckVerdict(VerdictStatus.PASS, 1e-3, None, 0.1),
    "fault": CheckVerdict(VerdictStatus.FAULT, None, "a race", 0.1),
    "unknown": CheckVerdict(VerdictStatus.NOT_EMULATED, None, "v_new", 0.1),
    "none": None,
}


class Fake:
    """Checks with verdicts by the config's text."""

    def __init__(self, **verdicts: str) -> None:
        self.verdicts, self.asked = verdicts, list[Candidate]()

    def judge(self, candidates: Iterable[Candidate]) -> list[Judged]:
        new = list(candidates)
        self.asked += new
        return [Judged(each, self._verdict(each), "time was up") for each in new]

    def _verdict(self, candidate: Candidate) -> CheckVerdict | None:
        return VERDICTS[self.verdicts.get(str(candidate.config).replace("=", ""), "pass")]


def sift(checks: Fake, most: int = 3) -> list[LayerConfig]:
    sifter = Sifter(cast(Checks, checks), lambda *_: [])
    listed = sifter.sift(M4, RANKING, DEFAULT, most)
    assert len(sifter.judged) == len(checks.asked)
    return listed


def test_where_all_pass_the_best_and_the_default_are_listed() -> None:
    checks = Fake()
    assert sift(checks) == [*RANKING[:3], DEFAULT]
    assert len(checks.asked) == 6  # three a stage, each once


def test_a_wrong_stage_takes_all_its_pairs_along_and_the_next_best_moves_up() -> None:
    checks = Fake(one1="fault")
    assert sift(checks, most=2) == [RANKING[2], RANKING[3], DEFAULT]
    asked: Any = [(each.stage, str(each.config)) for each in checks.asked]
    assert len(asked) == len(set(asked))


def test_a_wrong_default_is_not_listed() -> None:
    assert sift(Fake(two3="fault")) == RANKING[:3]


def test_what_could_not_be_judged_stays() -> None:
    assert sift(Fake(one1="unknown", one2="none")) == [*RANKING[:3], DEFAULT]


def test_where_everything_is_wrong_nothing_is_listed() -> None:
    assert sift(Fake(one1="fault", one2="fault", one3="fault")) == []


def test_candidates_are_told_apart_from_what_ships() -> None:
    checks = Fake()
    sift(checks)
    labels = {(each.stage, str(each.config)): each.label for each in checks.asked}
    assert labels[Stage.STAGE1, "one=3"] == "default"
    assert labels[Stage.STAGE1, "one=1"] == "short list"
