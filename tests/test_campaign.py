"""A short form of `scripts/campaign.py`: no input ends in a traceback, no fault loses what was stored."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from autotune.errors import UserError

pytest.importorskip("torch")

SCRIPTS = Path(__file__).parents[1] / "scripts"


def test_no_generated_input_ends_in_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import campaign_inputs

    assert list(campaign_inputs.failures(400, start=0)) == []


def refusal(parse: Callable[[bytes], None], content: bytes) -> str:
    try:
        parse(content)
    except UserError as error:
        return str(error)
    return ""


def test_a_file_that_is_nothing_of_its_kind_is_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import campaign_documents
    import campaign_inputs

    for name, (_, parse) in campaign_inputs.parsers().items():
        for content in campaign_documents.NO_TEXT:
            assert "\n" not in refusal(parse, content), (name, content[:20])


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.fault
@pytest.mark.parametrize("part", ["replayed", "workers", "two", "copied", "export"])
def test_faults_cost_nothing(part: str) -> None:
    command = [sys.executable, str(SCRIPTS / "campaign.py"), "--parts", part, "--moments", "2", "--seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
