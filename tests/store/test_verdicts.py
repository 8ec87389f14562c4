"""A verdict belongs to a binary and its compiler; a wrong binary is never listed, chosen or exported."""

from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy.exc import IntegrityError

from autotune.problem.layer import Stage
from autotune.results import CheckVerdict, CompilerVersion, VerdictStatus
from autotune.store.records import ShortListed
from autotune.store.store import Store
from tests.store.examples import (
    DEFAULT,
    M4,
    OFFLINE,
    PASS,
    TRITON,
    WRONG,
    config,
    confirm,
    estimated,
    layer_config,
    trial,
    win,
)

BINARY, OTHER = "ab" * 32, "cd" * 32
FAULT = CheckVerdict(VerdictStatus.FAULT, None, "ds_read_b32 v1, v2 (line 7): LDS race", 0.1)


def test_a_verdict_comes_back_as_it_was(store: Store) -> None:
    for verdict in (PASS, WRONG, FAULT, replace(WRONG, error=float("inf"))):
        store.record_verdict(BINARY, TRITON, "gfx942", verdict)
        assert store.verdict(BINARY, TRITON) == verdict


def test_another_compilers_binary_is_not_judged_by_it(store: Store) -> None:
    store.record_verdict(BINARY, TRITON, "gfx942", PASS)
    assert store.verdict(BINARY, CompilerVersion("triton", "3.10.0")) is None
    assert store.verdict(OTHER, TRITON) is None


@pytest.mark.parametrize(
    "contradiction",
    [replace(PASS, reason="off"), replace(PASS, error=None), replace(WRONG, reason=None)],
    ids=["a pass with a reason", "a pass without an error", "a failure without a reason"],
)
def test_contradictions_are_refused(store: Store, contradiction: CheckVerdict) -> None:
    with pytest.raises(IntegrityError):
        store.record_verdict(BINARY, TRITON, "gfx942", contradiction)


@pytest.mark.parametrize("verdict", [WRONG, FAULT], ids=["incorrect", "fault"])
def test_a_winner_whose_binary_is_found_wrong_later_cannot_be_exported(
    store: Store, run: int, verdict: CheckVerdict
) -> None:
    store.record_trial(run, trial(stage=Stage.STAGE2, config=config(64), binary_hash=BINARY))
    winner = win(store, run)
    store.record_export(Path("/deploy"), "00" * 32, [winner])
    store.record_verdict(BINARY, TRITON, "gfx942", verdict)
    with pytest.raises(ValueError, match=r"cannot be exported: stage2 .* is wrong, its machine code was"):
        store.record_export(Path("/deploy"), "00" * 32, [winner], unmeasured_allowed=True)
    assert store.verdicts_of(store.winners()) == [{Stage.STAGE2: verdict}]


def test_a_wrong_binary_cannot_win(store: Store, run: int) -> None:
    store.record_trial(run, trial(config=config(256), binary_hash=BINARY))
    store.record_verdict(BINARY, TRITON, "gfx942", WRONG)
    with pytest.raises(ValueError, match="incorrect: relative error"):
        store.record_winner(run, confirm(store, run))


def test_a_wrong_binary_cannot_be_short_listed(store: Store, run: int) -> None:
    for stage in Stage:
        store.record_trial(run, estimated(stage, 32, binary_hash=BINARY if stage is Stage.STAGE1 else OTHER))
    store.record_verdict(BINARY, TRITON, "gfx942", FAULT)
    with pytest.raises(ValueError, match="fault: ds_read_b32"):
        store.record_short_list(
            run,
            problem=M4,
            backend="triton",
            environment=OFFLINE,
            default=DEFAULT,
            entries=[ShortListed(layer_config(32, 32), 0.3)],
        )


def test_what_could_not_be_judged_forbids_nothing(store: Store, run: int) -> None:
    unknown = CheckVerdict(VerdictStatus.NOT_EMULATED, None, "v_new_b32 v0, v1 (line 9): unknown", 0.1)
    store.record_trial(run, trial(config=config(256), binary_hash=BINARY))
    store.record_verdict(BINARY, TRITON, "gfx942", unknown)
    store.record_export(Path("/deploy"), "00" * 32, [win(store, run)])
