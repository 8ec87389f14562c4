"""Confirmations come back with every round's times."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import IntegrityError

from autotune.machine.targets import Kind
from autotune.results import Confirmation, Finalist, LayerConfig, Round
from autotune.store.store import Store
from tests.store.examples import DEFAULT, MI325X, begin, config, confirm, confirmation
from tests.store.test_trials import PROBLEMS

US = st.floats(1e-3, 1e6)


@st.composite
def confirmations(draw: st.DrawFn) -> Confirmation:
    finalists = draw(st.integers(2, 5))
    errors = draw(st.tuples(*[st.none() | st.floats(0, 1)] * finalists))
    timed = [error is not None for error in errors]
    times = st.fixed_dictionaries({"layer": US}, optional={"stage1": US, "stage2": US})
    rounds = draw(st.integers(0, 6)) if any(timed) else 0
    return Confirmation(
        problem=draw(PROBLEMS),
        finalists=tuple(
            Finalist("default" if index == 0 else "candidate", LayerConfig(config(index), config(64)))
            for index in range(finalists)
        ),
        rounds=tuple(Round(tuple(draw(times) if each else {} for each in timed)) for _ in range(rounds)),
        errors=errors,
        winner=draw(st.integers(0, finalists - 1)),
        gain=0.02,
        gain_low=0.01,
        gain_high=0.03,
        notes=tuple(draw(st.lists(st.sampled_from(["throttled", "few rounds"]), max_size=2))),
    )


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(made=confirmations(), kind=st.sampled_from([Kind.MEASURED, Kind.REPLAYED]))
def test_a_confirmation_comes_back_as_it_was_recorded(store: Store, made: Confirmation, kind: Kind) -> None:
    run = begin(store)
    id_ = confirm(store, run, made, kind=kind)
    stored = store.confirmation(id_)
    assert stored.confirmation == made
    assert (stored.id, stored.run, stored.backend, stored.environment) == (id_, run, "triton", MI325X)
    assert (stored.workload, stored.kind) == ("cold", kind)


def test_an_estimate_confirms_nothing(store: Store, run: int) -> None:
    with pytest.raises(IntegrityError):
        confirm(store, run, kind=Kind.ESTIMATE)


def test_an_interval_has_its_ends_in_order(store: Store, run: int) -> None:
    with pytest.raises(IntegrityError):
        confirm(store, run, confirmation(gain_low=0.2, gain_high=0.1))


def test_every_finalist_has_an_error_or_none(store: Store, run: int) -> None:
    with pytest.raises(ValueError, match="argument"):
        confirm(store, run, confirmation(errors=(1e-3,)))


def test_a_confirmation_that_does_not_exist_is_a_lookup_error(store: Store) -> None:
    with pytest.raises(LookupError, match="confirmations has no row 99"):
        store.confirmation(99)


def test_one_finalist_alone_is_a_confirmation_that_keeps_it(store: Store, run: int) -> None:
    alone = confirmation(
        finalists=(Finalist("default", DEFAULT),), rounds=(), errors=(1e-3,), winner=0, gain_low=0, gain=0
    )
    assert store.confirmation(confirm(store, run, alone)).confirmation == alone
