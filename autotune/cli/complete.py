"""Completes options' values in a shell; what is listed is imported when it is asked for."""

from collections.abc import Iterable


def _in_list(incomplete: str, values: Iterable[str]) -> list[str]:
    """Completions of the last of several values with commas between them."""
    before, comma, _ = incomplete.rpartition(",")
    chosen = before.split(",")
    return [f"{before}{comma}{value}" for value in values if value not in chosen]


def shapes(incomplete: str) -> list[str]:
    """`m1` to `m8`, or all of them."""
    verify = [f"m{tokens}" for tokens in range(1, 9)]
    return _in_list(incomplete, verify if "," in incomplete else [*verify, "all"])


def models() -> list[str]:
    from autotune.problem.models import PRESETS

    return list(PRESETS)


def backends() -> list[str]:
    from autotune.protocol.registry import backend_names

    return backend_names()


def targets() -> list[str]:
    """What there is by name; of a replayed table its prefix."""
    from autotune.machine.devices import DEVICES

    offline = [f"offline:{device.name}" for device in DEVICES.values() if device.runtime == "hip"]
    return ["live", *offline, "replay:"]


def routings() -> list[str]:
    """Each kind, up to its parameter."""
    return ["uniform", "zipf:", "correlated:", "file:"]


def stages() -> list[str]:
    return ["stage1", "stage2"]
