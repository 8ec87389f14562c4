"""A time estimate for a kernel that cannot be measured here. It ranks; it does not predict.

    time = launch + bytes * (1 / peak bandwidth + latency / bytes in flight) / fullness of the last round

The term with the latency is Little's law: a memory system of latency L with B bytes in flight moves
B / L. Added to the peak's it bends towards the peak instead of breaking off: more in flight is always a
little better. The last term counts whole rounds of workgroups over the device's slots: 305 workgroups on
304 CUs with one slot each take two rounds. Verify shapes move every weight byte once and do little
arithmetic on it, so compute does not appear.

Before a candidate was executed, bytes and bytes in flight are what its config promises. After it
(`executed_work`) they are what its machine code did: a wave's loads in flight where it waits for them, times
the waves, and whole 64-byte segments instead of requested bytes where loads are scattered.

On gfx942 it was held against the times of AITER's tuned rows (`scripts/estimate_on_gfx942.py`), which are
of winners on warm weights: up to 128 tokens these are 0.81 of it at the median. Of its ranking that says
nothing. Against 150 measured configs a stage of m4 on an H100, with promised bytes and with slots bounded
by shared memory and threads alone, Spearman's rank correlation is 0.42 in stage 1 and 0.30 in stage 2: it
sorts out what is far too slow, and little more. Those configs came from a search, which measures mostly
good ones. What was executed cannot be held against them: an H100 runs other machine code.
"""

from collections.abc import Mapping
from math import ceil
from typing import Any, Final

from autotune.machine.devices import Device
from autotune.protocol.backend import Work
from autotune.results import StaticFacts

PROMISED: Final = "estimate v1"
"""Conditions of an estimate by what a config promises; another formula is another condition."""

EXECUTED: Final = "estimate v2, executed"
"""Conditions of one by what the machine code did: the two never mix."""

# Assumptions, not measurements: the order of an HBM access on CDNA3 and of a graph-launched empty kernel.
_LATENCY_S = 0.8e-6
_LAUNCH_US = 2.0


def executed_work(work: Work, counts: Mapping[str, Any]) -> Work | None:
    """What a launch asks for by what its sampled workgroups executed.

    Args:
        work: what the config promises.
        counts: `autotune.check.execution.Executed.summary()`.

    Returns:
        None: nothing was executed, or no load was waited for.
    """
    if not counts or not counts["waits"]["bytes_in_flight"]:
        return None
    # Above 1 lanes ask for the same bytes twice, which costs no traffic.
    coalescing = min(1.0, counts["load_coalescing"] or 1.0)
    return Work(
        bytes_moved=work.bytes_moved / coalescing,
        workgroups=work.workgroups,
        bytes_in_flight=counts["waits"]["bytes_in_flight"] * counts["waves"],
    )


def estimate_us(work: Work, facts: StaticFacts, device: Device, latency_s: float = _LATENCY_S) -> float:
    """Estimated microseconds of one launch.

    Args:
        facts: of the compiled code; `workgroups_per_cu` must be known and positive.
        latency_s: seconds of a memory access; `scripts/estimate_on_gfx942.py` fits it.
    """
    assert facts.workgroups_per_cu
    slots = device.compute_units * facts.workgroups_per_cu
    running = min(work.workgroups, slots)
    seconds_a_byte = 1 / device.bandwidth_bytes_per_s + latency_s / (running * work.bytes_in_flight)
    rounds = ceil(work.workgroups / slots)
    # With one round, idle slots cost nothing more: Little's law has counted them already.
    fullness = work.workgroups / (rounds * slots) if rounds > 1 else 1.0
    return _LAUNCH_US + work.bytes_moved * seconds_a_byte / fullness * 1e6
