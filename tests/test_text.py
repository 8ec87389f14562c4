"""Texts for people: nouns agree, percentages have one style, commands hide passwords."""

import pytest

from autotune.text import command_line, counted, duration, percent, percent_interval, printable, why


@pytest.mark.parametrize(
    ("number", "noun", "words"),
    [
        (0, "trial", "0 trials"),
        (1, "trial", "1 trial"),
        (2404, "legal config", "2,404 legal configs"),
        (1, "compile process", "1 compile process"),
        (2, "compile process", "2 compile processes"),
        (2, "query", "2 queries"),
        (2, "key", "2 keys"),
    ],
)
def test_a_noun_agrees_with_its_number(number: int, noun: str, words: str) -> None:
    assert counted(number, noun) == words


def test_what_follows_no_rule_is_named() -> None:
    assert [counted(n, "axis", plural="axes") for n in (1, 2)] == ["1 axis", "2 axes"]


def test_percentages_have_one_decimal_and_no_sign_where_they_round_to_nothing() -> None:
    assert [percent(share) for share in (0.1881, -0.02, 0.0001, -0.0001)] == [
        "18.8%",
        "-2.0%",
        "0.0%",
        "0.0%",
    ]
    assert [percent(gain, signed=True) for gain in (0.0163, -0.02, 0.0001)] == ["+1.6%", "-2.0%", "0.0%"]


def test_an_interval_says_what_it_is() -> None:
    assert percent_interval(0.188, 0.186, 0.195) == "18.8% (95% CI 18.6% to 19.5%)"
    assert percent_interval(0.019, -0.001, 0.02, signed=True) == "+1.9% (95% CI -0.1% to +2.0%)"


def test_what_no_terminal_prints_is_an_escape_on_the_same_line() -> None:
    assert printable("a\0b\n\x1b[31m \ud800 µ") == r"a\x00b\n\x1b[31m \ud800 µ"


def test_durations() -> None:
    assert [duration(seconds) for seconds in (8.2, 200, 7500)] == ["8 s", "3 min", "2 h 5 min"]


def test_of_a_file_that_a_sentence_names_the_reason_alone_is_told() -> None:
    assert why(FileNotFoundError(2, "No such file or directory", "x.json")) == "No such file or directory"
    assert why(OSError("without a number")) == "without a number"
    assert why(ValueError("line 3")) == "line 3"


@pytest.mark.parametrize(
    ("database", "kept"),
    [
        ("postgresql://tuner:s3c/r3t@head:5432/autotune", "'postgresql://tuner:***@head:5432/autotune'"),
        ("postgresql://head/a?user=tuner&password=s3c", "'postgresql://head/a?user=tuner&password=***'"),
        ("postgresql://tuner@head:5432/a?host=/tmp/b", "'postgresql://tuner@head:5432/a?host=/tmp/b'"),
        ("my results.db", "'my results.db'"),
    ],
)
def test_a_command_is_kept_without_the_passwords_in_it(database: str, kept: str) -> None:
    assert command_line(["run", "--db", database]) == f"autotune run --db {kept}"
