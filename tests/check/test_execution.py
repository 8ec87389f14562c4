"""Executed counts add up over launches, and say how well loads coalesce and how much is in flight."""

from collections import Counter

import pytest

from autotune.check.execution import Executed, Tally, Wait
from autotune.emulate import Counts, Memory, WaitSite


def test_launches_add_up_though_the_interpreter_reuses_its_sites() -> None:
    tally, site = Tally(), WaitSite(7, 2, 2048, 1024)
    tally.add(Counts(classes=Counter(mfma=3), waits=[site], workgroups=1))
    site.executions, site.bytes_total, site.bytes_max = 2, 0, 0
    tally.add(Counts(classes=Counter(mfma=4, valu=1), waits=[site], workgroups=2))
    memory = Memory()
    memory.traffic["load"].instructions, memory.traffic["load"].nbytes = 2, 512
    memory.traffic["load"].segments = 16
    tally.add_traffic(memory)
    executed = tally.executed(4)
    assert (executed.workgroups, executed.classes) == (3, {"mfma": 7, "valu": 1})
    assert executed.waits == (Wait(7, 4, 512.0, 1024),)
    assert executed.load_coalescing == 0.5


def test_a_wait_counts_by_what_is_in_flight_there() -> None:
    waits = (Wait(1, 10, 1000.0, 1000), Wait(2, 90, 0.0, 0), Wait(3, 10, 3000.0, 3000))
    executed = Executed(1, 4, {}, {}, waits)
    assert executed.bytes_in_flight == pytest.approx((1000**2 + 3000**2) / 4000)
    assert executed.load_coalescing is None
