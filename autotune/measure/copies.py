"""The physical copies of a layer's packed weights, which every runtime holds."""

from abc import ABC, abstractmethod
from typing import Generic, Protocol, Self, TypeVar

from autotune.problem.layer import Layer
from autotune.protocol.registry import weight_bytes
from autotune.protocol.runtime import LogicalWeights


class Packed(Protocol):
    """Weights in a backend's own layout, on the device."""

    def clone(self) -> Self:
        """A physical copy with the same numbers."""

    def digest(self) -> int:
        """Changes when a byte does."""


Weights = TypeVar("Weights", bound=Packed)


class HoldsCopies(ABC, Generic[Weights]):
    """What `protocol.runtime.Runtime` says of copies: copy 0 is packed, the others are cloned from it.

    Attributes:
        copies: of the layer that was prepared last.
    """

    name: str

    def __init__(self) -> None:
        self._layer: Layer | None = None
        self.copies: list[Weights] = []

    @abstractmethod
    def pack(self, weights: LogicalWeights) -> Weights:
        """The backend's own layout of weights and scales."""

    @property
    def on(self) -> Layer:
        """The layer that was prepared."""
        assert self._layer is not None, "prepare() comes first"
        return self._layer

    def packed_bytes(self, layer: Layer) -> int:
        return weight_bytes(self.name).copy(layer)

    def prepare(self, layer: Layer, weights: LogicalWeights) -> None:
        self._layer = layer
        self.copies = []  # an earlier layer's go before this one's come
        self.copies = [self.pack(weights)]

    def grow(self, copies: int) -> None:
        while len(self.copies) < copies:
            self.copies.append(self.copies[0].clone())

    def digest(self) -> int:
        return self.copies[0].digest()
