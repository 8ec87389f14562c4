"""LDS: one workgroup's shared memory, checked for bounds, for reads of what nobody wrote, and for races.

A race is a pair of accesses to a byte by different waves, at least one a write, with no barrier between them.
It is found whatever the order in which the waves happen to run: for each byte the last writer since the last
barrier and the readers since then are kept. An access that is still outstanding at a barrier (no s_waitcnt
covered it) may take effect after the barrier and therefore counts on its other side too. CDNA3 ISA guide,
"Data share".
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from autotune.emulate.errors import Fault
from autotune.emulate.registers import Array, LdsAccess, Wave

# Writer codes of a byte: nobody ever, an atomic since the barrier, somebody before the barrier; else wave
# number + 1.
_NEVER, _ATOMIC, _EARLIER = 0, 200, 255
MAX_WAVES = 16
GRANULE = 512  # bytes in which LDS is allocated


_STEPS = np.arange(64)[:, None]


def _everywhere(code: int) -> np.uint32:
    """A byte code in all four bytes of a word."""
    return np.uint32(code * 0x0101_0101)


_ALL_EARLIER = _everywhere(_EARLIER)


class Lds:
    """Shared memory of one workgroup.

    Args:
        size: bytes allocated.
        poison: fills it at the start, as the last kernel's left-overs would.
        check_races: whether to look for races.
        strict: whether an access outside of the allocation, or a read of what nobody wrote, is a fault.
            Otherwise it does what hardware does: outside (of whole granules) writes are dropped and reads
            give 0, and what nobody wrote holds poison.
    """

    def __init__(
        self,
        size: int,
        poison: np.random.Generator | None = None,
        check_races: bool = True,
        strict: bool = True,
    ) -> None:
        if not strict:
            size = -(-size // GRANULE) * GRANULE
        padded = (size + 7) // 8 * 8
        self.strict = strict
        self.size = size
        self.check_races = check_races
        self.data = (
            np.zeros(padded, np.uint8) if poison is None else poison.integers(0, 256, padded, np.uint8)
        )
        self._words = self.data.view(np.uint32)
        self._writer = np.full(padded, _NEVER, np.uint8)
        self._writer_words = self._writer.view(np.uint32)
        self._readers = np.zeros(padded, np.uint16)  # a bit for each wave
        self._reader_words = self._readers.view(np.uint64)

    def _index(self, starts: Array, size: int, what: str) -> tuple[Array, bool]:
        """Positions int64[parts, n] of the words (or, unless aligned, bytes) of an access."""
        end = int(starts.max()) + size
        if end > self.size:
            raise Fault(f"LDS {what} of {size} bytes at {end - size}, allocated are {self.size}")
        if size % 4 == 0 and not int(np.bitwise_or.reduce(starts)) & 3:
            return (starts >> 2) + _STEPS[: size // 4], True
        return starts + _STEPS[:size], False

    def load(self, wave: int, starts: Array, size: int) -> Array:
        """Reads `size` bytes a lane: uint32[ceil(size / 4), n], zero-extended.

        Args:
            wave: number of the wave in the workgroup.
            starts: int64[n] byte offsets, n ≥ 1.
            size: 1, 2 or a multiple of 4.

        Raises:
            Fault: outside of the allocation, never written, or a race.
        """
        if not self.strict and int(starts.max()) + size > self.size:
            inside = starts + size <= self.size
            words = np.zeros(((size + 3) // 4, len(starts)), np.uint32)
            if inside.any():
                words[:, inside] = self.load(wave, starts[inside], size)
            return words
        index, aligned = self._index(starts, size, "read")
        self._check_read(wave, index, aligned)
        if aligned:
            return self._words.take(index)
        raw = np.zeros((len(starts), (size + 3) // 4 * 4), np.uint8)
        raw[:, :size] = self.data.take(index).T
        return np.ascontiguousarray(raw.view(np.uint32).T)

    def store(self, wave: int, starts: Array, words: Array, size: int) -> None:
        """Writes the low `size` bytes a lane of uint32[ceil(size / 4), n]; the highest lane wins a conflict.

        Raises:
            Fault: outside of the allocation, or a race.
        """
        if not self.strict and int(starts.max()) + size > self.size:
            inside = starts + size <= self.size
            if inside.any():
                self.store(wave, starts[inside], words[:, inside], size)
            return
        index, aligned = self._index(starts, size, "write")
        values = words if aligned else np.ascontiguousarray(words.T).view(np.uint8)[:, :size].T
        self._check_write(wave, index, values, aligned)
        (self._words if aligned else self.data)[index] = values

    def atomic_access(self, wave: int, starts: Array, size: int) -> None:
        """Checks an atomic access: races with plain accesses of other waves, not with their atomics.

        Raises:
            Fault: outside of the allocation, never written, or a race.
        """
        index, aligned = self._index(starts, size, "atomic")
        if not aligned:
            raise Fault("LDS atomic at an unaligned address")
        position = index * 4
        codes = self._writer[position]
        if (codes == _NEVER).any():
            raise Fault("LDS atomic on bytes that nothing has written")
        foreign = (codes != _EARLIER) & (codes != _ATOMIC) & (codes != wave + 1)
        others = self._readers[position] & np.uint16(0xFFFF ^ 1 << wave)
        if self.check_races and (foreign.any() or others.any()):
            raise Fault("LDS atomic races with another wave: no barrier in between")
        for byte in range(4):
            self._writer[position + byte] = _ATOMIC

    def words_at(self, starts: Array, size: int) -> Array:
        """Words uint32[size / 4, n] at aligned byte offsets, unchecked (after `atomic_access`)."""
        return self._words.take((starts >> 2) + _STEPS[: size // 4])

    def put_words_at(self, starts: Array, words: Array) -> None:
        """Stores words uint32[k, n] at aligned byte offsets, unchecked (after `atomic_access`)."""
        self._words[(starts >> 2) + np.arange(len(words))[:, None]] = words

    def _check_read(self, wave: int, index: Array, aligned: bool) -> None:
        own = wave + 1
        if aligned:
            codes = self._writer_words.take(index)
            if (codes != _ALL_EARLIER).any() and (codes[codes != _ALL_EARLIER] != _everywhere(own)).any():
                self._explain_read(own, (index * 4 + _STEPS[:4, :, None]).reshape(-1))
            if self.check_races:
                self._reader_words[index] |= np.uint64((1 << wave) * 0x0001_0001_0001_0001)
            return
        self._explain_read(own, index.reshape(-1))
        if self.check_races:
            self._readers[index] |= np.uint16(1 << wave)

    def _explain_read(self, own: int, positions: Array) -> None:
        codes = self._writer[positions]
        if self.strict and (codes == _NEVER).any():
            raise Fault(f"LDS read of byte {int(positions[codes == _NEVER][0])}, which nothing has written")
        foreign = (codes != own) & (codes != _EARLIER) & (codes != _NEVER)
        if self.check_races and foreign.any():
            byte, code = int(positions[foreign][0]), int(codes[foreign][0])
            writer = "an atomic" if code == _ATOMIC else f"wave {code - 1}"
            raise Fault(
                f"LDS race: wave {own - 1} reads byte {byte} that {writer} wrote, no barrier in between"
            )

    def _check_write(self, wave: int, index: Array, values: Array, aligned: bool) -> None:
        own = wave + 1
        if not aligned:
            self._explain_write(own, index.reshape(-1), (self.data.take(index) != values).reshape(-1))
            self._writer[index] = own
            return
        codes, readers = self._writer_words.take(index), self._reader_words.take(index)
        if readers.any() or (codes != _ALL_EARLIER).any():
            positions = (index * 4 + _STEPS[:4, :, None]).reshape(-1)
            changes = np.tile(self._words.take(index) != values, (4, 1, 1)).reshape(-1)
            self._explain_write(own, positions, changes)
        self._writer_words[index] = _everywhere(own)

    def _explain_write(self, own: int, positions: Array, changes: Array) -> None:
        """Raises the race of a write, if it is one.

        Compilers let several waves write the same value to the same place when a tile is replicated over
        them, which no order can tell apart; `changes` says which bytes would get another value.
        """
        if not self.check_races:
            return
        codes = self._writer[positions]
        foreign = (codes != own) & (codes != _EARLIER) & (codes != _NEVER) & changes
        if foreign.any():
            raise Fault(
                f"LDS race: wave {own - 1} and wave {int(codes[foreign][0]) - 1} write byte "
                f"{int(positions[foreign][0])}, no barrier in between"
            )
        others = self._readers[positions] & np.uint16(0xFFFF ^ 1 << (own - 1))
        if others.any():
            reader = int(others[others != 0][0])
            raise Fault(
                f"LDS race: wave {own - 1} overwrites byte {int(positions[others != 0][0])} that wave "
                f"{reader.bit_length() - 1} reads, no barrier in between"
            )

    def barrier(self, waves: Iterable[Wave]) -> None:
        """All waves have met: what they did before is ordered before what they do next, unless still
        outstanding.
        """
        self._writer[self._writer != _NEVER] = _EARLIER
        self._readers[:] = 0
        for wave in waves:
            for entry in (*wave.vm, *wave.lgkm):
                if entry.lds is not None:
                    self._carry_over(wave.index, entry.lds)

    def _carry_over(self, wave: int, access: LdsAccess) -> None:
        positions = access.starts + np.arange(access.size)[:, None]
        positions = positions[positions < self.size]
        if access.write:
            self._writer[positions] = wave + 1
        else:
            self._readers[positions] |= np.uint16(1 << wave)
