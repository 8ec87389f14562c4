import contextlib

active = {}


@contextlib.contextmanager
def llvm_options(options):
    """An unknown option raises; an unknown value passes without a word."""
    for name in options:
        if not name.startswith(("amdgpu-", "enable-")):
            raise RuntimeError(f"unknown LLVM option {name}")
    active.update(options)
    yield
    active.clear()
