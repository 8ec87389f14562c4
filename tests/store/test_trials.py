"""What is recorded of a trial comes back, and contradictions cannot be recorded."""

import math
import sqlite3
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import IntegrityError

from autotune.machine.targets import Kind
from autotune.problem.layer import Layer, Problem, Stage
from autotune.problem.routing import Routing
from autotune.results import Sample, StaticFacts, Status
from autotune.space.config import Config
from autotune.store.records import StoredTrial, TrialRecord
from autotune.store.store import Store
from tests.store.examples import LAYER, M4, MI325X, OFFLINE, begin, config, failed, trial

COUNT = st.integers(0, 2**31)
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
POSITIVE = st.floats(1e-6, 1e9)
LAYERS = st.builds(
    Layer, TEXT, st.integers(1, 9999), st.integers(1, 9999), st.integers(1, 512), st.integers(1, 8), COUNT
)
ROUTINGS = st.sampled_from(
    [Routing(), Routing("zipf", 1.1), Routing("correlated", 1 / 3), Routing("file", path="/gone.npy")]
)
PROBLEMS = st.builds(Problem, LAYERS, st.integers(1, 8), st.integers(1, 64), ROUTINGS)
CONFIGS = st.builds(Config, st.dictionaries(TEXT, st.none() | st.booleans() | COUNT | TEXT, max_size=5))
ENVIRONMENTS = st.builds(replace, st.just(MI325X), device=TEXT, power_cap_w=st.none() | COUNT, torch=TEXT)


@st.composite
def records(draw: st.DrawFn) -> TrialRecord:
    status = draw(st.sampled_from(Status))
    ok = status is Status.OK
    return TrialRecord(
        problem=draw(PROBLEMS),
        stage=draw(st.sampled_from(Stage)),
        backend=draw(TEXT),
        environment=draw(ENVIRONMENTS),
        space_digest=draw(TEXT),
        workload=draw(TEXT),
        config=draw(CONFIGS),
        origin=draw(TEXT),
        status=status,
        kind=draw(st.sampled_from(Kind)),
        time_us=draw(POSITIVE) if ok else None,
        gate_error=draw(st.floats(0, math.inf) if ok else st.none() | st.floats(0, math.inf)),
        reason=None if ok else draw(TEXT),
        facts=draw(st.builds(StaticFacts, vgprs=st.none() | COUNT, spills=st.none() | COUNT)),
        binary_hash=draw(st.none() | TEXT),
        compile_s=draw(POSITIVE),
        measure_s=draw(POSITIVE),
    )


SAMPLES = st.lists(st.builds(Sample, POSITIVE, st.none() | COUNT, st.booleans()), max_size=30)


def content(stored: StoredTrial) -> dict[str, Any]:
    """A stored trial without what the store added."""
    fields = asdict(stored)
    for added in ("id", "run", "number", "created_at"):
        del fields[added]
    return fields


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(record=records(), samples=SAMPLES)
def test_a_trial_comes_back_as_it_was_recorded(
    store: Store, record: TrialRecord, samples: list[Sample]
) -> None:
    run = begin(store)
    id_ = store.record_trial(run, record, samples)
    (stored,) = store.trials_of(run)
    assert (stored.id, stored.run, stored.number) == (id_, run, 0)
    assert content(stored) == asdict(record)
    assert stored.config.key == record.config.key
    assert list(store.samples(id_)) == samples


def test_trials_are_numbered_within_their_run(store: Store, run: int) -> None:
    other = begin(store)
    for owner in (run, run, other, run):
        store.record_trial(owner, trial())
    assert [stored.number for stored in store.trials_of(run)] == [0, 1, 2]
    assert [stored.number for stored in store.trials_of(other)] == [0]


def test_a_trial_is_committed_when_recording_returns(store: Store, run: int, path: Path) -> None:
    store.record_trial(run, trial(), [Sample(41.0), Sample(42.0)])
    with sqlite3.connect(path) as somebody_else:
        assert somebody_else.execute("SELECT count(*) FROM trials").fetchone() == (1,)
        assert somebody_else.execute("SELECT us FROM samples ORDER BY number").fetchall() == [
            (41.0,),
            (42.0,),
        ]


LOOKUP: dict[str, Any] = {
    "problem": M4,
    "stage": Stage.STAGE1,
    "backend": "triton",
    "environment_key": MI325X.key,
    "workload": "cold",
}


def test_a_later_run_finds_what_an_earlier_one_tried(store: Store, run: int) -> None:
    store.record_trial(run, trial(config=config(64)))
    store.record_trial(run, failed(config=config(128)))
    found = store.trials(**LOOKUP)
    assert [(stored.config, stored.status) for stored in found] == [
        (config(64), Status.OK),
        (config(128), Status.INCORRECT),
    ]


@pytest.mark.parametrize(
    "unlike",
    [
        {"problem": Problem(LAYER, 2)},
        {"problem": Problem(LAYER, 4, 40)},
        {"problem": Problem(LAYER, 4, routing=Routing("zipf", 1.0))},
        {"stage": Stage.STAGE2},
        {"backend": "aiter"},
        {"environment": OFFLINE},
        {"workload": "hot"},
    ],
)
def test_only_comparable_trials_are_found(store: Store, run: int, unlike: dict[str, Any]) -> None:
    store.record_trial(run, trial(**unlike))
    assert store.trials(**LOOKUP) == []


def test_trials_of_another_search_space_can_be_left_out(store: Store, run: int) -> None:
    store.record_trial(run, trial(space_digest="old"))
    assert len(store.trials(**LOOKUP)) == 1
    assert store.trials(**LOOKUP, space_digest="new") == []


def test_a_trial_can_share_the_time_of_one_with_equal_machine_code(store: Store, run: int) -> None:
    first = store.record_trial(run, trial(config=config(64)), [Sample(41.5)])
    second = store.record_trial(run, trial(config=config(128), merged_into=first))
    assert store.trials_of(run)[1].merged_into == first
    assert store.samples(second) == ()


def test_an_error_that_is_not_a_number_is_kept_as_infinite(store: Store, run: int) -> None:
    store.record_trial(run, failed(gate_error=math.nan))
    assert store.trials_of(run)[0].gate_error == math.inf


def test_trials_are_counted_by_fate(store: Store, run: int) -> None:
    for record in (trial(), trial(), failed(), failed(Status.TIMEOUT)):
        store.record_trial(run, record)
    store.record_trial(begin(store), trial())
    assert store.trial_counts(run) == {Status.OK: 2, Status.INCORRECT: 1, Status.TIMEOUT: 1}


@pytest.mark.parametrize(
    "contradiction",
    [
        pytest.param(trial(time_us=None), id="ok without a figure"),
        pytest.param(trial(time_us=0.0), id="a kernel that takes no time"),
        pytest.param(trial(time_us=math.nan), id="a time that is not a number"),
        pytest.param(replace(failed(), time_us=1.0), id="a failure with a figure"),
        pytest.param(replace(failed(), reason=None), id="a failure without a reason"),
        pytest.param(trial(reason="odd"), id="ok with a reason"),
        pytest.param(trial(gate_error=None), id="measured and ok without passing the gate"),
        pytest.param(trial(merged_into=12345), id="merged into a trial that does not exist"),
    ],
)
def test_a_contradiction_cannot_be_recorded(store: Store, run: int, contradiction: TrialRecord) -> None:
    with pytest.raises(IntegrityError):
        store.record_trial(run, contradiction)
    # The rows that it would have brought are undone with it and are made again by the next trial.
    store.record_trial(run, trial())
    assert len(store.trials(**LOOKUP)) == 1


def test_a_trial_needs_a_run(store: Store) -> None:
    with pytest.raises(IntegrityError):
        store.record_trial(12345, trial())


def test_a_sample_takes_time(store: Store, run: int) -> None:
    with pytest.raises(IntegrityError):
        store.record_trial(run, trial(), [Sample(0.0)])
    assert store.trials_of(run) == []


def test_the_recorded_facts_may_be_more_than_this_tool_knows(store: Store, run: int, path: Path) -> None:
    store.record_trial(run, trial(facts=StaticFacts(vgprs=128)))
    with sqlite3.connect(path) as somebody_else:
        somebody_else.execute("""UPDATE trials SET facts = '{"vgprs": 128, "barriers": 3}'""")
    assert store.trials_of(run)[0].facts == StaticFacts(vgprs=128)


def test_what_was_contended_is_kept_and_tells_nothing(store: Store) -> None:
    run = begin(store)
    asked = trial()
    who = "process 497 (python3)"
    marked = store.record_trial(run, replace(asked, time_us=99.0, contended=who), [Sample(99.0)])
    clean = store.record_trial(run, asked, [Sample(9.0)])
    known = store.trials(
        problem=asked.problem,
        stage=asked.stage,
        backend=asked.backend,
        environment_key=asked.environment.key,
        workload=None,
    )
    assert [one.id for one in known] == [one.id for one in store.trials_of(run)] == [clean]
    assert store.trial_counts(run) == {Status.OK: 1}
    (kept,) = store.trials_of(run, contended=True)
    assert (kept.id, kept.contended, store.samples(kept.id)) == (marked, who, (Sample(99.0),))
