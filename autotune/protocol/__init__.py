"""Types by which the tool and the families of kernels speak to each other."""

from typing import Final

DEFAULT_BACKEND: Final = "triton"
"""The one that is meant where none is named and a checkpoint's numbers do not tell."""
