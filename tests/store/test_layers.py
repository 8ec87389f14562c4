"""Layers that a search tried: kept whole, and given back to the same problem, stack and default."""

from dataclasses import replace

from autotune.problem.layer import Problem
from autotune.results import Failure, LayerMeasurement, Status
from autotune.store.store import Store
from tests.store.examples import DEFAULT, FASTER, LAYER, M4, MI325X, layer_trial


def of(store: Store, **changes: object) -> list[object]:
    asked = {
        "problem": M4,
        "backend": "triton",
        "environment_key": MI325X.key,
        "workload": "cold",
        "default": DEFAULT,
    }
    return list(store.layers(**{**asked, **changes}))  # type: ignore[arg-type]


def test_what_was_tried_comes_back(store: Store, run: int) -> None:
    failed = layer_trial(config=DEFAULT, outcome=Failure(Status.INCORRECT, "off", 0.5, 0.3))
    for trial in (layer_trial(), failed):
        store.record_layer(run, trial)
    assert of(store) == store.layers_of(run) == [layer_trial(), failed]


def test_layers_of_another_default_problem_stack_or_conditions_are_not_mixed_in(
    store: Store, run: int
) -> None:
    store.record_layer(run, layer_trial())
    assert of(store, default=FASTER) == []
    assert of(store, problem=Problem(LAYER, 2)) == []
    assert of(store, environment_key=replace(MI325X, driver="7.0").key) == []
    assert of(store, workload="hot") == []


def test_a_disturbed_one_is_kept_and_not_given_back(store: Store, run: int) -> None:
    disturbed = layer_trial(outcome=LayerMeasurement((9.0,), (10.0,), 6e-3, 0.01, "python3"))
    store.record_layer(run, disturbed)
    assert of(store) == []
    assert store.layers_of(run) == [disturbed]
