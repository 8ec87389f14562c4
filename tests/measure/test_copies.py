"""The copies of a layer's weights that a runtime holds."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from autotune.measure import copies
from autotune.measure.copies import HoldsCopies
from autotune.protocol.runtime import LogicalWeights
from tests.measure.conftest import TINY


class Weights:
    clones = 0

    def __init__(self, number: int) -> None:
        self.number = number

    def clone(self) -> "Weights":
        Weights.clones += 1
        return Weights(100 * Weights.clones)

    def digest(self) -> int:
        return self.number


class Holder(HoldsCopies[Weights]):
    name = "triton"
    packed = 0

    def pack(self, weights: LogicalWeights) -> Weights:
        assert self.copies == []  # an earlier layer's are gone
        self.packed += 1
        return Weights(self.packed)


def test_copy_0_is_packed_and_the_others_are_cloned_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Weights, "clones", 0)
    holder = Holder()
    with pytest.raises(AssertionError, match=r"^prepare\(\) comes first$"):
        _ = holder.on
    holder.prepare(TINY, None)  # type: ignore[arg-type]
    assert (holder.on, holder.digest()) == (TINY, 1)
    holder.grow(3)
    holder.grow(2)
    assert [copy.number for copy in holder.copies] == [1, 100, 200]
    assert holder.digest() == 1
    holder.prepare(replace(TINY, experts=4), None)  # type: ignore[arg-type]
    assert [copy.number for copy in holder.copies] == [2]
    asked: list[str] = []
    weighing = SimpleNamespace(copy=lambda layer: 1000 * layer.experts)
    monkeypatch.setattr(copies, "weight_bytes", lambda name: asked.append(name) or weighing)
    assert holder.packed_bytes(TINY) == 8000
    assert asked == ["triton"]
