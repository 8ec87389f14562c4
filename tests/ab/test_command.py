"""The command: what it prints, and its exit codes."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from autotune.cli.ab import ab
from autotune.errors import UserError
from tests.ab.made_up import BASE, TUNED, evals, folder, lines, sglang, vllm

app = typer.Typer()
app.command()(ab)


def run(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=True)
    if isinstance(done.exception, UserError):
        raise done.exception
    assert done.exception is None or isinstance(done.exception, SystemExit)
    return done.exit_code, done.stdout


@pytest.fixture
def arms(tmp_path: Path) -> tuple[Path, Path]:
    return (
        lines(tmp_path / "base.jsonl", [sglang(s) for s in BASE]),
        lines(tmp_path / "tuned.jsonl", [sglang(s) for s in TUNED]),
    )


def gsm8k(path: Path, score: float, metric: str = "acc") -> Path:
    return folder(path, {"results_1.json": evals({"gsm8k": {f"{metric},none": (score, 0.007)}})})


def test_exit_code_0_nothing_is_worse(arms: tuple[Path, Path]) -> None:
    code, text = run(*arms)
    assert code == 0
    assert "repeats: 5 of the baseline, 5 of the tuned arm" in text
    assert "TPOT median, ms" in text
    assert "ms/accepted token = mean ITL / accepted tokens per step" in text
    assert text.splitlines()[-1] == "better in 9 of 10, and nothing is worse"


def test_exit_code_1_the_tuned_arm_is_worse(arms: tuple[Path, Path], tmp_path: Path) -> None:
    assert run(*reversed(arms))[0] == 1
    scores = gsm8k(tmp_path / "a", 0.9), gsm8k(tmp_path / "b", 0.5)
    code, text = run(*arms, "--eval-base", scores[0], "--eval-tuned", scores[1])
    assert code == 1
    assert "gsm8k acc,none: 0.9000 -> 0.5000 (-0.4000, 95% CI ±0.0194, p <0.001): WORSE" in text
    assert run("--eval-base", scores[0], "--eval-tuned", scores[1])[0] == 1


def test_an_arm_that_accepts_fewer_drafts_is_worse(arms: tuple[Path, Path], tmp_path: Path) -> None:
    fewer = lines(tmp_path / "fewer.jsonl", [sglang(s, accept_length=1.1) for s in TUNED])
    code, text = run(arms[0], fewer)
    assert code == 1
    assert "note: the tuned arm accepts fewer drafts, so nothing of it counts as faster" in text


@pytest.mark.parametrize("bad", [float("nan"), "3.9", 0.4])
def test_drafts_whose_number_cannot_be_read_make_nothing_faster(bad: Any, tmp_path: Path) -> None:
    code, text = run(
        lines(tmp_path / "a", [sglang(s) for s in BASE]),
        lines(tmp_path / "b", [sglang(s, accept_length=bad) for s in TUNED]),
    )
    assert code == 2
    assert "faster  " not in text
    assert "note: how many drafts are accepted cannot be read, so nothing counts as faster" in text


def test_a_speculating_server_that_tells_no_accepted_drafts_is_said(tmp_path: Path) -> None:
    _, text = run(*(lines(tmp_path / n, [sglang(s, accept_length=None) for s in BASE]) for n in "ab"))
    assert "note: the server speculates, and " in text


def test_an_arm_against_itself_is_refused(arms: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(arms[0])
    scores = gsm8k(tmp_path / "s", 0.9)
    with pytest.raises(UserError, match="both arms are"):
        run(arms[0], tmp_path / "link")
    with pytest.raises(UserError, match="both arms are"):
        run("--eval-base", scores, "--eval-tuned", scores)


@pytest.mark.parametrize("repeats", [1, 2, 3])
def test_exit_code_2_too_few_repeats(repeats: int, arms: tuple[Path, Path], tmp_path: Path) -> None:
    few = lines(tmp_path / "few.jsonl", [sglang(s) for s in TUNED[:repeats]])
    code, text = run(arms[0], few)
    assert code == 2
    assert text.splitlines()[-1] == "too few repeats: a verdict needs 4 per arm, taken in turns"
    speed = json.loads(run(arms[0], few, "--json")[1])["speed"]
    assert {(one["p"], one["ratio"]["low"], one["ratio"]["high"]) for one in speed} == {(None, None, None)}


def test_exit_code_2_it_cannot_be_said(tmp_path: Path) -> None:
    noisy = [lines(tmp_path / f"{i}", [sglang(s) for s in (1.0, 2.0, 1.5, 0.7)]) for i in range(2)]
    code, text = run(*noisy)
    assert code == 2  # as many drafts are accepted, which says nothing of the speed
    assert text.splitlines()[-1] == "no verdict"
    code, text = run(
        "--eval-base", gsm8k(tmp_path / "a", 0.9, "odd"), "--eval-tuned", gsm8k(tmp_path / "b", 0.5, "odd")
    )
    assert code == 2
    assert "neither the file nor lm-evaluation-harness says which direction is better" in text


@pytest.mark.parametrize("arguments", [("a",), ("--eval-base", "a"), ()])
def test_one_arm_says_nothing(arguments: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match="both"):
        run(*arguments)


def test_a_least_effect_that_is_no_number_is_refused(arms: tuple[Path, Path]) -> None:
    try:
        code, _ = run(*arms, "--min-effect", "nan")
    except UserError:
        code = 2
    assert code == 2


def test_json_is_json_whatever_the_files_have(tmp_path: Path) -> None:
    base, tuned = (
        lines(tmp_path / name, [vllm(s, median_itl_ms=float("nan"), p99_ttft_ms=0) for s in scales])
        for name, scales in (("a", BASE), ("b", TUNED))
    )
    code, text = run(base, tuned, "--json")

    def refuse(constant: str) -> Any:
        raise AssertionError(constant)

    content = json.loads(text, parse_constant=refuse)
    assert code == content["exit_code"] == 0
    assert content["repeats"] == {"base": 5, "tuned": 5}
    assert {one["metric"]["field"] for one in content["speed"]}.isdisjoint({"median_itl_ms", "p99_ttft_ms"})
    assert any("median_itl_ms is NaN in" in note for note in content["notes"])
