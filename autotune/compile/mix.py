"""What kinds of instructions a gfx9 kernel is made of."""

from collections import Counter

from autotune.compile.isa import instruction_counts

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
