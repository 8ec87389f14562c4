"""What a shell completes, and what a log keeps."""

import re
from pathlib import Path

import pytest

from autotune.problem.models import PRESETS
from autotune.protocol.registry import backend_names
from tests.cli.helper import autotune

BASH = {"_AUTOTUNE_COMPLETE": "complete_bash", "COMP_CWORD": "3"}


def _completed(words: str) -> list[str]:
    return autotune(**BASH, COMP_WORDS=f"autotune {words}").stdout.split()


@pytest.mark.parametrize(
    ("words", "values"),
    [
        ("run --shape m", [f"m{n}" for n in range(1, 9)]),
        ("run --shape m1,m", [f"m1,m{n}" for n in range(2, 9)]),
        ("spaces --backend v", [name for name in backend_names() if name.startswith("v")]),
        ("compare --model d", [name for name in PRESETS if name.startswith("d")]),
        ("run --routing c", ["correlated:"]),
        ("check --target l", ["live"]),
    ],
)
def test_values_are_completed(words: str, values: list[str]) -> None:
    assert _completed(words) == values


def test_a_log_keeps_what_was_said_and_each_trial_with_its_time(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "run.log"
    words = "--backend tests.live_stand_in:StandIn --target offline:mi325x --shape m2 --trials 2 --db"
    done = autotune("run", *words.split(), tmp_path / "a.db", "--log-file", log)
    assert done.returncode == 0, done.stderr
    lines = log.read_text(encoding="utf-8").splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ ", line) for line in lines)
    said = [line.partition(" ")[2] for line in lines]
    assert said[0].startswith("$ autotune run --backend")
    assert sum(line.startswith("trial m2 stage1 ok: ") for line in said) == 2
    assert [line for line in done.stdout.splitlines() if line.strip() and line.rstrip() not in said] == []
    assert said[-1] == "exit code 0"


def test_a_log_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    done = autotune("measure", "--log-file", tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "name another --log-file" in done.stderr
