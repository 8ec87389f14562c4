"""One setting for every shape, by hand-made times."""

import re
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.errors import UserError
from autotune.protocol.mix import Mix, decide, even, make_mix, parse_guards, parse_mix

MIX = Mix.of({4: 1.0, 160: 3.0}, guards=(64, 4096))
DEFAULT = {4: 10.0, 160: 40.0, 64: 20.0, 4096: 500.0}


def scaled(**factors: float) -> dict[int, float]:
    return {m: us * factors.get(f"m{m}", 1.0) for m, us in DEFAULT.items()}


def test_the_best_over_the_mix_wins_though_another_is_better_at_one_shape() -> None:
    times = {"": DEFAULT, "a": scaled(m4=0.7), "b": scaled(m160=0.9)}
    decision = decide(times, "", MIX)
    assert decision.setting == "b"
    # (1*10 + 3*40*0.9) against 130.
    assert decision.candidates[0].mean == pytest.approx(12 / 130)


def test_what_loses_at_a_guard_is_refused_however_good_it_is() -> None:
    times = {"": DEFAULT, "a": scaled(m4=0.5, m160=0.5, m4096=1.02), "b": scaled(m160=0.99)}
    decision = decide(times, "", MIX)
    assert decision.setting == "b"
    assert decision.candidates[-1].refused == "loses 2.0% at 4,096 tokens"


def test_within_the_margin_a_guard_may_lose() -> None:
    assert decide({"": DEFAULT, "a": scaled(m160=0.9, m4096=1.005)}, "", MIX).setting == "a"


def test_what_was_not_measured_everywhere_is_not_chosen() -> None:
    partly = {m: us * 0.5 for m, us in DEFAULT.items() if m != 4096}
    decision = decide({"": DEFAULT, "a": partly}, "", MIX)
    assert decision.setting == ""
    assert decision.candidates[-1].refused == "not measured at 4096 tokens"


def test_a_mix_of_which_the_default_was_not_measured_is_an_error() -> None:
    with pytest.raises(UserError, match="512 tokens"):
        decide({"": DEFAULT}, "", Mix.of({4: 1.0}, guards=(512,)))


def test_nothing_better_keeps_every_knob_unset() -> None:
    assert decide({"": DEFAULT, "a": DEFAULT}, "", MIX).setting == ""
    assert decide({"": DEFAULT, "a": scaled(m160=0.995)}, "", MIX, min_gain=0.01).setting == ""


@given(
    st.dictionaries(
        st.sampled_from("abc"),
        st.fixed_dictionaries({m: st.floats(1, 100) for m in DEFAULT}),
    )
)
def test_the_choice_never_loses_over_the_mix_or_at_a_guard(times: dict[str, dict[int, float]]) -> None:
    decision = decide({"": DEFAULT, **times}, "", MIX)
    chosen = {"": DEFAULT, **times}[decision.setting]
    assert sum(w * chosen[m] for m, w in MIX.weights.items()) <= 32.5 + 1e-9
    assert all(chosen[m] <= DEFAULT[m] * 1.01 + 1e-9 for m in MIX.guards)


def test_shares_are_parsed_and_add_up_to_one() -> None:
    assert parse_mix("4=1, 160=3") == {4: 1.0, 160: 3.0}
    assert parse_mix("4,160") == {4: 1.0, 160: 1.0}
    assert MIX.weights == {4: 0.25, 160: 0.75}
    assert even([4, 160]) == {4: 1.0, 160: 1.0}


@pytest.mark.parametrize("part", ["four=1", "", "=1", "0=1", "-4=1", "4.5=1", "1_0=1", "٤=1"])
def test_a_part_without_a_token_count_is_named(part: str) -> None:
    with pytest.raises(UserError, match=f"{re.escape(repr(part))} has no token count"):
        parse_mix(f"160=3,{part}")


@pytest.mark.parametrize(
    "share", ["nan", "inf", "-inf", "0", "-1", "much", "", "1=2", "50%", "1e400", "1e300"]
)
def test_a_share_that_is_no_finite_number_above_zero_is_refused(share: str) -> None:
    with pytest.raises(UserError, match=f"{re.escape(repr('4=' + share))} has no finite share above zero"):
        parse_mix(f"160=3,4={share}")


def test_a_token_count_that_comes_twice_is_refused() -> None:
    with pytest.raises(UserError, match="'4=2' has a token count that was there before"):
        parse_mix("4=1,4=2")


def test_shares_of_the_library_are_checked_as_well() -> None:
    for shares in ({}, {0: 1.0}, {4: -1.0}, {4: float("nan")}, {4: 1.0, 160: float("inf")}):
        with pytest.raises(UserError):
            Mix.of(shares)


def test_guards_are_token_counts_or_none() -> None:
    assert parse_guards("512, 64") == (64, 512)
    assert parse_guards("none") == ()
    for wrong, part in [
        ("", ""),
        ("64,,512", ""),
        ("64,x", "x"),
        ("0", "0"),
        ("none,64", "none"),
        ("131073", "131073"),
    ]:
        with pytest.raises(UserError, match=f"{part!r} is not a token count"):
            parse_guards(wrong)


def test_a_margin_that_is_no_number_would_switch_the_guards_off() -> None:
    with pytest.raises(UserError, match="--margin is NaN"):
        make_mix(None, None, "64", float("nan"))


@given(st.text(alphabet="0123456789=,.e- naif", max_size=12))
def test_any_text_is_a_mix_or_one_sentence(text: str) -> None:
    with suppress(UserError):
        weights = Mix.of(parse_mix(text)).weights
        assert sum(weights.values()) == pytest.approx(1)
        assert all(tokens >= 1 and weight > 0 for tokens, weight in weights.items())
