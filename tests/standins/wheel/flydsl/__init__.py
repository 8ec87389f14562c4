"""A stand-in for the flydsl wheel; see `tests.standins`."""

__version__ = "0.1.5"
