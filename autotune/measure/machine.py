"""Devices that launches run on: a GPU through torch (CUDA and ROCm alike), and the CPU for tests."""

import platform
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import autotune
from autotune.errors import UserError
from autotune.machine.fingerprint import Fingerprint
from autotune.machine.probe import live_device
from autotune.machine.targets import TRITON_DISTRIBUTIONS, package_version
from autotune.measure.neighbours import Neighbours
from autotune.measure.sensors import identity, open_sensors
from autotune.protocol.runtime import ClockReading, Launch, Replay

if TYPE_CHECKING:
    import torch


class GpuMachine:
    """The process's first visible GPU.

    Raises:
        UserError: torch is missing, or sees no GPU.
    """

    device = "cuda:0"
    watched = True

    def __init__(self) -> None:
        try:
            import torch
        except ModuleNotFoundError as error:
            raise UserError(
                "measuring needs torch: install the ROCm or CUDA build that your engine uses"
            ) from error
        if not torch.cuda.is_available():
            raise UserError(
                "torch sees no GPU: measure on a machine that has one, or prepare offline with"
                " `autotune run --target offline:mi325x`"
            )
        # No context yet, which would be memory of our own: device 0 becomes the current one by its first use.
        self._properties: Any = torch.cuda.get_device_properties(0)
        self._hip = torch.version.hip is not None
        self._sensors = open_sensors(self._properties, hip=self._hip)
        self._neighbours = Neighbours(self._sensors.occupancy)
        self._early = self._neighbours.before()

    def fingerprint(self, backend: str, kernel_source: str) -> Fingerprint:
        import torch

        card, properties = self._sensors.card(), self._properties
        arch = (
            str(properties.gcnArchName).partition(":")[0]
            if self._hip
            else f"sm_{properties.major}{properties.minor}"
        )
        return Fingerprint(
            device=live_device().name,  # containers may hide the marketing name
            arch=arch,
            compute_units=properties.multi_processor_count,
            compute_partition=card.compute_partition,
            memory_partition=card.memory_partition,
            power_cap_w=card.power_cap_w,
            driver=card.driver,
            runtime=f"rocm {torch.version.hip}" if self._hip else f"cuda {torch.version.cuda}",
            # It is of a class of torch's: whoever was sent that would import torch, which takes seconds.
            torch=str(torch.__version__),
            triton=package_version(*TRITON_DISTRIBUTIONS),
            backend=backend,
            kernel_source=kernel_source,
            tool_version=autotune.__version__,
        )

    def last_level_cache(self) -> int:
        # From the device table: ROCm reports the L2 of one die, not the Infinity Cache behind it.
        return live_device().last_level_cache_bytes

    def free_bytes(self) -> int:
        import torch

        torch.cuda.empty_cache()
        return int(torch.cuda.mem_get_info()[0])

    def clock(self) -> ClockReading:
        return self._sensors.clock()

    def identity(self) -> str | None:
        return identity(self._properties, hip=self._hip)

    def early(self) -> str | None:
        return self._early

    def neighbours(self) -> str | None:
        return self._neighbours.now()

    def busy(self) -> float | None:
        return self._sensors.occupancy().busy

    def synchronize(self) -> None:
        import torch

        torch.cuda.synchronize()

    def replay(self, launches: Sequence[Launch]) -> Replay:
        import torch

        # One outside of capture first, so kernels are loaded, and a fault shows before there is a graph to
        # blame. The others are the same kernels on other routings.
        launches[0].run()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        try:
            _capture(graph, launches)
        except RuntimeError:
            # Something in it cannot be captured (a backend that synchronises, say). A device fault lands here
            # as well, and shows itself again at this synchronisation.
            torch.cuda.synchronize()
            return _EventReplay(launches)
        return _GraphReplay(graph, launches)


def this_stack() -> Fingerprint:
    """The stack of the first GPU, of no backend.

    Raises:
        UserError: torch is missing, or sees no GPU.
    """
    return GpuMachine().fingerprint("", "")


def amd_machine(backend: str, instead: str = "use --backend triton") -> GpuMachine:
    """The first GPU, for a backend whose kernels are AMD's alone.

    Args:
        instead: what else the user may do.

    Raises:
        UserError: it is none of AMD's.
    """
    import torch

    if torch.version.hip is None:
        raise UserError(f"backend {backend} measures on AMD GPUs only: run it on the GPU, or {instead}")
    return GpuMachine()


def _capture(graph: "torch.cuda.CUDAGraph", launches: Sequence[Launch]) -> None:
    """Captures a pass.

    As `torch.cuda.graph` does, without the garbage collection and the emptied cache that it begins with: they
    take longer than a candidate's whole window.
    """
    import torch

    make: Callable[[], torch.cuda.Stream] = torch.cuda.Stream
    stream = make()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        graph.capture_begin(capture_error_mode="thread_local")
        try:
            for launch in launches:
                launch.run()
        finally:
            graph.capture_end()
    torch.cuda.current_stream().wait_stream(stream)


class _GraphReplay:
    """A captured pass."""

    method = "graph"

    def __init__(self, graph: "torch.cuda.CUDAGraph", launches: Sequence[Launch]) -> None:
        self._graph = graph
        # The graph holds addresses, not tensors: what the launches own must live as long as it does.
        self._launches = launches

    def passes(self, samples: int, passes_a_sample: int) -> list[float]:
        return _timed(self._graph.replay, samples, passes_a_sample)

    def close(self) -> None:
        self._graph.reset()


class _EventReplay:
    """A pass that is launched again each time; short kernels are then bound by the host."""

    method = "events"

    def __init__(self, launches: Sequence[Launch]) -> None:
        self._launches = launches

    def passes(self, samples: int, passes_a_sample: int) -> list[float]:
        return _timed(self._run, samples, passes_a_sample)

    def _run(self) -> None:
        for launch in self._launches:
            launch.run()

    def close(self) -> None:
        pass


def _timed(run: Callable[[], None], samples: int, passes_a_sample: int) -> list[float]:
    """Microseconds a pass between events.

    A pass is run ahead of the first event: it puts the caches into the state that every later pass meets,
    and while it runs the host gets ahead, so no sample holds the latency of a launch onto an idle device.
    """
    import torch

    make: Callable[..., torch.cuda.Event] = torch.cuda.Event
    events = [make(enable_timing=True) for _ in range(samples + 1)]
    run()
    events[0].record()
    for event in events[1:]:
        for _ in range(passes_a_sample):
            run()
        event.record()
    events[-1].synchronize()
    return [1e3 * first.elapsed_time(last) / passes_a_sample for first, last in pairwise(events)]


class CpuMachine:
    """The host's processor: for Triton's interpreter and for tests. Its times mean nothing."""

    device = "cpu"
    watched = False

    def fingerprint(self, backend: str, kernel_source: str) -> Fingerprint:
        return Fingerprint(
            device=f"cpu {platform.machine()}",
            arch="cpu",
            compute_units=1,
            runtime="none",
            torch=package_version("torch"),
            triton=package_version(*TRITON_DISTRIBUTIONS),
            backend=backend,
            kernel_source=kernel_source,
            tool_version=autotune.__version__,
        )

    def last_level_cache(self) -> int:
        return 1 << 16

    def free_bytes(self) -> int:
        return 1 << 30

    def clock(self) -> ClockReading:
        return ClockReading()

    def identity(self) -> str | None:
        return None

    def early(self) -> str | None:
        return None

    def neighbours(self) -> str | None:
        return None

    def busy(self) -> float | None:
        return None

    def synchronize(self) -> None:
        pass

    def replay(self, launches: Sequence[Launch]) -> Replay:
        for launch in launches:
            launch.run()
        return _HostReplay(launches)


class _HostReplay:
    method = "events"

    def __init__(self, launches: Sequence[Launch]) -> None:
        self._launches = launches

    def passes(self, samples: int, passes_a_sample: int) -> list[float]:
        times = []
        for _ in range(samples):
            start = time.perf_counter()
            for _ in range(passes_a_sample):
                for launch in self._launches:
                    launch.run()
            times.append(1e6 * (time.perf_counter() - start) / passes_a_sample)
        return times

    def close(self) -> None:
        pass
