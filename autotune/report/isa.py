"""Sets two candidates' machine code side by side."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from autotune.compile.isa import instruction_counts
from autotune.protocol.backend import Listing
from autotune.space.config import Config

_FACTS = {
    "vgprs": "VGPR per lane",
    "agprs": "AGPR per lane",
    "sgprs": "SGPR per wave",
    "spills": "spilled VGPR",
    "lds_bytes": "LDS bytes per workgroup",
    "workgroups_per_cu": "workgroups per CU",
    "waves_per_simd": "waves per SIMD",
    "instructions": "instructions",
}


def facts_of(listing: Listing) -> dict[str, int]:
    """Static facts and instruction mix under one set of names; what the code does not tell is left out."""
    facts = asdict(listing.compiled.facts)
    named = {name: facts[name] for name in _FACTS if facts[name] is not None}
    return named | instruction_mix(listing.text)


def compare(configs: Sequence[Config], listings: Sequence[Listing]) -> dict[str, Any]:
    """Both columns and their difference, as JSON-ready values; instructions are counted in the text, once."""
    a, b = (facts_of(listing) for listing in listings)
    names = [*a, *(name for name in b if name not in a)]
    return {
        "a": dict(configs[0]),
        "b": dict(configs[1]),
        "same_code": listings[0].compiled.binary_hash == listings[1].compiled.binary_hash,
        "compile_s": [round(listing.compiled.seconds, 2) for listing in listings],
        "facts": {
            name: {"a": a.get(name, 0), "b": b.get(name, 0), "b-a": b.get(name, 0) - a.get(name, 0)}
            for name in names
        },
    }


def print_comparison(compared: dict[str, Any], title: str) -> None:
    """Prints what `compare` made, for people."""
    from rich.table import Table

    from autotune.report.console import Console

    console = Console()
    console.print(title, style="bold", highlight=False)
    a, b = Config(compared["a"]), Config(compared["b"])
    for name, config in (("A", a), ("B", b)):
        console.print(f"  {name}: {config}", highlight=False, soft_wrap=True)
    table = Table("", *(f"[bold]{name}" for name in ("A", "B", "B - A")), box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, row in compared["facts"].items():
        changed = f"{row['b-a']:+}" if row["b-a"] else ""
        table.add_row(_FACTS.get(name, name), str(row["a"]), str(row["b"]), changed)
    console.print(table, highlight=False)
    if compared["same_code"]:
        console.print("One program: the machine code is the same.", highlight=False)


# The first kind whose prefix fits counts: kinds below are what is left.
_KINDS = {
    "s_waitcnt": ("s_waitcnt",),
    "mfma": ("v_mfma", "v_smfmac"),
    "ds_read": ("ds_read",),
    "ds_write": ("ds_write",),
    "ds_other": ("ds_",),
    "buffer_load": ("buffer_load",),
    "buffer_store": ("buffer_store",),
    "buffer_atomic": ("buffer_atomic",),
    "global_load": ("global_load", "flat_load"),
    "global_store": ("global_store", "flat_store"),
    "global_atomic": ("global_atomic", "flat_atomic"),
    "scratch": ("scratch_",),
    "s_load": ("s_load", "s_buffer_load"),
    "s_barrier": ("s_barrier",),
    "branch": ("s_branch", "s_cbranch"),
    "s_nop": ("s_nop",),
    "scalar": ("s_",),
    "vector": ("v_",),
}


def instruction_mix(text: str) -> dict[str, int]:
    """Instructions by kind, in a fixed order; static counts, loops are counted once.

    Args:
        text: assembly of one kernel. PTX, which has other names, gives no kinds.
    """
    mix: Counter[str] = Counter()
    for name, count in instruction_counts(text).items():
        kind = next((kind for kind, prefixes in _KINDS.items() if name.startswith(prefixes)), None)
        if kind is not None:
            mix[kind] += count
    return {kind: mix[kind] for kind in _KINDS if mix[kind]}
