"""The engines that the plugins were tested with, and how: another version is a warning, not a refusal."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Tested:
    """One engine's version.

    Attributes:
        package: the distribution's name.
        hook: where the plugin takes hold.
        how: what was run of it.
    """

    package: str
    version: str
    hook: str
    how: str


TESTED: Final = (
    Tested(
        "vllm",
        "0.33.0",
        "register_quantization_config",
        "its own quantisation classes and routed experts, on the CPU and an H100; no server",
    ),
    Tested(
        "sglang",
        "0.5.23",
        "get_quant_method, get_moe_scheme (AROUND)",
        "its own quantisation classes, experts and hooks, on the CPU and an H100; no server",
    ),
)


def tested(package: str) -> str:
    """The version of an engine that was tested."""
    return next(row.version for row in TESTED if row.package == package)


def warning(package: str, version: str | None) -> str | None:
    """What to say of an engine's version that is here; None: it was tested."""
    if version is None or version.partition("+")[0] == tested(package):
        return None
    return (
        f"the plugin was tested with {package} {tested(package)}, and {version} is here: compare the served"
        " model's answers with the unpatched one's"
    )
