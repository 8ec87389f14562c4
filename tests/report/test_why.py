"""Why this one: what decided is stored, told, and gives the same decision again without the GPU."""

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from autotune.cli import app
from autotune.measure.confirm import confirm, decide_again
from autotune.measure.settings import MeasureSettings
from autotune.problem.layer import Stage
from autotune.report.why import Why, settings_of, why, why_lines
from autotune.results import Confirmation, Failure, Finalist, Status
from autotune.store.store import Store
from tests.measure.test_confirm import Card, finalists
from tests.store.examples import M4, MI325X, begin, failed, trial

RUNNER = CliRunner()
MEASURING = MeasureSettings(select_rounds=2, judge_rounds=8, resamples=200)


@pytest.fixture
def store(own_database: Path) -> Iterator[Store]:
    with Store.open() as opened:
        yield opened


def kept(store: Store, final: Confirmation, measuring: MeasureSettings = MEASURING) -> int:
    """Stores a final as a run does; its id."""
    run = store.begin_run("autotune run --shape m4", {"measuring": asdict(measuring)}, 0, MI325X)
    return store.record_confirmation(run, final, backend="triton", environment=MI325X, workload="cold")


def run_final(
    card: Card,
    contenders: list[Finalist],
    measuring: MeasureSettings = MEASURING,
    wrong: frozenset[int] = frozenset(),
) -> Confirmation:
    def gate(index: int) -> float | Failure:
        return Failure(Status.INCORRECT, "one wrong tile") if index in wrong else 1e-3

    return confirm(M4, contenders, gate, card, measuring)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_deciding_again_from_what_is_stored_gives_the_stored_winner(
    store: Store, data: st.DataObject
) -> None:
    """With deaths at any moment, wrong finalists, twins of the default, and any numbers of rounds."""
    count = data.draw(st.integers(1, 5), label="finalists")
    labels = [
        "default",
        *data.draw(st.lists(st.sampled_from(["candidate", "published"]), min_size=count, max_size=count)),
    ]
    contenders = finalists(*labels)
    if data.draw(st.booleans(), label="a finalist is another's twin"):
        contenders[-1] = replace(
            contenders[-1], config=contenders[data.draw(st.integers(0, count - 1))].config
        )
    card = Card(
        data.draw(st.lists(st.sampled_from([9.0, 9.8, 10.0, 10.2]), min_size=count + 1, max_size=count + 1)),
        noise=data.draw(st.sampled_from([0.0, 0.01, 0.03])),
        seed=data.draw(st.integers(0, 99)),
    )
    card.dies = data.draw(
        st.dictionaries(st.integers(0, count), st.integers(1, 60), max_size=2), label="dies"
    )
    measuring = replace(
        MEASURING,
        seed=data.draw(st.integers(0, 3)),
        select_rounds=data.draw(st.sampled_from([2, 4, 8])),
        judge_rounds=data.draw(st.sampled_from([2, 4, 8])),
        min_gain=data.draw(st.sampled_from([0.0, 0.01])),
    )
    wrong = data.draw(st.frozensets(st.integers(0, count), max_size=2), label="wrong")
    final = run_final(card, contenders, measuring, wrong)
    stored = store.confirmation(kept(store, final, measuring))
    told = settings_of(store, stored)
    assert told == measuring
    again = decide_again(stored.confirmation, told)
    assert (again.winner, *again.gain) == (final.winner, final.gain, final.gain_low, final.gain_high)


@pytest.mark.parametrize(
    ("labels", "changes"),
    [
        (("default", "setting 1"), {}),  # a table: whatever it says, nothing was decided
        (("default", "candidate"), {"errors": (None, 1e-3)}),
        (("default", "candidate"), {"errors": (1e-3, None)}),
        (("default", "candidate"), {"errors": (1e-3, None), "rounds": ()}),
        (("default",), {"errors": (1e-3,), "rounds": ()}),
    ],
)
def test_what_no_rounds_decide_keeps_the_default(labels: tuple[str, ...], changes: dict[str, object]) -> None:
    final = replace(run_final(Card([10, 5]), finalists("default", "candidate")), winner=0)
    said = decide_again(replace(final, finalists=tuple(finalists(*labels)), **changes), MEASURING)
    assert (said.winner, said.ratio, said.gain) == (0, None, (0.0, 0.0, 0.0))


def decided(store: Store) -> Why:
    """A final with a published config, a winner, a slower one, a twin, a wrong one and one that dies."""
    contenders = finalists("default", "published", *["candidate"] * 5)
    contenders[4] = Finalist("candidate", contenders[0].config)
    card = Card([10, 9.5, 9, 9.7, 10, 8, 8.5])
    card.dies = {6: 6}
    final = run_final(card, contenders, wrong=frozenset({5}))
    id_ = kept(store, final)
    store.record_winner(store.confirmation(id_).run, id_)
    (winner,) = store.winners()
    return why(store, winner)


def test_what_became_of_each_finalist_is_told(store: Store) -> None:
    told = decided(store)
    assert told.repeats is True
    ships, published, won, slower, twin, wrong, died = told.outcomes
    assert ships == "the default"
    assert published.startswith(
        "lost the preselection (2 rounds) to candidate 2; in the final rounds: +4.9% (95% CI "
    )
    assert won.startswith("won: +10.")
    assert slower == "lost the preselection (2 rounds) to candidate 2"
    assert twin == "the same config as one above"
    assert wrong == "was not timed: incorrect: one wrong tile"
    assert died == "failed in a round: runtime_error: died"
    text = "\n".join(why_lines(told))
    assert "2 rounds of preselection picked the challenger, 8 more decided" in text
    assert "the lower 95% bound of its gain had to exceed 1.0%" in text
    assert text.endswith("decision repeated from the stored rounds: the same")


def test_one_that_is_not_surely_faster_is_told_with_its_interval(store: Store) -> None:
    id_ = kept(store, run_final(Card([10, 9.95]), finalists("default", "candidate")))
    store.record_winner(store.confirmation(id_).run, id_)
    (winner,) = store.winners()
    ships, kept_out = why(store, winner).outcomes
    assert ships == "the default, kept"
    assert kept_out.startswith("went to the final rounds: +0.")
    assert kept_out.endswith("not surely above 1.0%")


def test_a_stored_winner_that_its_rounds_do_not_make_is_noticed(store: Store) -> None:
    final = run_final(Card([10, 10]), finalists("default", "candidate"))
    id_ = kept(store, replace(final, winner=1, gain=0.1, gain_low=0.09, gain_high=0.11))
    store.record_winner(store.confirmation(id_).run, id_)
    (winner,) = store.winners()
    told = why(store, winner)
    assert told.repeats is False
    assert "NOT the same" in why_lines(told)[-1]


def test_without_the_runs_conditions_it_says_so(store: Store) -> None:
    final = run_final(Card([10, 9]), finalists("default", "candidate"))
    run = begin(store)
    store.record_winner(
        run, store.record_confirmation(run, final, backend="triton", environment=MI325X, workload="cold")
    )
    (winner,) = store.winners()
    assert why(store, winner).repeats is None


def test_who_led_the_search_and_is_not_in_the_final_is_told_with_the_reason(store: Store) -> None:
    run = begin(store)
    ahead, wrong, *_ = (f.config.stage1 for f in finalists(*["candidate"] * 9)[7:])
    store.record_trial(run, trial(config=ahead, time_us=1.0))
    store.record_trial(run, trial(config=wrong, time_us=2.0))
    store.record_trial(run, failed(config=wrong, origin="race"))
    first, second = decided(store).left
    assert (first.stage, first.config, first.us) == (Stage.STAGE1, ahead, 1.0)
    assert first.reason.startswith("other pairs of stages had smaller sums")
    assert (second.config, second.reason) == (wrong, "incorrect when measured again: the output is off")


def test_the_command_tells_it_to_people_and_as_json(store: Store) -> None:
    decided(store)
    text = RUNNER.invoke(app, ["show", "--why"], catch_exceptions=False).output
    assert "won: +10." in text
    (told,) = json.loads(RUNNER.invoke(app, ["show", "--why", "--json"], catch_exceptions=False).output)
    assert (told["winner"], told["repeats"], told["measuring"]["judge_rounds"]) == (2, True, 8)
    # Every round of everyone: who was put aside has none in those that decided.
    rounds = [sum(us is not None for us in finalist["layer_us"]) for finalist in told["finalists"]]
    assert rounds == [10, 10, 10, 2, 0, 0, 1]
