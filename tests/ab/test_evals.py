"""Accuracy: what is judged, which way round, and against which of a folder's results."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.ab.evals import Change, Evals, compare_evals
from autotune.errors import UserError
from tests.ab.made_up import evals, folder

STRICT = "exact_match,strict-match"


def judged(tmp_path: Path, base: dict[str, Any], tuned: dict[str, Any]) -> Evals:
    return compare_evals(
        folder(tmp_path / "base", {"results_1.json": base}),
        folder(tmp_path / "tuned", {"results_1.json": tuned}),
    )


def gsm8k(score: Any, error: Any = 0.0068, **changes: Any) -> dict[str, Any]:
    return evals({"gsm8k": {STRICT: (score, error)}}, **changes)


@pytest.mark.parametrize(
    ("score", "verdict"), [(0.936, Change.NONE), (0.04, Change.WORSE), (0.999, Change.BETTER)]
)
def test_a_score_beyond_its_error_is_worse_or_better(score: float, verdict: Change, tmp_path: Path) -> None:
    (one,) = judged(tmp_path, gsm8k(0.934), gsm8k(score)).scores
    assert (one.name, one.verdict) == (f"gsm8k {STRICT}", verdict)


def test_lower_is_better_where_the_file_says_so(tmp_path: Path) -> None:
    def lambada(perplexity: float) -> dict[str, Any]:
        return evals(
            {"lambada": {"perplexity,none": (perplexity, 0.08), "odd,none": (perplexity, 0.08)}},
            higher_is_better={"lambada": {"perplexity": False, "odd,none": False}},
        )

    assert {one.verdict for one in judged(tmp_path, lambada(3.3), lambada(4.9)).scores} == {Change.WORSE}
    assert {one.verdict for one in judged(tmp_path, lambada(4.9), lambada(3.3)).scores} == {Change.BETTER}


@pytest.mark.parametrize(
    ("metric", "told", "verdict"),
    [
        ("perplexity", {}, Change.WORSE),
        ("acc", {}, Change.BETTER),
        ("odd", {}, Change.UNKNOWN),
        ("odd", {"higher_is_better": {"t": {"odd": None}}}, Change.UNKNOWN),
        ("odd", {"higher_is_better": {"t": {"odd": True}}}, Change.BETTER),
        (
            "odd",
            {
                "higher_is_better": {"t": {"odd": None}},
                "configs": {"t": {"metric_list": [{"metric": "odd", "higher_is_better": False}]}},
            },
            Change.WORSE,
        ),
    ],
)
def test_which_way_is_better_is_told_by_the_file_then_by_the_harness_or_not_known(
    metric: str, told: dict[str, Any], verdict: Change, tmp_path: Path
) -> None:
    base, tuned = (evals({"t": {f"{metric},none": (score, 0.01)}}, **told) for score in (0.5, 0.9))
    (one,) = judged(tmp_path, base, tuned).scores
    assert one.verdict is verdict


def test_files_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    base, tuned = (gsm8k(0.9, higher_is_better={"gsm8k": {"exact_match": told}}) for told in (True, False))
    with pytest.raises(UserError, match=r"higher_is_better of gsm8k .* is True in .* and False in"):
        judged(tmp_path, base, tuned)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), "nan", "0.9", True])
def test_a_score_that_is_no_number_is_refused_with_its_place(bad: Any, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"tuned/results_1.json: gsm8k exact_match,strict-match is .*run it again"
    ):
        judged(tmp_path, gsm8k(0.9), gsm8k(bad))
    with pytest.raises(UserError, match=r"base/results_1.json: gsm8k exact_match_stderr,strict-match is"):
        judged(tmp_path, gsm8k(0.9, bad), gsm8k(0.9))


def test_a_score_without_a_standard_error_is_said_and_not_judged(tmp_path: Path) -> None:
    base, tuned = (
        evals({"gsm8k": {STRICT: (0.9, 0.01)}, "wikitext": {"word_perplexity,none": perplexity}})
        for perplexity in (8.0, 99.0)
    )
    evaluated = judged(tmp_path, base, tuned)
    assert [one.name for one in evaluated.scores] == [f"gsm8k {STRICT}"]
    assert (
        "without a standard error and not judged: wikitext word_perplexity,none 8.0000 -> 99.0000"
        in evaluated.notes
    )
    with pytest.raises(UserError, match="share no score with a standard error"):
        judged(tmp_path, *(evals({"wikitext": {"word_perplexity,none": ppl}}) for ppl in (8.0, 99.0)))


SUBJECTS = [f"mmlu_{i}" for i in range(57)]


def mmlu(whole: float | None, subjects: list[float], **changes: Any) -> dict[str, Any]:
    scores = {name: {"acc,none": (score, 0.02)} for name, score in zip(SUBJECTS, subjects, strict=True)}
    middle = {"mmlu_stem": {"acc,none": (0.5, 0.02)}}
    groups = {"mmlu": {"acc,none": (whole, 0.003)}} if whole is not None else {}
    parents = {"mmlu": ["mmlu_stem"], "mmlu_stem": SUBJECTS} if whole is not None else {}
    return evals({**groups, **(middle if groups else {}), **scores}, group_subtasks=parents, **changes)


def test_a_groups_score_is_judged_in_place_of_its_57_subjects(tmp_path: Path) -> None:
    unlucky = [0.44, *[0.5] * 56]  # one of 57 falls by two sigmas
    evaluated = judged(tmp_path, mmlu(0.5, [0.5] * 57), mmlu(0.499, unlucky))
    assert [(one.name, one.verdict) for one in evaluated.scores] == [("mmlu acc,none", Change.NONE)]
    assert "58 scores of tasks are judged by their group's" in evaluated.notes
    worse = judged(tmp_path, mmlu(0.5, [0.5] * 57), mmlu(0.48, [0.48] * 57))
    assert [one.verdict for one in worse.scores] == [Change.WORSE]


def test_57_tasks_without_a_group_are_corrected_for_their_number(tmp_path: Path) -> None:
    evaluated = judged(tmp_path, mmlu(None, [0.5] * 57), mmlu(None, [0.44, *[0.5] * 56]))
    assert len(evaluated.scores) == 57
    assert {one.verdict for one in evaluated.scores} == {Change.NONE}
    assert "p is corrected for 57 scores (Holm)" in evaluated.notes
    broken = judged(tmp_path, mmlu(None, [0.5] * 57), mmlu(None, [0.1, *[0.5] * 56]))
    assert [one.name for one in broken.scores if one.verdict is Change.WORSE] == ["mmlu_0 acc,none"]


def test_holm_multiplies_the_smallest_p_by_the_number_and_keeps_the_order(tmp_path: Path) -> None:
    base = evals({"t": {f"m{i},none": (0.5, 0.01) for i in range(3)}})
    tuned = evals({"t": {f"m{i},none": (0.5 + 0.01 * i, 0.01) for i in range(3)}})
    a, b, c = (one.p for one in judged(tmp_path, base, tuned).scores)
    assert a == 1.0
    assert b == pytest.approx(2 * 0.4795, rel=1e-3)
    assert c == pytest.approx(3 * 0.1573, rel=1e-3)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"n-shot": {"gsm8k": 8}}, "n-shot of gsm8k is 5 .* and 8"),
        ({"versions": {"gsm8k": 2}}, "versions of gsm8k"),
        ({"n-samples": {"gsm8k": {"original": 1319, "effective": 100}}}, "n-samples of gsm8k"),
        ({"config": {"limit": 100}}, "limit is None .* and 100"),
        ({"config": {"gen_kwargs": "temperature=1"}}, "gen_kwargs"),
        ({"chat_template_sha": "a"}, "chat_template_sha"),
    ],
)
def test_unequal_evaluations_are_refused(change: dict[str, Any], reason: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=reason):
        judged(tmp_path, gsm8k(0.9), gsm8k(0.9, **change))


def test_of_several_results_the_newest_by_the_date_in_it_is_taken_and_said(tmp_path: Path) -> None:
    files = {
        "a/results_2026-09-01T00-00-00.json": gsm8k(0.9, date=3.0, model_name="new"),
        "z/results_2026-10-01T00-00-00.json": gsm8k(float("nan"), date=2.0, model_name="old"),
    }
    base = folder(tmp_path / "base", files)
    evaluated = compare_evals(
        base, folder(tmp_path / "tuned", {"results_1.json": gsm8k(0.9, model_name="other")})
    )
    assert evaluated.scores[0].base == 0.9
    assert any("2 results of the models new, old: the newest is taken" in note for note in evaluated.notes)
    assert any(note.startswith("the model is new in ") for note in evaluated.notes)


def test_without_dates_in_them_the_dates_in_their_names_tell(tmp_path: Path) -> None:
    names = ["results_2026-09-02T00-00-00.5.json", "results_2026-09-02T00-00-00.json"]
    base = folder(tmp_path / "base", {name: gsm8k(0.8 + i / 10, date=None) for i, name in enumerate(names)})
    assert compare_evals(base, base).scores[0].base == 0.8
    undated = folder(
        tmp_path / "undated", {"results_1.json": gsm8k(0.9, date=None), "results_2.json": gsm8k(0.8)}
    )
    with pytest.raises(UserError, match="2 results and no date tells the newest"):
        compare_evals(base, undated)


def test_an_output_path_that_was_a_files_name_is_read(tmp_path: Path) -> None:
    base = folder(tmp_path, {"gsm8k_2026-09-02T00-00-00.123456.json": gsm8k(0.9), "other.json": {}})
    assert compare_evals(base, base).scores


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"results": []}', "[" * 100_000])
def test_what_is_no_results_file_is_refused(content: str, tmp_path: Path) -> None:
    bad = folder(tmp_path, {"results.json": content})
    with pytest.raises(UserError, match=r"results\.json"):
        compare_evals(bad, bad)
    with pytest.raises(UserError, match=r"not a result file|has no results"):
        compare_evals(tmp_path / "absent", bad)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.sampled_from(["N/A", "nan", "gsm8k", ""]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["gsm8k", STRICT, "exact_match", "metric_list", "limit"]), inner, max_size=2
        )
    ),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from([*gsm8k(0.9), "configs", "group_subtasks", "config", "groups"]), JSON))
def test_any_results_are_judged_or_refused_in_one_sentence(
    tmp_path_factory: Any, changes: dict[str, Any]
) -> None:
    path = tmp_path_factory.mktemp("evals") / "results.json"
    path.write_text(json.dumps(gsm8k(0.9, **changes)))
    with suppress(UserError):
        for one in compare_evals(path, path).scores:
            assert one.verdict is Change.NONE
