"""Refusals, without a process for each."""

import sys

import pytest

from autotune.__main__ import main
from autotune.processes import interrupt
from tests.cli.helper import Refused


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refused:
    """What a command that cannot be carried out says: one sentence, with exit code 2."""
    for variable in ("DSL2_ROOT", "AUTOTUNE_FLYDSL_PYTHON"):  # which the command line sets
        monkeypatch.setenv(variable, "")
        monkeypatch.delenv(variable)

    monkeypatch.setattr(interrupt, "install", lambda: None)

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["autotune", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr().err
        assert ended.value.code == 2, said
        assert len(said.strip().splitlines()) == 1, said
        return said

    return run
