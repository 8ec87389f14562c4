"""Kept runs: whose they are, and whose they are not."""

from pathlib import Path

import pytest
from bench.kept import KeptRuns, Key
from hypothesis import given
from hypothesis import strategies as st

from autotune.errors import UserError

KEYS = st.builds(
    Key,
    st.sampled_from(["kimi/stage1/m1", "kimi/stage2/m4", "qwen/stage1/m1"]),
    st.sampled_from(["autotune", "random"]),
    st.integers(0, 3),
    st.sampled_from([100, 300]),
)
ROWS = st.lists(
    st.integers(0, 5000) | st.tuples(st.integers(0, 15), st.integers(0, 5000)).map(list), max_size=5
)


def made_from(key: Key) -> str:
    return {"kimi": "a", "qwen": "b"}[key.problem.split("/")[0]]


@given(st.dictionaries(KEYS, ROWS, max_size=6))
def test_what_was_added_is_there_for_the_next_process(
    tmp_path_factory: pytest.TempPathFactory, runs: dict[Key, list[object]]
) -> None:
    path = tmp_path_factory.mktemp("kept") / "runs.jsonl"
    kept = KeptRuns([path], made_from)
    for key, rows in runs.items():
        kept.add(key, rows)
    assert dict(KeptRuns([path], made_from)) == dict(kept) == runs


def test_a_run_of_what_has_changed_since_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    key = Key("kimi/stage1/m1", "random", 0, 300)
    KeptRuns([path], made_from).add(key, [1, 2])
    assert key in KeptRuns([path], made_from)
    assert key not in KeptRuns([path], lambda _: "another")


def test_what_is_run_goes_to_the_last_file_alone(tmp_path: Path) -> None:
    first, last = tmp_path / "first.jsonl", tmp_path / "last.jsonl"
    KeptRuns([first], made_from).add(Key("kimi/stage1/m1", "random", 0, 300), [1])
    before = first.read_text()
    both = KeptRuns([first, last], made_from)
    both.add(Key("kimi/stage1/m1", "random", 1, 300), [2])
    assert len(list(both)) == 2
    assert first.read_text() == before
    assert len(last.read_text().splitlines()) == 1


def test_another_file_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    path.write_text("evaluations,us\n")
    with pytest.raises(UserError, match="line 1, is not a kept run"):
        KeptRuns([path], made_from)
