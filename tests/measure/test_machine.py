"""A GPU through torch, against a stand-in of torch.cuda that writes down what is asked of it, in order."""

import contextlib
import pickle
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import autotune
from autotune.errors import UserError
from autotune.machine.fingerprint import Fingerprint
from autotune.measure import machine as machines
from autotune.measure.machine import CpuMachine, GpuMachine, amd_machine, this_stack
from autotune.measure.neighbours import Occupancy
from autotune.measure.sensors import Card
from autotune.protocol.runtime import ClockReading, Launch

UUID = "5b2c2f0e-0000-1111-2222-333344445555"


class Cuda:
    """torch.cuda with one GPU.

    Attributes:
        did: what happened, in order.
        now_us: the GPU's time; a launch that is recorded on it advances it.
        cannot_capture: a launch in a graph raises.
        faulted: synchronising raises.
    """

    def __init__(self) -> None:
        self.did: list[str] = []
        self.now_us = 0.0
        self.cannot_capture = self.faulted = False
        self.available = True
        self.properties = SimpleNamespace(
            uuid=UUID, major=9, minor=0, multi_processor_count=132, gcnArchName="gfx942:sramecc+:xnack-",
            pci_domain_id=0, pci_bus_id=0x1A, pci_device_id=0,
        )  # fmt: skip
        cuda = self

        class Graph:
            def capture_begin(self, capture_error_mode: str) -> None:
                cuda.did.append(f"capture begins, {capture_error_mode}")

            def capture_end(self) -> None:
                cuda.did.append("capture ends")

            def replay(self) -> None:
                cuda.did.append("replay")
                cuda.now_us += 50.0

            def reset(self) -> None:
                cuda.did.append("reset")

        class Stream:
            def __init__(self, name: str = "own") -> None:
                self._name = name

            def wait_stream(self, other: "Stream") -> None:
                cuda.did.append(f"{self._name} waits for {other._name}")

        class Event:
            def __init__(self, enable_timing: bool = False) -> None:
                assert enable_timing
                self._at: float | None = None

            def record(self) -> None:
                cuda.did.append("record")
                self._at = cuda.now_us

            def synchronize(self) -> None:
                cuda.did.append("wait for the last event" if self._at == cuda.now_us else "wait too early")

            def elapsed_time(self, later: "Event") -> float:
                assert self._at is not None
                assert later._at is not None
                return (later._at - self._at) / 1e3  # milliseconds

        self.CUDAGraph, self.Stream, self.Event = Graph, Stream, Event

    def is_available(self) -> bool:
        return self.available

    def get_device_properties(self, index: int) -> SimpleNamespace:
        assert index == 0
        return self.properties

    def synchronize(self) -> None:
        self.did.append("synchronise")
        if self.faulted:
            raise RuntimeError("an illegal memory access was encountered")

    def empty_cache(self) -> None:
        self.did.append("empty the cache")

    def mem_get_info(self) -> tuple[int, int]:
        self.did.append("ask for memory")
        return 70 << 30, 80 << 30

    def current_stream(self) -> Any:
        return self.Stream("current")

    @contextlib.contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        self.did.append(f"on {stream._name}")
        yield
        self.did.append(f"off {stream._name}")


class Sensors:
    def card(self) -> Card:
        return Card("570.86.15", 700, "SPX", "NPS1")

    def clock(self) -> ClockReading:
        return ClockReading(1980, throttled=True)

    def occupancy(self) -> Occupancy:
        return Occupancy(busy=0.1)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    cuda = Cuda()
    monkeypatch.setattr(torch, "cuda", cuda)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(machines, "open_sensors", lambda properties, hip: Sensors())
    device = SimpleNamespace(name="NVIDIA H100 80GB HBM3", last_level_cache_bytes=50 << 20)
    monkeypatch.setattr(machines, "live_device", lambda: device)
    monkeypatch.setattr(machines, "package_version", lambda *names: f"version of {', '.join(names)}")
    return cuda


def launch(cuda: Cuda, name: str, us: float = 10.0) -> Launch:
    capturing = [False]

    def run() -> None:
        capturing[0] = cuda.did.count("capture ends") < sum(did.startswith("capture b") for did in cuda.did)
        if cuda.cannot_capture and capturing[0]:
            raise RuntimeError("operation not permitted when stream is capturing")
        cuda.did.append(name)
        cuda.now_us += us

    return Launch(run, torch.zeros(1))


def test_without_torch_it_is_said_which_torch_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(
        UserError, match=r"^measuring needs torch: install the ROCm or CUDA build that your engine uses$"
    ):
        GpuMachine()


def test_without_a_gpu_the_way_to_prepare_offline_is_said(cuda: Cuda) -> None:
    cuda.available = False
    with pytest.raises(UserError) as told:
        GpuMachine()
    assert str(told.value) == (
        "torch sees no GPU: measure on a machine that has one, or prepare offline with"
        " `autotune run --target offline:mi325x`"
    )


def test_the_stack_of_an_nvidia_gpu(cuda: Cuda) -> None:
    assert GpuMachine().fingerprint("triton", "abc") == Fingerprint(
        device="NVIDIA H100 80GB HBM3",
        arch="sm_90",
        compute_units=132,
        compute_partition="SPX",
        memory_partition="NPS1",
        power_cap_w=700,
        driver="570.86.15",
        runtime="cuda 13.0",
        torch=torch.__version__,
        triton=f"version of {', '.join(machines.TRITON_DISTRIBUTIONS)}",
        backend="triton",
        kernel_source="abc",
        tool_version=autotune.__version__,
    )
    stack = this_stack()
    assert (stack.backend, stack.kernel_source, stack.driver) == ("", "", "570.86.15")


def test_who_is_sent_a_stack_need_not_import_torch(cuda: Cuda) -> None:
    stack = pickle.dumps(GpuMachine().fingerprint("triton", "abc"))
    asked = "import pickle, sys; pickle.load(sys.stdin.buffer); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", asked], input=stack, check=False).returncode == 0


def test_the_stack_of_an_amd_gpu_has_its_arch_without_features(
    cuda: Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "hip", "7.2.0")
    stack = GpuMachine().fingerprint("aiter", "abc")
    assert (stack.arch, stack.runtime) == ("gfx942", "rocm 7.2.0")


def test_which_sensors_are_opened_and_how_the_gpu_is_called_depends_on_its_maker(
    cuda: Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Any] = []
    monkeypatch.setattr(
        machines, "open_sensors", lambda properties, hip: opened.append((properties, hip)) or Sensors()
    )
    assert GpuMachine().identity() == f"GPU-{UUID}"
    monkeypatch.setattr(torch.version, "hip", "7.2.0")
    assert GpuMachine().identity() == "0000:1a:00.0"
    assert opened == [(cuda.properties, False), (cuda.properties, True)]


def test_what_a_gpu_tells_comes_from_its_sensors_and_the_table_of_devices(cuda: Cuda) -> None:
    gpu = GpuMachine()
    assert (gpu.device, gpu.watched) == ("cuda:0", True)
    assert gpu.last_level_cache() == 50 << 20
    assert gpu.clock() == ClockReading(1980, throttled=True)
    assert "busy 10%" in (gpu.early() or "")
    assert gpu.neighbours() is None


def test_who_was_there_is_asked_once_before_anything_of_ours_is(
    cuda: Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = GpuMachine()
    early = gpu.early()
    assert early is not None
    monkeypatch.setattr(Sensors, "occupancy", lambda _: Occupancy())
    assert gpu.early() == early
    assert cuda.did == []  # no context either


def test_free_memory_is_asked_for_after_torchs_cache_was_emptied(cuda: Cuda) -> None:
    assert GpuMachine().free_bytes() == 70 << 30
    assert cuda.did == ["empty the cache", "ask for memory"]


def test_synchronising_waits_for_the_gpu(cuda: Cuda) -> None:
    gpu = GpuMachine()
    gpu.synchronize()
    assert cuda.did == ["synchronise"]
    cuda.faulted = True
    with pytest.raises(RuntimeError, match="illegal memory access"):
        gpu.synchronize()


def test_a_pass_is_launched_once_and_then_captured_in_order_on_a_stream_of_its_own(cuda: Cuda) -> None:
    replay = GpuMachine().replay([launch(cuda, "a"), launch(cuda, "b")])
    assert replay.method == "graph"
    assert cuda.did == [
        *("a", "synchronise"),
        *("own waits for current", "on own", "capture begins, thread_local", "a", "b", "capture ends"),
        *("off own", "current waits for own"),
    ]
    replay.close()
    assert cuda.did[-1] == "reset"


def test_a_sample_of_a_graph_is_so_many_replays_between_events_after_one_ahead(cuda: Cuda) -> None:
    replay = GpuMachine().replay([launch(cuda, "a")])
    cuda.did.clear()
    assert replay.passes(2, 3) == pytest.approx([50.0, 50.0])  # microseconds a pass
    replays = ["replay"] * 3
    assert cuda.did == ["replay", "record", *replays, "record", *replays, "record", "wait for the last event"]


def test_what_cannot_be_captured_is_launched_again_each_time(cuda: Cuda) -> None:
    cuda.cannot_capture = True
    replay = GpuMachine().replay([launch(cuda, "a"), launch(cuda, "b", us=30.0)])
    assert replay.method == "events"
    assert cuda.did[-2:] == ["capture ends", "synchronise"]
    cuda.did.clear()
    assert replay.passes(1, 2) == pytest.approx([40.0])
    assert cuda.did == ["a", "b", "record", *["a", "b"] * 2, "record", "wait for the last event"]
    replay.close()


def test_a_fault_is_not_taken_for_what_cannot_be_captured(cuda: Cuda) -> None:
    cuda.faulted = True
    with pytest.raises(RuntimeError, match="illegal memory access"):
        GpuMachine().replay([launch(cuda, "a")])


def test_a_graph_keeps_alive_what_its_launches_own(cuda: Cuda) -> None:
    import weakref

    class Owned:
        pass

    def pass_of() -> tuple[Any, "weakref.ref[Owned]"]:
        owned = Owned()
        replay = GpuMachine().replay([Launch(lambda kept=owned: None, torch.zeros(1))])  # type: ignore[misc]
        return replay, weakref.ref(owned)

    replay, owned = pass_of()
    assert owned() is not None
    del replay
    assert owned() is None


def test_amds_kernels_are_refused_on_other_gpus_with_what_else_to_do(
    cuda: Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError) as told:
        amd_machine("aiter")
    assert str(told.value) == (
        "backend aiter measures on AMD GPUs only: run it on the GPU, or use --backend triton"
    )
    with pytest.raises(UserError, match=r"or do something else$"):
        amd_machine("aiter", "do something else")
    monkeypatch.setattr(torch.version, "hip", "7.2.0")
    assert isinstance(amd_machine("aiter"), GpuMachine)


# The host's processor.


def test_the_host_is_named_for_what_it_is_and_knows_nobody() -> None:
    host = CpuMachine()
    assert (host.device, host.watched) == ("cpu", False)
    stack = host.fingerprint("triton", "abc")
    assert (stack.device, stack.arch) == (f"cpu {platform.machine()}", "cpu")
    assert (stack.compute_units, stack.runtime, stack.torch) == (1, "none", torch.__version__)
    assert (stack.backend, stack.kernel_source, stack.tool_version) == ("triton", "abc", autotune.__version__)
    assert (host.identity(), host.early(), host.neighbours()) == (None, None, None)
    assert host.clock() == ClockReading(None, throttled=False)


def test_a_pass_on_the_host_is_every_launch_in_order_and_its_time_is_of_one_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ran: list[str] = []
    now = [0.0]

    def running(name: str, seconds: float) -> Callable[[], None]:
        def run() -> None:
            ran.append(name)
            now[0] += seconds

        return run

    monkeypatch.setattr(machines.time, "perf_counter", lambda: now[0])
    launches = [Launch(running(name, us * 1e-6), torch.zeros(1)) for name, us in (("a", 10), ("b", 30))]
    replay = CpuMachine().replay(launches)
    assert (replay.method, ran) == ("events", ["a", "b"])
    ran.clear()
    assert replay.passes(2, 3) == pytest.approx([40.0, 40.0], rel=1e-9)
    assert ran == ["a", "b"] * 6
    replay.close()
