"""The first day's command, rehearsed with stand-ins, and the warm-up that comes before the first timing."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from autotune.backends.aiter.runtime import AiterRuntime
from autotune.backends.aiter.warm_up import warm_up
from tests.backends.aiter import on_cpu
from tests.backends.aiter.conftest import Launches
from tests.cli.helper import ROOT
from tests.standins import PUBLISHED_TREE, python_with_wheel


def rehearse(tmp_path: Path, *options: str) -> tuple[subprocess.CompletedProcess[str], dict[str, str]]:
    out = tmp_path / "first_day"
    command = [sys.executable, ROOT / "scripts/first_day.py", "--rehearse", "--out", out, *options]
    environment = {**os.environ, "SECRET_TOKEN": "hunter2", "AITER_LOG_LEVEL": "ERROR"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    with tarfile.open(out.with_suffix(".tar.gz")) as archive:
        members = {m.name.removeprefix("first_day/"): archive.extractfile(m) for m in archive if m.isfile()}
        return done, {name: file.read().decode(errors="replace") for name, file in members.items() if file}


@pytest.mark.slow
def test_the_report_holds_what_every_step_printed_and_no_secret(tmp_path: Path) -> None:
    python = python_with_wheel(tmp_path)
    done, report = rehearse(tmp_path, "--flydsl-root", str(PUBLISHED_TREE), "--flydsl-python", str(python))
    assert done.returncode == 0, (done.stdout, report.get("run.json.err"))
    assert json.loads(report["doctor.json"])["backends"]["aiter"]["can"] == "compile"
    result = json.loads(report["run.json"])
    assert [winner["tokens"] for winner in result["winners"]] == [4, 160]
    assert result["trials"] == {"ok": 12}
    summary = json.loads(report["summary.json"])
    assert [step["exit"] for step in summary["steps"]] == [0, 0, 0]
    assert summary["environment"]["AITER_LOG_LEVEL"] == "ERROR"
    assert "hunter2" not in "".join(report.values())
    assert "first_day.db" in report


@pytest.mark.slow
def test_a_step_that_fails_is_packed_as_well(tmp_path: Path) -> None:
    done, report = rehearse(tmp_path, "--flydsl-root", "/nowhere")
    assert done.returncode == 2
    assert "FAILED (2)" in done.stdout
    assert "give a FlyDSL source tree" in report["run.json.err"]


def test_warming_up_launches_the_default_of_each_problem(
    launches: Launches, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = dict(os.environ)
    runtime: AiterRuntime = on_cpu.make()
    warm_up(runtime, [on_cpu.PROBLEM])
    os.environ.clear()
    os.environ.update(before)
    assert [launch["stage"] for launch in launches()] == [1, 2, 1, 2]
    assert capsys.readouterr().out.startswith("m4: ")
