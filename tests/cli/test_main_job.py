"""`autotune run` and `autotune export` on a machine without a GPU, as a user runs them."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from autotune.results import Status
from autotune.store.records import RunState, StoredTrial
from autotune.store.store import Store
from tests.cli.helper import autotune, command, env, heed_signals
from tests.compile.fakes import NAME, SPACE

OFFLINE = ("--target", "offline:mi325x")


@pytest.fixture
def faulty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Options of a run whose compiles take no time and go wrong in every way."""
    monkeypatch.setenv("FAULTY_SPACES", str(tmp_path))
    return ("--backend", NAME, "--workers", "2", "--compile-timeout", "2", *OFFLINE)


def test_the_main_job_from_search_to_bundle(tmp_path: Path) -> None:
    """Our Triton kernels are cross-compiled for gfx942, ranked and written out, labelled as estimates."""
    # Deep pipelines of great tiles are what takes a minute to compile.
    quick = ("--knob", "num_stages=2,3", "--knob", "tile_k=128,256")
    ran = autotune("run", "--shape", "m4", "--trials", "2", *quick, *OFFLINE, "--json")
    assert ran.returncode == 0, ran.stderr
    result = json.loads(ran.stdout)
    assert result["complete"]
    assert sum(result["trials"].values()) == 4
    (winner,) = result["winners"]
    assert (winner["kind"], winner["device"]) == ("estimate", "offline:mi325x")
    assert winner["default_us"].keys() == {"stage1", "stage2"}

    refused = autotune("export", "--out", tmp_path / "deploy")
    assert refused.returncode == 2
    assert "--allow-estimates" in refused.stderr
    assert not (tmp_path / "deploy").exists()

    first, second = (
        _export(tmp_path / "deploy", "--allow-estimates", "--bundle-path", "/opt/bundle") for _ in range(2)
    )
    assert first == second
    assert first["autotune.env"].endswith("AUTOTUNE_MOE_CONFIG=/opt/bundle/moe_w4a8.json\n")
    manifest = json.loads(first["manifest.json"])
    assert manifest["measured"] is False
    assert [entry["kind"] for entry in manifest["winners"]] == ["estimate"]
    (entry,) = json.loads(first["moe_w4a8.json"])["entries"]
    assert (entry["tokens"], entry["stage1"]) == (4, winner["config"]["stage1"])


def _export(folder: Path, *options: str) -> dict[str, str]:
    done = autotune("export", "--out", folder, *options)
    assert done.returncode == 0, done.stderr
    assert "not measured" in done.stdout
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.fault
def test_a_mistake_of_ours_is_not_hidden(faulty: tuple[str, ...], tmp_path: Path) -> None:
    for stage in ("stage1", "stage2"):
        text = SPACE.replace("STAGE", stage).replace('"refuse"', '"bug"')
        (tmp_path / f"{stage}.toml").write_text(text)
    done = autotune("run", *faulty, "--trials", "160", "--json")
    assert done.returncode == 1
    assert "a mistake of ours" in done.stderr


@pytest.mark.fault
def test_a_default_that_is_refused_is_exit_code_1_with_the_reason(
    faulty: tuple[str, ...], tmp_path: Path
) -> None:
    for stage in ("stage1", "stage2"):
        text = SPACE.replace("STAGE", stage).replace('default = "none"', 'default = "spill"')
        (tmp_path / f"{stage}.toml").write_text(text)
    done = autotune("run", *faulty, "--trials", "2", "--json")
    assert done.returncode == 1
    (reason,) = json.loads(done.stdout)["default_failed"].values()
    assert reason.startswith("the default of stage1 has no estimate: constraint: ")
    assert done.stderr == (
        f"error: the default itself failed, so there is nothing to compare with (m4, {reason}): `autotune isa"
        " --config default` with this run's options compiles it alone\n"
    )


@pytest.mark.fault
@pytest.mark.slow
def test_planted_faults_end_with_the_other_trials_intact(faulty: tuple[str, ...]) -> None:
    done = autotune("run", *faulty, "--trials", "160", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    # Two stages, two tile_m, eight widths: 32 configs meet each fault.
    assert result["trials"] == {
        "ok": 64,
        "constraint": 64,
        "compile_error": 128,
        "compile_timeout": 32,
    }
    assert result["merged"] == 30
    assert result["winners"][0]["config"]["stage1"]["fault"] in ("none", "twin")


def _without_hangs(folder: Path, instead: str = "") -> None:
    """Leaves out what another day may bring about: a timeout is tried again by the next run."""
    for stage in ("stage1", "stage2"):
        text = SPACE.replace("STAGE", stage).replace('"hang", ', instead)
        (folder / f"{stage}.toml").write_text(text)


def _result(*options: str) -> dict[str, Any]:
    done = autotune(*options)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_the_same_command_does_not_repeat_what_is_stored(faulty: tuple[str, ...], tmp_path: Path) -> None:
    _without_hangs(tmp_path)
    # On a busy machine two seconds are over before a worker has started, and a timeout is tried again.
    patient = ("--compile-timeout", "60")
    options = ("run", *faulty, *patient, "--trials", "4", "--sampler", "random", "--json")
    first, again = (_result(*options) for _ in range(2))
    assert (sum(first["trials"].values()), first["resumed"]) == (8, 0)
    assert (sum(again["trials"].values()), again["resumed"]) == (0, 8)
    assert again["winners"] == first["winners"]


@pytest.mark.parametrize(
    ("signum", "code"),
    [
        (signal.SIGTERM, 143),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [(signal.SIGINT, 130), (signal.SIGHUP, 129)]
        ),
    ],
)
def test_what_ends_a_run_stops_it_cleanly_and_the_same_command_resumes(
    signum: int, code: int, faulty: tuple[str, ...], own_database: Path, tmp_path: Path
) -> None:
    """Sent to every process at once, as a terminal, docker stop and Slurm do: no candidate is to blame."""
    _without_hangs(tmp_path, instead='"slow", ')  # 16 seconds at least: it is not over before it is stopped
    options = ("run", *faulty, "--trials", "100")
    running = subprocess.Popen(
        command(*options),
        env=env(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=heed_signals,
    )
    _wait_for_a_trial(own_database)
    os.killpg(running.pid, signum)
    _, err = running.communicate(timeout=60)
    assert running.returncode == code
    first, _, rest = err.strip().partition("\n\n")
    assert first == "stopping…"
    assert rest.startswith("Stopped. Every finished trial is stored; the same command resumes:")
    assert len(rest.splitlines()) == 2  # no traceback of a worker, no leaked semaphore
    with Store.open(own_database) as store:
        (run,) = store.runs()
        counts = store.trial_counts(run.id)
    assert run.state is RunState.INTERRUPTED
    assert not any("SIG" in (trial.reason or "") for trial in _trials(own_database))
    # On a busy machine a compile may outlast its limit; that is tried again.
    finished = sum(number for status, number in counts.items() if status != Status.COMPILE_TIMEOUT)
    resumed = _result("run", *faulty, "--trials", "5", "--json")
    assert resumed["resumed"] == finished


def _trials(database: Path) -> list[StoredTrial]:
    with Store.open(database) as store:
        return [trial for run in store.runs() for trial in store.trials_of(run.id)]


def _wait_for_a_trial(database: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if database.exists():
            with Store.open(database) as store:
                if any(store.trial_counts(run.id) for run in store.runs()):
                    return
        time.sleep(0.1)
    pytest.fail("no trial was stored within a minute")


def test_time_that_is_up_is_said(faulty: tuple[str, ...]) -> None:
    done = autotune("run", *faulty, "--trials", "100", "--timeout", "0.1")
    assert done.returncode == 0, done.stderr
    assert "The time limit was reached" in done.stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--tp", "3"), "use one of 1, 2, 4, 8"),
        (("--shape", "m0"), "use m1 to m8"),
        (("--concurrency", "0"), "use 1 to 16384"),
        (("--model", "kimi"), "use one of kimi-k2.5-w4a8"),
        (("--model-config", "/nowhere.json"), "give the model's config.json"),
        (
            ("--backend", "triton", "--requantised", "--model", "gpt-oss-120b", "--fused-shared-experts"),
            "leave out --fused-shared-experts",
        ),
        (("--routing", "zipf"), "use uniform, zipf:S"),
        (("--backend", "cutlass"), "use one of aiter, "),
        (("--target", "offline:mi999"), "offline:mi325x"),
        (("--sampler", "oracle"), "use one of joint, tpe"),
        (("--db", "/proc/nowhere/x.db"), "/proc/nowhere"),
        (("--db", ""), "--db is empty"),
        (("--concurrency", "99999999999"), "use 1 to 16384"),
        (("--concurrency", "9" * 5000), "use 1 to 16384"),
        (("--seed", "4294967296"), "use 0 to 4294967295"),
        (("--timeout", "nan"), "nan is outside its range: use 0"),
        (("--timeout", "1e12"), "use 0.1 to 31622400"),
        (("--compile-timeout", "inf"), "inf is outside"),
        (("--min-gain", "nan"), "nan is outside its range: use 0"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(options: tuple[str, ...], words: str) -> None:
    done = autotune("run", *OFFLINE, *options)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_no_more_processes_than_cores_are_started_and_that_is_said(faulty: tuple[str, ...]) -> None:
    options = ("--workers", "100000", "--trials", "1", "--compile-timeout", "60", "--json")
    done = autotune("run", *faulty, *options)
    assert done.returncode == 0, done.stderr
    cores = len(os.sched_getaffinity(0))
    assert done.stderr == (f"--workers 100000: this process may use {cores} cores, so {cores} are started.\n")


def test_nothing_to_export_is_one_sentence() -> None:
    done = autotune("export")
    assert done.returncode == 2
    assert "autotune run" in done.stderr


def test_spaces_are_shown_with_their_sizes() -> None:
    shown = json.loads(autotune("spaces", *OFFLINE, "--shape", "m1,m4", "--json").stdout)
    assert [space["stage"] for space in shown] == ["stage1", "stage2"]
    for space in shown:
        assert all(0 < shape["legal"] < shape["raw"] for shape in space["shapes"])
    plain = autotune("spaces", *OFFLINE).stdout
    assert "tile_k" in plain
    assert "because" in plain
