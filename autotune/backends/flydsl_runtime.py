"""Backend `flydsl` on the device: it only compiles. The published kernels are launched by `aiter`."""

from typing import NoReturn

from autotune.errors import UserError


def make() -> NoReturn:
    """There is no such runtime.

    Raises:
        UserError: always, with what to do instead.
    """
    raise UserError(
        "backend flydsl only compiles: measure its kernels with --backend aiter in the image that serves, or"
        " prepare them with --target offline:mi325x"
    )
