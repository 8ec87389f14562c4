"""Only what a confirmation chose can be a measured winner, by whatever path."""

import re
import sqlite3
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError

from autotune.machine.targets import Kind
from autotune.problem.layer import Problem, Stage
from autotune.problem.routing import Routing
from autotune.results import Finalist, LayerConfig, Status
from autotune.store.records import RunState, ShortListed
from autotune.store.store import Store
from tests.store.examples import (
    DEFAULT,
    FASTER,
    LAYER,
    M4,
    MI325X,
    OFFLINE,
    begin,
    config,
    confirm,
    confirmation,
    estimated,
    failed,
    layer_config,
    win,
)


def test_the_winner_is_what_the_confirmation_chose(store: Store, run: int) -> None:
    confirmed = confirm(store, run)
    id_ = store.record_winner(run, confirmed)
    (winner,) = store.winners()
    assert (winner.id, winner.run, winner.confirmation) == (id_, run, confirmed)
    assert (winner.problem, winner.backend, winner.environment) == (M4, "triton", MI325X)
    assert (winner.config, winner.default, winner.kept_default) == (FASTER, DEFAULT, False)
    assert (winner.gain, winner.gain_low, winner.gain_high) == (0.1, 0.08, 0.12)
    assert (winner.kind, winner.rank) == (Kind.MEASURED, 0)


def test_nothing_faster_keeps_the_default(store: Store, run: int) -> None:
    win(store, run, confirmation(winner=0, gain=0.0, gain_low=0.0, gain_high=0.0))
    (winner,) = store.winners()
    assert winner.kept_default
    assert winner.config == DEFAULT


def test_a_replayed_winner_says_so(store: Store, run: int) -> None:
    win(store, run, kind=Kind.REPLAYED)
    assert store.winners()[0].kind is Kind.REPLAYED


def test_a_finalist_that_failed_the_gate_is_no_winner(store: Store, run: int) -> None:
    confirmed = confirm(store, run, confirmation(errors=(1e-3, None)))
    with pytest.raises(ValueError, match=f"^finalist 1 of confirmation {confirmed} failed the numeric gate$"):
        store.record_winner(run, confirmed)
    assert store.winners() == []


def test_what_was_never_confirmed_is_no_winner(store: Store, run: int) -> None:
    with pytest.raises(LookupError):
        store.record_winner(run, 12345)


@pytest.mark.parametrize("stage", Stage)
def test_a_config_that_was_incorrect_in_a_trial_is_no_winner(store: Store, run: int, stage: Stage) -> None:
    trial = failed(stage=stage, config=FASTER.of(stage))
    store.record_trial(run, trial)
    with pytest.raises(
        ValueError, match=f"failed the numeric gate in a trial: {re.escape(str(trial.reason))}"
    ):
        win(store, run)


def test_of_several_failures_of_the_gate_the_first_is_told(store: Store, run: int, path: Path) -> None:
    for reason in ("zero", "one", "two"):
        trial = replace(failed(config=FASTER.stage1), reason=reason)
        store.record_trial(run, trial)
    with sqlite3.connect(path) as by_hand:
        by_hand.execute("UPDATE trials SET created_at = '2026-03-01 00:00:00.000000'")
    with pytest.raises(ValueError, match=r"in a trial: zero$"):
        win(store, run)
    with sqlite3.connect(path) as by_hand:
        by_hand.execute("UPDATE trials SET created_at = '2026-01-01 00:00:00.000000' WHERE reason = 'one'")
    with pytest.raises(ValueError, match=r"in a trial: one$"):
        win(store, run)


@pytest.mark.parametrize(
    "elsewhere",
    [
        {"environment": replace(MI325X, kernel_source="old")},
        {"problem": Problem(LAYER, 2)},
        {"backend": "aiter"},
        {"stage": Stage.STAGE2},
        {"config": config(999)},
    ],
)
def test_being_incorrect_elsewhere_is_no_matter(store: Store, run: int, elsewhere: dict[str, Any]) -> None:
    store.record_trial(run, failed(**{"config": FASTER.stage1, **elsewhere}))
    win(store, run)


@pytest.mark.parametrize("config", [layer_config(256, 128), layer_config(128, 64)])
def test_a_config_that_is_new_in_one_stage_is_not_the_default(
    store: Store, run: int, config: LayerConfig
) -> None:
    finalists = (Finalist("default", DEFAULT), Finalist("candidate", config))
    win(store, run, confirmation(finalists=finalists))
    (winner,) = store.winners()
    assert (winner.config, winner.default, winner.kept_default) == (config, DEFAULT, False)


def test_a_winner_is_dated_when_it_is_made_and_numbered_in_its_run(
    store: Store, run: int, path: Path
) -> None:
    before = datetime.now(UTC)
    for tokens in (1, 2):
        win(store, run, confirmation(problem=Problem(LAYER, tokens)))
    assert all(before <= winner.created_at <= datetime.now(UTC) for winner in store.winners())
    with sqlite3.connect(path) as by_hand:
        assert by_hand.execute("SELECT number FROM winners ORDER BY id").fetchall() == [(0,), (1,)]


def dated(path: Path, winner: int, when: str) -> None:
    """Puts a winner at another time, as a merge does."""
    with sqlite3.connect(path) as by_hand:
        by_hand.execute("UPDATE winners SET created_at = ? WHERE id = ?", (when, winner))


def test_the_newest_is_by_time_and_of_one_time_by_number(store: Store, run: int, path: Path) -> None:
    first, second, third = (win(store, run) for _ in range(3))
    for winner, when in ((first, "2026-03-01"), (second, "2026-01-01"), (third, "2026-03-01")):
        dated(path, winner, f"{when} 00:00:00.000000")
    assert [winner.id for winner in store.winners()] == [third]
    other = win(store, run, confirmation(problem=Problem(LAYER, 2)))
    dated(path, other, "2026-02-01 00:00:00.000000")
    assert [winner.id for winner in store.winners()] == [other, third], "the oldest first"


def test_a_clock_that_is_set_back_hides_no_winner(store: Store, run: int, path: Path) -> None:
    dated(path, win(store, run), "2199-01-01 00:00:00.000000")
    later = win(store, run)
    assert [winner.id for winner in store.winners()] == [later]
    with sqlite3.connect(path) as by_hand:
        by_hand.execute("UPDATE runs SET started_at = '2199-01-01 00:00:00.000000'")
    store.end_run(run, RunState.FINISHED)
    ended = store.run(run)
    assert ended.ended_at == ended.started_at


def test_the_latest_among_some_is_told_though_there_is_a_later_one(store: Store, run: int) -> None:
    first, second, _ = (win(store, run) for _ in range(3))
    assert [winner.id for winner in store.winners(among=[first, second])] == [second]
    assert store.winners(among=[]) == []


def test_a_winner_that_is_not_surely_faster_is_none(store: Store, run: int) -> None:
    with pytest.raises(IntegrityError, match="faster"):
        win(store, run, confirmation(gain_low=-0.01))


@pytest.mark.parametrize(
    "change",
    [
        "kind = 'estimate'",
        "kind = 'replayed'",
        "confirmation_id = NULL",
        "confirmation_id = NULL, finalist = NULL",
        "confirmation_id = 12345",
        "finalist = 0",
        "stage1_config = '{}'",
        "stage2_config = '{}'",
        "passed = 0",
        "trial_status = 'incorrect'",
        "gain_low = -0.1",
        "gain_low = NULL",
        "kept_default = 1",
        "rank = 1",
        "environment_id = NULL",
        "problem_id = 12345",
    ],
)
def test_the_schema_refuses_what_no_confirmation_chose(
    store: Store, run: int, path: Path, change: str
) -> None:
    """By hand, past every check in Python: the constraints alone hold."""
    win(store, run)
    with sqlite3.connect(path) as by_hand:
        by_hand.execute("PRAGMA foreign_keys = ON")
        with pytest.raises(sqlite3.IntegrityError):
            by_hand.execute(f"UPDATE winners SET {change}")


def test_the_schema_ties_a_winner_to_the_gate(store: Store, run: int, path: Path) -> None:
    win(store, run)
    with sqlite3.connect(path) as by_hand:
        by_hand.execute("PRAGMA foreign_keys = ON")
        with pytest.raises(sqlite3.IntegrityError):
            by_hand.execute("UPDATE finalists SET error = NULL, passed = 0 WHERE position = 1")


def test_the_latest_winner_of_a_problem_backend_and_environment_counts(store: Store, run: int) -> None:
    win(store, run)
    newest = win(store, begin(store))
    unlike = [
        win(store, run, confirmation(problem=Problem(LAYER, 2))),
        win(store, run, backend="aiter"),
        win(store, run, environment=replace(MI325X, driver="7.0")),
    ]
    assert [winner.id for winner in store.winners()] == [newest, *unlike]


def test_winners_can_be_narrowed_down(store: Store, run: int) -> None:
    first = win(store, run)
    other = win(store, run, confirmation(problem=Problem(LAYER, 2)), backend="aiter", kind=Kind.REPLAYED)
    far = win(store, run, environment=OFFLINE)

    def ids(**only: Any) -> list[int]:
        return [winner.id for winner in store.winners(**only)]

    assert ids(problem=M4) == [first, far]
    assert ids(backend="aiter") == [other]
    assert ids(environment_key=OFFLINE.key) == [far]
    assert ids(kind=Kind.MEASURED) == [first, far]
    assert ids(problem=M4, environment_key=MI325X.key, kind=Kind.MEASURED, backend="triton") == [first]


SHORT_LIST = [ShortListed(layer_config(256, 64), 0.2), ShortListed(layer_config(64, 64), 0.1)]


def short_list(store: Store, run: int, entries: list[ShortListed]) -> list[int]:
    return store.record_short_list(
        run, problem=M4, backend="triton", environment=OFFLINE, default=DEFAULT, entries=entries
    )


def try_offline(store: Store, run: int) -> dict[tuple[Stage, int], int]:
    return {
        (stage, tile_k): store.record_trial(run, estimated(stage, tile_k))
        for stage, tile_k in ((Stage.STAGE1, 256), (Stage.STAGE1, 64), (Stage.STAGE2, 64))
    }


def test_a_short_list_is_kept_with_its_ranks_and_trials(store: Store, run: int) -> None:
    trials = try_offline(store, run)
    ids = short_list(store, run, SHORT_LIST)
    (best,) = store.winners()
    listed = store.short_list(best)
    assert [entry.id for entry in listed] == ids
    assert [(entry.rank, entry.config, entry.gain) for entry in listed] == [
        (0, layer_config(256, 64), 0.2),
        (1, layer_config(64, 64), 0.1),
    ]
    assert {(entry.kind, entry.confirmation, entry.gain_low) for entry in listed} == {
        (Kind.ESTIMATE, None, None)
    }
    assert (best.stage1_trial, best.stage2_trial) == (trials[Stage.STAGE1, 256], trials[Stage.STAGE2, 64])


def test_a_later_short_list_replaces_an_earlier_one(store: Store, run: int) -> None:
    try_offline(store, run)
    short_list(store, run, SHORT_LIST)
    later = short_list(store, run, SHORT_LIST[::-1])
    (best,) = store.winners()
    assert [entry.id for entry in store.short_list(best)] == later


def test_an_estimate_never_hides_a_measured_winner(store: Store, run: int) -> None:
    measured = win(store, run, environment=OFFLINE)
    try_offline(store, run)
    (best, _) = short_list(store, run, SHORT_LIST)
    assert [winner.id for winner in store.winners()] == [measured, best]


def test_the_default_may_stand_for_a_stage_that_was_not_searched(store: Store, run: int) -> None:
    try_offline(store, run)
    short_list(store, run, [ShortListed(layer_config(256, 128), 0.1), ShortListed(DEFAULT, 0.0)])
    (best,) = store.winners()
    assert best.stage2_trial is None


@pytest.mark.parametrize(
    ("fate", "message"),
    [
        (None, "no trial that is ok"),
        (Status.INCORRECT, "failed the numeric gate"),
        (Status.CONSTRAINT, "no trial that is ok"),
    ],
)
def test_only_a_config_whose_trial_is_ok_is_short_listed(
    store: Store, run: int, fate: Status | None, message: str
) -> None:
    try_offline(store, run)
    if fate is not None:
        store.record_trial(
            run, failed(fate, stage=Stage.STAGE2, config=config(32), environment=OFFLINE, kind=Kind.ESTIMATE)
        )
    with pytest.raises(ValueError, match=message):
        short_list(store, run, [*SHORT_LIST, ShortListed(layer_config(256, 32), 0.05)])
    assert store.winners() == []


def test_the_schema_ties_an_estimate_to_its_trial(store: Store, run: int, path: Path) -> None:
    try_offline(store, run)
    short_list(store, run, SHORT_LIST)
    with sqlite3.connect(path) as by_hand:
        by_hand.execute("PRAGMA foreign_keys = ON")
        for statement in (
            "UPDATE trials SET status = 'incorrect', figure_us = NULL, reason = 'off'",
            "UPDATE winners SET stage1_trial_id = NULL",
            "UPDATE winners SET kind = 'measured'",
            "UPDATE winners SET gain_low = 0.1, gain_high = 0.2",
        ):
            with pytest.raises(sqlite3.IntegrityError):
                by_hand.execute(statement)


def win_at(store: Store, run: int, tokens: int, tile_k: int, **changes: Any) -> None:
    finalists = (Finalist("default", DEFAULT), Finalist("candidate", layer_config(tile_k, tile_k)))
    win(store, run, confirmation(problem=Problem(LAYER, tokens), finalists=finalists), **changes)


def seeds(store: Store, problem: Problem = M4, **options: Any) -> list[int]:
    found = store.nearby_winners(problem, "triton", **options)
    return [int(str(winner.config.stage1["tile_k"])) for winner in found]


def test_winners_at_near_token_counts_seed_a_search(store: Store, run: int) -> None:
    for tokens, tile_k in ((1, 10), (2, 20), (4, 40), (5, 50), (8, 80)):
        win_at(store, run, tokens, tile_k, environment=replace(MI325X, driver=f"for {tokens}"))
    assert seeds(store)[:2] == [40, 50]
    assert sorted(seeds(store)) == [10, 20, 40, 50, 80]
    assert seeds(store, within=2.0, limit=1) == [40]
    assert sorted(seeds(store, within=2.0)) == [20, 40, 50, 80]


def test_a_winner_does_not_carry_over_a_long_distance(store: Store, run: int) -> None:
    win_at(store, run, 4, 40)
    assert seeds(store, Problem(LAYER, 4, 40)) == []


@pytest.mark.parametrize("changed", ["model_dim", "inter_dim", "experts", "top_k"])
def test_another_layers_winner_is_no_seed(store: Store, run: int, changed: str) -> None:
    win_at(store, run, 4, 40)
    assert seeds(store, Problem(replace(LAYER, **{changed: 96}), 4)) == []


def test_a_layer_of_equal_dimensions_in_another_model_is(store: Store, run: int) -> None:
    win_at(store, run, 4, 40)
    assert seeds(store, Problem(replace(LAYER, model="finetune"), 4)) == [40]


def test_a_seed_is_at_most_four_times_as_far_and_there_are_at_most_eight(store: Store, run: int) -> None:
    for index, tokens in enumerate((1, 2, 16, 17, *[4] * 7)):
        problem = Problem(LAYER, 1, tokens)
        finalists = (Finalist("default", DEFAULT), Finalist("candidate", layer_config(index + 1, index + 1)))
        stack = replace(MI325X, driver=str(index))
        win(store, run, confirmation(problem=problem, finalists=finalists), environment=stack)
    assert seeds(store, within=4.0, limit=99)[-3:] == [2, 3, 1]
    assert sorted(seeds(store, limit=99)) == [1, 2, 3, 5, 6, 7, 8, 9, 10, 11]
    assert seeds(store) == seeds(store, limit=99)[:8]
    assert seeds(store, Problem(LAYER, 1, 5), limit=99)[-1] == 4, "17 are within 4 times 5, 1 is not"
    assert 1 not in seeds(store, Problem(LAYER, 1, 5), limit=99)


def test_of_equally_near_seeds_the_newest_comes_first(store: Store, run: int, path: Path) -> None:
    finalists = [(Finalist("default", DEFAULT), Finalist("candidate", layer_config(k, k))) for k in (10, 20)]
    ids = [
        win(store, run, confirmation(finalists=those), environment=replace(MI325X, driver=str(index)))
        for index, those in enumerate(finalists)
    ]
    for winner, when in zip(ids, ("2026-03-01", "2026-01-01"), strict=True):
        dated(path, winner, f"{when} 00:00:00.000000")
    assert seeds(store) == [10, 20]
    dated(path, ids[1], "2026-05-01 00:00:00.000000")
    assert seeds(store) == [20, 10]


def test_the_nearest_comes_before_the_measured_and_that_before_equal_routing(store: Store, run: int) -> None:
    zipf = Routing("zipf", 1.0)

    def at(tokens: int, tile_k: int, routing: Routing, kind: Kind) -> None:
        finalists = (Finalist("default", DEFAULT), Finalist("candidate", layer_config(tile_k, tile_k)))
        win(
            store,
            run,
            confirmation(problem=Problem(LAYER, tokens, routing=routing), finalists=finalists),
            kind=kind,
        )

    at(2, 40, M4.routing, Kind.MEASURED)
    at(4, 30, M4.routing, Kind.REPLAYED)
    at(4, 20, zipf, Kind.MEASURED)
    at(4, 10, M4.routing, Kind.MEASURED)
    assert seeds(store) == [10, 20, 30, 40]


def test_another_backends_winner_is_no_seed(store: Store, run: int) -> None:
    win_at(store, run, 4, 40, backend="aiter")
    assert seeds(store) == []


def test_equal_configs_seed_once_and_measured_ones_come_first(store: Store, run: int) -> None:
    win_at(store, run, 4, 10, kind=Kind.REPLAYED)
    win_at(store, run, 4, 20)
    win_at(store, run, 2, 20)
    assert seeds(store) == [20, 10]


def test_equal_routing_comes_first(store: Store, run: int) -> None:
    zipf = Problem(LAYER, 4, routing=Routing("zipf", 1.0))
    win_at(store, run, 4, 10)
    finalists = (Finalist("default", DEFAULT), Finalist("candidate", layer_config(20, 20)))
    win(store, run, confirmation(problem=zipf, finalists=finalists))
    assert seeds(store) == [10, 20]
    assert seeds(store, zipf) == [20, 10]
