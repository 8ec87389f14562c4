"""Finds caches and variables that give a sweep another kernel than the one that it asked for."""

from autotune.backends.flydsl.request import GATES
from autotune.protocol.finding import Finding, State
from autotune.protocol.host import Host

# Read with int() and swallowed where that fails (aiter 511df6a, fused_moe.py:1968-1981 and 2516-2525): a bad
# TILE_N takes the stage's TILE_K and its automatic rule with it.
_TILES = tuple(f"AITER_FLYDSL_STAGE{stage}_TILE_{side}" for stage in (1, 2) for side in "NKM")
_MERGED_TABLE = "/tmp/aiter_configs/tuned_fmoe.csv"
_ON = ("1", "true", "True", "YES", "yes")


def cache_findings(host: Host) -> list[Finding]:
    """Everything of that kind that is here; a single finding when there is nothing."""
    found = [*_flydsl_cache(host), *_gates(host), *_tiles(host), *_tables(host)]
    return found or [
        Finding("caches", State.YES, "no stale kernel caches, no variables that change a kernel")
    ]


def _flydsl_cache(host: Host) -> list[Finding]:
    home = host.environ.get("HOME", "/root")
    folder = host.environ.get("FLYDSL_RUNTIME_CACHE_DIR") or f"{home}/.flydsl/cache"
    kernels = sum(1 for _ in host.path(folder).glob("*/*.pkl"))
    if not kernels:
        return []
    detail = (
        f"{kernels} kernels in {folder}: no key has the gates, so a hit may be the other setting's kernel"
    )
    remedy = f"rm -r {folder} before a gate is changed in serving (autotune itself uses folders of its own)"
    return [Finding("FlyDSL's cache", State.WARNING, detail, remedy)]


def _gates(host: Host) -> list[Finding]:
    found = []
    for name in GATES.values():
        value = host.environ.get(name)
        if value is not None:
            state = "on" if value in _ON else "off"
            detail = f"{value!r} means {state} (on is {', '.join(_ON)} and nothing else)"
            found.append(
                Finding(name, State.WARNING, detail, f"unset {name}: autotune sets it for each candidate")
            )
    return found


def _tiles(host: Host) -> list[Finding]:
    found = []
    for name in _TILES:
        value = host.environ.get(name)
        if value is None:
            continue
        if value and not value.strip().isdecimal():
            detail = f"{value!r} is no number: AITER drops it, and with it what it would have read after it"
        elif name.endswith("_M"):
            detail = f"{value!r}: unlike the sort's block size it gives wrong numbers"
        else:
            detail = f"{value!r}: no default is the shipped one with it"
        found.append(Finding(name, State.WARNING, detail, f"unset {name}"))
    return found


def _tables(host: Host) -> list[Finding]:
    found = []
    named = host.environ.get("AITER_CONFIG_FMOE")
    if named:
        detail = f"{named}: it replaces every table that AITER ships"
        found.append(Finding("AITER_CONFIG_FMOE", State.NOTE, detail))
    if host.path(_MERGED_TABLE).is_file():
        detail = f"{_MERGED_TABLE} was merged by an earlier process, and is again when AITER is next imported"
        found.append(Finding("AITER's merged table", State.NOTE, detail))
    return found
