"""Where humming keeps the kernels of a run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from autotune.backends.humming import library

_OWNER = """
import os, subprocess, sys
from autotune.protocol.registry import load_backend
load_backend("humming_w4a8")
folder = os.environ["HUMMING_CACHE_DIR"]
os.makedirs(folder)
worker = "from autotune.protocol.registry import load_backend as b; import os; b('humming_w4a8'); "
worker += "print(os.environ['HUMMING_CACHE_DIR'])"
told = subprocess.check_output([sys.executable, "-c", worker], text=True)
print(folder, told.strip(), os.path.isdir(folder))
"""


def test_kernels_of_a_run_are_in_a_folder_of_its_own_that_its_workers_share_and_that_goes_with_it(
    tmp_path: Path,
) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "HUMMING_CACHE_DIR"}
    environment |= {"XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    owner, worker, stayed = subprocess.check_output(
        [sys.executable, "-c", _OWNER], env=environment, text=True
    ).split()
    assert Path(owner).is_relative_to(tmp_path)
    assert worker == owner
    assert stayed == "True"  # a worker's end is not the run's
    assert not Path(owner).exists()


def test_a_folder_that_the_user_names_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUMMING_CACHE_DIR", str(tmp_path))
    (tmp_path / "kernel").touch()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    owner = subprocess.check_output(
        [sys.executable, "-c", _OWNER.replace("os.makedirs(folder)", "")], env=environment, text=True
    ).split()[0]
    assert Path(owner) == tmp_path
    assert (tmp_path / "kernel").exists()


@pytest.mark.slow
def test_humming_may_compile_the_variants_of_a_kernel_side_by_side() -> None:
    """Its import starts no build of its own, but the variable that keeps it from that is gone afterwards."""
    read = (
        "from autotune.backends.humming import library; library.load('humming.ops');"
        "print(library.load('humming.utils.cpu').get_parallel_build_workers())"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("HUMMING_DISABLE_PARALLEL_BUILD", None)

    def workers(**more: str) -> int:
        return int(subprocess.check_output([sys.executable, "-c", read], env={**environment, **more}))

    assert workers() == len(os.sched_getaffinity(0))
    assert workers(HUMMING_DISABLE_PARALLEL_BUILD="1") == 1  # the user's word stands
    started_meanwhile = {"HUMMING_DISABLE_PARALLEL_BUILD": "1", library._OURS: "1"}
    assert workers(**started_meanwhile) == len(os.sched_getaffinity(0))
