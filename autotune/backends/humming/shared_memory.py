"""How much shared memory a block takes, as rules of the space: humming's own sum (`utils/smem.py`).

It depends on the group of the scales, which a space file does not know.
"""

from autotune.backends.humming.rows import Row
from autotune.space.expressions import Expression
from autotune.space.space import Rule


def shared_memory_rules(row: Row) -> tuple[Rule, ...]:
    """A block's need against what it may have, and that of all blocks of an SM."""
    size = _block_bytes(row)
    return (
        Rule(
            "shared-memory",
            Expression.parse(f"{size} <= lds_bytes"),
            "the pipeline's stages and the output's tile must fit the shared memory of a block",
        ),
        Rule(
            "shared-memory-of-all",
            Expression.parse(f"ctas_per_sm * ({size}) <= lds_bytes"),
            "blocks that wait for each other's parts along K must be on their SM at the same time",
        ),
    )


def _block_bytes(row: Row) -> str:
    """An expression. Every buffer begins at a multiple of 128 bytes, a stage and the whole at one of 1024."""
    activations = f"block_m * block_k * {row.activation_bits} // 8"
    if row.activation_bits == 8:  # INT4 by ldmatrix: the weights begin at a multiple of 1024
        weights = f"ceil_div({activations}, 1024) * 1024 + block_n * block_k // 2"
    else:
        weights = f"ceil_div({activations}, 128) * 128 + block_n * block_k // 2"
    scales = f" + ceil_div(block_k, {row.group}) * block_n * 2" if row.group else ""
    stage = f"ceil_div({weights}{scales}, 1024) * 1024"
    of_rows = "ceil_div(block_n * 2, 128) * 128 + block_m * 4" if row.activation_bits == 8 else "block_n * 2"
    channel = f"ceil_div({of_rows}, 1024) * 1024" if not row.group else "0"
    splits = "(block_k // warp_k)"
    partial = f"(block_n * 64 * ({splits} - 1 if {splits} <= 4 else {splits} // 2))"
    tile = f"max({partial}, block_m * block_n * 2)"
    kept = "(num_stages if smem_reuse == 'none' else num_stages - 1 if smem_reuse == 'last_stage' else 0)"
    union = f"ceil_div(max({stage} * num_stages, {stage} * {kept} + {tile}), 1024) * 1024"
    rows = "block_m * 4 * (4 if warp_spec else 2)"  # an indexed GEMM's row numbers
    barriers = "(num_stages + 2) * 8 + ((num_stages + 1) * 8 if warp_spec else 0)"
    rest = f"(ceil_div({rows}, 128) * 128 + {barriers} if warp_spec or tma else {rows})"
    return f"ceil_div({channel} + {union} + {rest}, 1024) * 1024"
