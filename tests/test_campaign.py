"""A short form of `scripts/campaign.py`: no input ends in a traceback, no fault loses what was stored."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

SCRIPTS = Path(__file__).parents[1] / "scripts"


def test_no_generated_input_ends_in_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import campaign_inputs

    assert list(campaign_inputs.failures(340, start=0)) == []


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.fault
@pytest.mark.parametrize("part", ["replayed", "workers", "two", "copied", "export"])
def test_faults_cost_nothing(part: str) -> None:
    command = [sys.executable, str(SCRIPTS / "campaign.py"), "--parts", part, "--moments", "2", "--seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
