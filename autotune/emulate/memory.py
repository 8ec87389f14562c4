"""Global memory: registered buffers with strict bounds, and the traffic statistics of what touches them."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field

import numpy as np

from autotune.emulate.errors import Fault
from autotune.emulate.registers import Array

SEGMENT = 64
_FIRST_ADDRESS = 0x7F00_0000_0000
_GUARD = 1 << 20


@dataclass(slots=True)
class Traffic:
    """What one class of global accesses asked for.

    Attributes:
        instructions: executed wave instructions.
        nbytes: bytes requested by active lanes.
        segments: distinct 64-byte segments an instruction touches, summed over the instructions; at best
            `nbytes / 64`, more where lanes are scattered.
    """

    instructions: int = 0
    nbytes: int = 0
    segments: int = 0


@dataclass(slots=True)
class Region:
    """One registered buffer: address range [base, base + size), its bytes, and whether it may be written."""

    base: int
    data: Array
    writable: bool
    name: str
    words: Array = field(init=False)

    def __post_init__(self) -> None:
        # Whole 32-bit words only; what is left over at the end is reached byte by byte.
        self.words = self.data[: len(self.data) // 4 * 4].view(np.uint32)


class Memory:
    """The address space of a launch."""

    def __init__(self) -> None:
        self._regions: list[Region] = []
        self._bases: list[int] = []
        self._next = _FIRST_ADDRESS
        self.traffic: dict[str, Traffic] = {kind: Traffic() for kind in ("load", "store", "atomic", "scalar")}

    def map(self, array: Array, *, name: str = "buffer", address: int | None = None) -> int:
        """Registers a buffer and returns its address.

        Args:
            array: any contiguous array; the kernel writes into it in place, unless it is marked read-only.
            name: for messages.
            address: where to put it; by default after the last one, with an unmapped gap of at least 1 MiB.

        Raises:
            ValueError: not contiguous, or overlaps a registered buffer.
        """
        if not array.flags.c_contiguous:
            raise ValueError(f"{name} is not C-contiguous")
        raw = array.reshape(-1).view(np.uint8) if array.size else np.zeros(0, np.uint8)
        if address is None:
            address = self._next
            self._next = (address + len(raw) + 2 * _GUARD) // _GUARD * _GUARD
        slot = bisect_right(self._bases, address)
        before = self._regions[slot - 1] if slot else None
        after = self._regions[slot] if slot < len(self._regions) else None
        if (before and before.base + len(before.data) > address) or (
            after and address + len(raw) > after.base
        ):
            raise ValueError(f"{name} at {address:#x} overlaps another buffer")
        self._bases.insert(slot, address)
        self._regions.insert(slot, Region(address, raw, raw.flags.writeable, name))
        return address

    def _region(self, low: int, high: int) -> Region | None:
        """The buffer that holds all of [low, high), if there is one."""
        slot = bisect_right(self._bases, low) - 1
        if slot < 0:
            return None
        region = self._regions[slot]
        return region if high <= region.base + len(region.data) else None

    def _require(self, address: int, size: int, write: bool) -> Region:
        region = self._region(address, address + size)
        if region is None:
            raise Fault(
                f"{'store' if write else 'load'} of {size} bytes at {address:#x} {self._near(address)}"
            )
        if write and not region.writable:
            raise Fault(f"store to the read-only buffer {region.name}")
        return region

    def _near(self, address: int) -> str:
        slot = bisect_right(self._bases, address) - 1
        if slot < 0:
            return "is below every buffer"
        region = self._regions[slot]
        where = f"{region.name} has {len(region.data)} bytes, this is at {address - region.base}"
        return f"is outside of every buffer; {where}"

    def count(self, kind: str, addresses: Array, size: int) -> None:
        """Adds one access of `size` bytes a lane to the statistics; addresses int64[active lanes]."""
        traffic = self.traffic[kind]
        traffic.instructions += 1
        traffic.nbytes += size * len(addresses)
        first: Array = addresses // SEGMENT
        segments = set(first.tolist())
        last = (addresses + (size - 1)) // SEGMENT
        if not np.array_equal(first, last):
            segments.update(last.tolist())
        traffic.segments += len(segments)

    def load(self, addresses: Array, size: int) -> Array:
        """Reads `size` bytes a lane: uint32[ceil(size / 4), lanes], zero-extended.

        Args:
            addresses: int64[lanes], at least one.
            size: 1, 2 or a multiple of 4.

        Raises:
            Fault: an access that is not wholly inside of one buffer.
        """
        low, high = int(addresses.min()), int(addresses.max()) + size
        region = self._region(low, high)
        if region is not None and size % 4 == 0 and high <= region.base + 4 * len(region.words):
            offset = addresses - region.base
            if not (offset & 3).any():
                index = offset >> 2
                if size > 4:
                    index = index + np.arange(size // 4)[:, None]
                return region.words.take(index).reshape(size // 4, len(addresses))
        raw = np.zeros((len(addresses), (size + 3) // 4 * 4), np.uint8)
        if region is not None:
            raw[:, :size] = region.data.take((addresses - region.base)[:, None] + np.arange(size))
        else:
            for lane, address in enumerate(addresses.tolist()):
                region = self._require(address, size, False)
                start = address - region.base
                raw[lane, :size] = region.data[start : start + size]
        return np.ascontiguousarray(raw.view(np.uint32).T)

    def store(self, addresses: Array, words: Array, size: int) -> None:
        """Writes the low `size` bytes a lane of uint32[ceil(size / 4), lanes]; the highest lane wins a
        conflict.

        Raises:
            Fault: an access that is not wholly inside of one writable buffer.
        """
        low, high = int(addresses.min()), int(addresses.max()) + size
        region = self._region(low, high)
        if region is not None and not region.writable:
            raise Fault(f"store to the read-only buffer {region.name}")
        if region is not None and size % 4 == 0 and high <= region.base + 4 * len(region.words):
            offset = addresses - region.base
            if not (offset & 3).any():
                region.words[(offset >> 2) + np.arange(size // 4)[:, None]] = words
                return
        raw = np.ascontiguousarray(words.T).view(np.uint8)[:, :size]
        if region is not None:
            region.data[(addresses - region.base)[:, None] + np.arange(size)] = raw
            return
        for lane, address in enumerate(addresses.tolist()):
            region = self._require(address, size, True)
            start = address - region.base
            region.data[start : start + size] = raw[lane]

    def read_scalar(self, address: int, count: int) -> list[int]:
        """Reads `count` 32-bit words at a 4-byte aligned address.

        Raises:
            Fault: outside of every buffer.
        """
        region = self._require(address, 4 * count, False)
        start = address - region.base
        traffic = self.traffic["scalar"]
        traffic.instructions += 1
        traffic.nbytes += 4 * count
        traffic.segments += (address + 4 * count - 1) // SEGMENT - address // SEGMENT + 1
        words: list[int] = region.data[start : start + 4 * count].view(np.uint32).tolist()
        return words
