"""The part of backend `flydsl` that runs in the Python that has the wheel; see `__main__`."""
