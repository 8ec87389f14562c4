"""`show`, `top` and `history`: tables that a person reads in ten seconds, and JSON with stable names."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from autotune.cli import app
from autotune.report import finals
from autotune.report.text_table import Column, text_table
from autotune.store.store import Store


@pytest.fixture(autouse=True)
def _no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests in parallel may tell a width: what goes to a pipe has none."""
    monkeypatch.delenv("COLUMNS", raising=False)


def _autotune(*words: str) -> Result:
    return CliRunner().invoke(app, words, catch_exceptions=False)


def _json(*words: str) -> list[dict[str, object]]:
    result: list[dict[str, object]] = json.loads(_autotune(*words, "--json").stdout)
    return result


@pytest.mark.usefixtures("h100")
def test_show_tells_the_winner_against_what_ships_with_interval_kind_and_device() -> None:
    heading, line = _autotune("show").stdout.splitlines()
    assert heading.split()[:4] == ["model", "shape", "tokens", "routing"]
    assert line.startswith("kimi-k2.5-w4a8 TP 8 ")
    for part in ("m4", "measured", "NVIDIA H100 80GB HBM3", "+1.6%", "+1.5% to +1.8%", "pdl=true"):
        assert part in line


@pytest.mark.usefixtures("h100")
def test_show_resamples_nothing_as_it_prints_no_interval_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty winners would take seconds."""
    monkeypatch.delattr(finals, "median_interval")
    assert "+1.5% to +1.8%" in _autotune("show").stdout


@pytest.mark.usefixtures("h100")
def test_show_with_a_number_tells_all_of_one_trial() -> None:
    shown = _autotune("show", "1").stdout
    for part in ("tile_k=128", "32.77 µs, measured", "gate error", "lds_bytes 6144", "NVIDIA H100"):
        assert part in shown
    (samples, us) = (json.loads(_autotune("show", "1", "--json").stdout)[k] for k in ("samples_us", "us"))
    assert min(samples) <= us <= max(samples)


@pytest.mark.usefixtures("h100")
def test_top_ranks_each_stage_apart_and_names_what_differs_from_the_default() -> None:
    rows = _json("top", "--limit", "3")
    assert [(row["stage"], row["rank"]) for row in rows] == [
        (stage, rank) for stage in ("stage1", "stage2") for rank in range(3)
    ]
    for stage in ("stage1", "stage2"):
        times = [row["us"] for row in rows if row["stage"] == stage]
        assert times == sorted(times)  # type: ignore[type-var]
    text = _autotune("top", "--stage", "stage2", "--limit", "1").stdout
    assert "m4 stage2 (4 tokens): 1 of 150, measured on NVIDIA H100 80GB HBM3" in text
    assert "triton, kimi-k2.5-w4a8 TP 8" in text
    assert "+4.2%" in text
    assert "num_warps=2,split_blocks=2,w_cache=first" in text


def test_top_lists_the_failed_with_their_reasons(large_file: Path) -> None:
    text = _autotune("top", "--db", str(large_file), "--shape", "m2", "--status", "incorrect").stdout
    assert "incorrect: the output is off by 3.1e-01" in text
    assert "m2 stage1" in text
    assert "m3 " not in text


def test_limit_and_sort_do_what_they_say(large_file: Path) -> None:
    rows = _json("top", "--db", str(large_file), "--shape", "m1", "--stage", "stage1", "--limit", "0")
    assert len(rows) > 70
    by_number = _json(
        "top",
        "--db",
        str(large_file),
        "--shape",
        "m1",
        "--stage",
        "stage1",
        "--sort",
        "trial",
        "--limit",
        "2",
    )
    assert [row["trial"] for row in by_number] == [1, 2]


@pytest.mark.usefixtures("h100")
def test_history_tells_when_where_and_what_came_of_it() -> None:
    (run,) = _json("history")
    assert (run["run"], run["trials"], run["failed"], run["winners"], run["faster"]) == (1, 300, 0, 1, 1)
    assert run["command"] == "autotune run --shape m4 --trials 150"
    assert "2026-11-24 08:49" in _autotune("history").stdout


def test_an_empty_database_is_answered_with_the_next_step(own_database: Path) -> None:
    Store.open(own_database).close()
    for command in ("show", "top", "history"):
        said = _autotune(command).stdout
        assert "autotune run --shape m4" in said
        assert _json(command) == []


@pytest.mark.usefixtures("h100")
@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (("top", "--sort", "beauty"), "use one of us, trial"),
        (("top", "--stage", "stage3"), "use stage1 or stage2"),
        (("top", "--backend", "trition"), "unknown backend 'trition': use one of"),
        (("top", "--status", "lost"), "use one of ok, constraint"),
        (("history", "--sort", "beauty"), "use one of started"),
        (("show", "999"), "autotune top"),
    ],
)
def test_a_mistake_is_one_sentence_with_the_remedy(words: tuple[str, ...], remedy: str) -> None:
    from autotune.errors import UserError

    with pytest.raises(UserError, match=remedy):
        _autotune(*words)


def test_tables_keep_their_columns_and_cut_nothing_off() -> None:
    columns = (Column("a"), Column("b", right=True), Column("c"))
    assert text_table(columns, [["x", "1", ""], ["long", "10", "y" * 90]]) == [
        "a      b  c",
        "x      1",
        "long  10  " + "y" * 90,
    ]


@pytest.mark.usefixtures("h100")
@pytest.mark.parametrize("width", [20, 40, 80, 200])
@pytest.mark.parametrize("words", ["show", "show 1", "top", "top --limit 3", "history"])
def test_no_line_is_wider_than_the_terminal_and_nothing_is_lost(
    words: str, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    whole = _autotune(*words.split()).stdout
    monkeypatch.setenv("COLUMNS", str(width))
    fitted = _autotune(*words.split()).stdout
    assert max(map(len, fitted.splitlines())) <= width
    blanks = str.maketrans("", "", " \n")
    cells = [cell for line in whole.splitlines() for cell in re.split(r" {2,}", line.strip())]
    squeezed = fitted.translate(blanks)
    assert [cell for cell in cells if cell.translate(blanks) not in squeezed] == []


@given(
    st.lists(st.lists(st.text("ab,; µ", max_size=30), min_size=3, max_size=3), max_size=4),
    st.integers(4, 60),
)
def test_a_table_of_any_cells_fits_any_width(rows: list[list[str]], width: int) -> None:
    columns = [Column("shape"), Column("µs", right=True), Column("config")]
    lines = text_table(columns, rows, width)
    assert all(len(line) <= width for line in lines)
    said = "".join("".join(lines).split())
    for row in rows:
        assert all("".join(cell.split()) in said for cell in row)
