"""Models, layers, shapes and the routing of tokens."""

from typing import Final

DEFAULT_MODEL: Final = "kimi-k2.5-w4a8"
"""The preset that is meant where none is named. It stands here so that help need not import the presets."""
