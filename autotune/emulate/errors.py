"""The two ways in which an emulated kernel can end other than by finishing."""

from __future__ import annotations


class EmulationError(Exception):
    """Base of everything the emulator raises about a kernel.

    Attributes:
        reason: what is wrong, without the position.
        line: 1-based line of the assembly text, once known.
        text: the instruction as written, once known.
    """

    def __init__(self, reason: str, line: int | None = None, text: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.line = line
        self.text = text

    def locate(self, line: int, text: str) -> None:
        """Adds the position, unless an inner frame that knew it better already did."""
        if self.line is None:
            self.line, self.text = line, text

    def __str__(self) -> str:
        if self.line is None:
            return self.reason
        return f"line {self.line}: `{self.text}`: {self.reason}"


class NotEmulated(EmulationError):
    """The kernel uses something that this interpreter does not know: no verdict on the kernel."""


class Fault(EmulationError):
    """The kernel does something that is wrong on hardware: the verdict is "incorrect"."""
