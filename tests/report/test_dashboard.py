"""`autotune dashboard`: a copy of the studies, served on this machine only."""

import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from typer.testing import CliRunner

from autotune.cli import app
from autotune.errors import UserError
from autotune.problem.layer import Stage
from autotune.report.content import Scope, gather
from autotune.report.dashboard import HOST, check_port, copy_studies
from autotune.report.effects import effects
from autotune.store.store import Store
from tests.cli.helper import command, env
from tests.report.conftest import RECORDED, h100
from tests.report.synthetic import fill

__all__ = ["h100"]  # a fixture


def _studies(file: Path) -> dict[str, optuna.Study]:
    storage = JournalStorage(JournalFileBackend(str(file)))
    names = optuna.get_all_study_names(storage)
    return {name: optuna.load_study(study_name=name, storage=storage) for name in names}


def test_each_stage_is_a_study_with_every_trial_and_its_kind(h100: Store, tmp_path: Path) -> None:
    copied = copy_studies(gather(h100, Scope()), tmp_path / "studies.log")
    device = "measured, triton on NVIDIA H100 80GB HBM3"
    assert copied.studies == {f"m4 stage1, {device}": 150, f"m4 stage2, {device}": 150}
    study = _studies(tmp_path / "studies.log")[f"m4 stage2, {device}"]
    assert study.best_value == pytest.approx(14.34, abs=0.01)
    assert study.best_params["split_blocks"] == 2
    assert study.best_params["pdl"] == "unset"
    assert study.user_attrs["stack"]["driver"] == "580.159.04"
    assert study.trials[0].user_attrs["lds_bytes"] == 12868


def test_the_axis_has_a_name_and_a_unit_and_other_importances_are_explained(
    h100: Store, tmp_path: Path
) -> None:
    pytest.importorskip("optuna_dashboard", reason="optuna-dashboard is not installed")
    from optuna_dashboard._note import get_note_from_system_attrs

    report = gather(h100, Scope())
    copy_studies(report, tmp_path / "studies.log")
    for study in _studies(tmp_path / "studies.log").values():
        assert study.metric_names == ["measured time per launch in µs"]
        trials = report.problems[0].trials[Stage(study.user_attrs["stage"])]
        first = effects(trials)[0]
        attributes = study._storage.get_study_system_attrs(study._study_id)
        note = get_note_from_system_attrs(attributes, None)["body"]
        assert "other numbers than the report's" in note
        assert f"| {first.knob} | {first.share:.0%} |" in note


def test_failed_trials_keep_status_and_reason(own_database: Path, tmp_path: Path) -> None:
    with Store.open() as store:
        fill(store, trials=200, shapes=1)
        copy_studies(gather(store, Scope()), tmp_path / "studies.log")
    failed = [
        trial
        for study in _studies(tmp_path / "studies.log").values()
        for trial in study.get_trials(states=[TrialState.FAIL])
    ]
    assert failed
    assert all(trial.user_attrs["status"] != "ok" and trial.user_attrs["reason"] for trial in failed)


def test_the_copy_can_be_kept_without_serving_it(h100: Store, tmp_path: Path) -> None:
    kept = tmp_path / "studies.log"
    before = RECORDED.read_bytes()
    said = CliRunner().invoke(
        app, ["dashboard", "--storage", str(kept), "--no-serve"], catch_exceptions=False
    )
    assert "m4 stage1, measured" in said.stdout
    assert len(_studies(kept)) == 2
    assert RECORDED.read_bytes() == before
    with pytest.raises(UserError, match="exists"):
        CliRunner().invoke(app, ["dashboard", "--storage", str(kept), "--no-serve"], catch_exceptions=False)


def test_it_serves_on_this_machine_only(h100: Store, tmp_path: Path) -> None:
    pytest.importorskip("optuna_dashboard", reason="optuna-dashboard is not installed")
    with socket.socket() as free:
        free.bind((HOST, 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        command("dashboard", "--port", str(port), "--no-browser"),
        env=env(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        answer = _wait_for(f"http://{HOST}:{port}/api/studies", server)
    finally:
        server.kill()
        server.wait()
    assert "m4 stage1" in answer


def _wait_for(url: str, server: "subprocess.Popen[bytes]") -> str:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5) as response:
                return str(response.read().decode())
        except OSError:
            time.sleep(0.2)
    raise AssertionError("the dashboard does not answer")


def test_without_the_package_the_command_to_install_it_is_told(
    h100: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'moe-autotune\[dashboard\]'"):
        CliRunner().invoke(app, ["dashboard"], catch_exceptions=False)


def test_a_taken_port_is_told() -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        with pytest.raises(UserError, match="--port"):
            check_port(taken.getsockname()[1])


def test_nothing_of_it_is_imported_before_it_is_needed() -> None:
    loaded = "{'optuna_dashboard', 'optuna'} & set(sys.modules)"
    code = f"import sys, autotune.report.dashboard; sys.exit(bool({loaded}))"
    assert subprocess.run([sys.executable, "-c", code], env=env(), check=False).returncode == 0
