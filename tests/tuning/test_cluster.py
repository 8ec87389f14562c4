"""A Ray cluster on this machine's CPUs with stand-ins for GPUs: a whole run; an actor and a node killed."""

import os
import signal
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from autotune.errors import UserError
from autotune.measure import lock
from autotune.measure.settings import MeasureSettings
from autotune.results import Status
from autotune.space.config import Config
from autotune.store.store import Store
from autotune.tuning import actors
from autotune.tuning.cluster import nodes_of, shown_by_ray
from autotune.tuning.run import RunRequest, run
from tests.live_stand_in import TARGET, OfFleet, WideFleet
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


@dataclass
class TwoNodes:
    """A cluster of two nodes on this machine, each with a CPU and a GPU that is none.

    Attributes:
        mark: stands in the environment of its processes.
    """

    cluster: Any
    second: Any
    mark: str

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def kill_an_actor(self) -> None:
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                named = b"ray::GpuHost" in (process / "cmdline").read_bytes()
                if named and self.mark.encode() in (process / "environ").read_bytes():
                    os.kill(int(process.name), signal.SIGKILL)
                    return
        raise AssertionError("there is no actor to be killed")

    def kill_a_node(self) -> None:
        self.cluster.remove_node(self.second, allow_graceful=False)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoNodes]:
    """Started once: that takes longer than a run."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    mark, each = uuid.uuid4().hex, {"num_cpus": 1, "num_gpus": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
        patch.setenv("AUTOTUNE_TEST_CLUSTER", mark)
        patch.setenv(lock.FOLDER_VARIABLE, str(tmp_path_factory.mktemp("locks")))
        patch.setenv("CUDA_VISIBLE_DEVICES", "0")
        cluster = Cluster(initialize_head=True, head_node_args={**each, "include_dashboard": False})
        patch.setenv("CUDA_VISIBLE_DEVICES", "1")  # two GPUs, each with a lock of its own
        second = cluster.add_node(**each)
        patch.delenv("CUDA_VISIBLE_DEVICES")
        yield TwoNodes(cluster, second, mark)
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture
def store(own_database: Path) -> Iterator[Store]:
    with Store.open(own_database) as opened:
        yield opened


def _request(nodes: TwoNodes, backend: str = OfFleet.name) -> RunRequest:
    return RunRequest(
        backend=backend,
        problems=PROBLEMS,
        target=TARGET,
        trials=20,
        seed=0,
        sampler="tpe",
        workers=2,
        measuring=MeasureSettings(steps=4, select_rounds=2, judge_rounds=8),
        ray=nodes.address,
    )


@pytest.mark.slow
@pytest.mark.timeout(900)  # a dozen processes import for half a minute, with two cores to themselves
def test_a_run_on_a_cluster_is_the_run_on_a_machine(nodes: TwoNodes, store: Store) -> None:
    heard = Heard()
    result = run(_request(nodes), store, heard)
    assert result.complete
    assert "2 GPUs agree within" in heard.said[0]
    right = Config({"us": 8000, "fault": "none"})
    assert [winner.config.stage1 for winner in result.best] == [right] * 3
    gpus = Counter(trial.gpu.uuid for trial in store.trials_of(result.run) if trial.gpu)
    assert set(gpus) == {"GPU-fake-0", "GPU-fake-1"}


@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.timeout(900)
@pytest.mark.parametrize("what", ["an actor", "a node"])  # in this order: the node does not come back
def test_what_is_killed_costs_what_it_had_in_flight(
    nodes: TwoNodes, store: Store, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(actors, "REVIVED_S", 10.0 if what == "a node" else actors.REVIVED_S)
    there: list[int] = []
    heard, ended = Heard(), threading.Event()

    def kill() -> None:
        """Once there are results."""
        while not ended.wait(0.02):
            there[:] = [len(store.trials_of(each.id)) for each in store.runs()]
            if sum(there) >= 3:
                nodes.kill_an_actor() if what == "an actor" else nodes.kill_a_node()
                return

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        result = run(_request(nodes, WideFleet.name), store, heard)
    finally:
        ended.set()
        killer.join()
    assert result.complete
    assert len(result.best) == 3
    # Nothing is blamed for it, nothing is missing, and nothing was done twice.
    trials = store.trials_of(result.run)
    assert {trial.status for trial in trials} == {Status.OK}
    tried = Counter((t.problem, t.stage, t.config) for t in trials if t.origin != "race")
    assert 3 <= there[0] < len(tried) == 3 * 2 * 20
    assert max(tried.values()) == 1
    lost = [sentence for sentence in heard.said if "is lost" in sentence]
    if what == "an actor":  # another takes its place
        assert lost == []
    else:
        assert "1 go on without it: its actor was lost" in lost[0]
