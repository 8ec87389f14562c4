"""`autotune doctor` as a user runs it."""

import json
import subprocess
import sys
import time
from pathlib import Path

from tests.cli.helper import ROOT, autotune
from tests.doctor.machines import rocm_machine

HEAVY = ("torch", "triton", "aiter", "flydsl", "sglang", "vllm", "optuna", "sqlalchemy", "numpy")


def test_here_it_answers_for_people_and_for_machines() -> None:
    plain = autotune("doctor")
    assert plain.returncode == 0, plain.stderr
    assert "backend triton" in plain.stdout
    told = json.loads(autotune("doctor", "--json").stdout)
    assert set(told) == {"findings", "backends"}
    assert set(told["backends"]) == {
        "triton",
        "sglang",
        "vllm",
        "flydsl",
        "aiter",
        "aiter_main",
        "aiter_main_w4a16",
        "humming_w4a16",
    }


def test_another_machines_files_can_be_examined(tmp_path: Path) -> None:
    rocm_machine(tmp_path)
    told = json.loads(autotune("doctor", "--root", tmp_path, "--json").stdout)
    assert "mi325x" in told["findings"][0]["detail"]
    assert told["backends"]["triton"]["can"] == "measure"


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys; from autotune.doctor.examine import examine; from autotune.protocol.host import Host;"
        f"examine(Host()); print([m for m in {HEAVY} if m in sys.modules])"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"
    assert time.monotonic() - started < 10
