"""A Ray cluster on this machine's CPUs with stand-ins for GPUs: a whole run, and an actor killed in it."""

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from autotune.errors import UserError
from autotune.measure.settings import MeasureSettings
from autotune.results import Status
from autotune.space.config import Config
from autotune.store.store import Store
from autotune.tuning.cluster import nodes_of, shown_by_ray
from autotune.tuning.run import RunRequest, run
from tests.live_stand_in import TARGET, OfFleet
from tests.tuning.test_fleet import PROBLEMS, Heard


def _node(*, alive: bool = True, **resources: float) -> dict[str, Any]:
    named = {name.replace("__", ":"): value for name, value in resources.items()}
    return {"Alive": alive, "NodeID": f"node of {len(resources)}", "Resources": named}


def test_the_most_frequent_gpu_of_the_cluster_is_used_and_every_cpu() -> None:
    nodes = nodes_of(
        [
            _node(CPU=8.0),
            _node(GPU=2.0, CPU=16.0, accelerator_type__H100=1.0),
            _node(GPU=1.0, CPU=4.0, memory=1.0, accelerator_type__A100=1.0),
            _node(GPU=8.0, CPU=4.0, memory=1.0, accelerator_type__A100=1.0, x=1.0, alive=False),
        ]
    )
    assert (nodes.gpus, nodes.accelerator) == (2, "H100")
    assert sorted(nodes.cpus.values()) == [4, 8, 16]
    with pytest.raises(UserError, match="no node of this Ray cluster has a GPU"):
        nodes_of([_node(CPU=8.0)])


def test_rocms_variables_agree_on_the_gpu_that_ray_gave() -> None:
    assert shown_by_ray({"CUDA_VISIBLE_DEVICES": "3"}) == {}
    both = {"HIP_VISIBLE_DEVICES": "3", "CUDA_VISIBLE_DEVICES": "0,1,2,3"}
    assert shown_by_ray(both) == {"HIP_VISIBLE_DEVICES": "3", "CUDA_VISIBLE_DEVICES": "3"}
    with pytest.raises(UserError, match="start Ray there with HIP_VISIBLE_DEVICES"):
        shown_by_ray({"HIP_VISIBLE_DEVICES": "0", "ROCR_VISIBLE_DEVICES": "2"})


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A cluster with two GPUs that are none, and four CPUs."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 4, "num_gpus": 2})
    yield cluster.address
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture
def store(own_database: Path) -> Iterator[Store]:
    with Store.open(own_database) as opened:
        yield opened


def _request(address: str) -> RunRequest:
    return RunRequest(
        backend=OfFleet.name,
        problems=PROBLEMS,
        target=TARGET,
        trials=20,
        seed=0,
        sampler="tpe",
        workers=3,
        measuring=MeasureSettings(steps=4, timeout_s=10.0, select_rounds=2, judge_rounds=8),
        ray=address,
    )


@pytest.mark.slow
def test_a_run_on_a_cluster_is_the_run_on_a_machine(address: str, store: Store) -> None:
    heard = Heard()
    result = run(_request(address), store, heard)
    assert result.complete
    assert "2 GPUs agree within" in heard.said[0]
    right = Config({"us": 8000, "fault": "none"})
    assert [winner.config.stage1 for winner in result.best] == [right] * 3
    gpus = Counter(trial.gpu.uuid for trial in store.trials_of(result.run) if trial.gpu)
    assert set(gpus) == {"GPU-fake-0", "GPU-fake-1"}


@pytest.mark.slow
@pytest.mark.fault
def test_an_actor_that_is_killed_costs_what_it_had_in_flight(address: str, store: Store) -> None:
    def kill() -> None:
        """One of the two actors, once there are results."""
        while not store.runs() or len(store.trials_of(store.runs()[-1].id)) < 3:
            time.sleep(0.05)
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if b"ray::GpuHost" in (process / "cmdline").read_bytes():
                    os.kill(int(process.name), signal.SIGKILL)
                    return
            except OSError:
                continue

    killer = threading.Thread(target=kill)
    killer.start()
    result = run(_request(address), store, Heard())
    killer.join()
    assert result.complete
    assert len(result.best) == 3
    trials = store.trials_of(result.run)
    assert {trial.status for trial in trials} == {Status.OK}
    tried = Counter((t.problem, t.stage, t.config) for t in trials if t.origin != "race")
    assert len(tried) == 3 * 2 * 3
    assert max(tried.values()) == 1
