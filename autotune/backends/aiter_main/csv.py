"""Rows for AITER's table of tuned fused-MoE kernels, which `AITER_CONFIG_FMOE` names.

Rules as in ROCm/aiter, `aiter/fused_moe.py` and `aiter/jit/core.py`, at main of August 2026:

- A row matches by equality of every key column; tokens are rounded up to a bucket first, so the row for 4
  serves 3 and 4.
- The variable replaces all shipped tables. A list joined with `os.pathsep` is merged: where a key comes twice
  this raises, after it has rewritten the source files. Of equal keys that it lets pass the first row wins.
"""

import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from autotune.errors import UserError

FOLDER: Final = "aiter"
FILE_NAME: Final = "autotune_fmoe.csv"
VARIABLE: Final = "AITER_CONFIG_FMOE"
DECODE_VARIABLE: Final = "AITER_CONFIG_FMOE_DECODE"
"""Names the one table that newer AITERs read while the server has told them that it decodes, with
`set_moe_regime("decode")`. A shape that it lacks gets AITER's heuristics, whatever other tables have."""

KEY_COLUMNS: Final = (
    *("cu_num", "token", "model_dim", "inter_dim", "expert", "topk", "act_type", "dtype"),
    *("q_dtype_a", "q_dtype_w", "q_type", "use_g1u1", "doweight_stage1"),
)
_VALUE_COLUMNS: Final = (
    *("block_m", "ksplit", "us1", "kernelName1", "err1", "us2", "kernelName2", "err2", "us", "run_1stage"),
)


COLUMNS: Final = ("gfx", *KEY_COLUMNS, *_VALUE_COLUMNS, "xbf16", "flat", "tflops", "bw", "_tag")
"""Where no installed table tells them."""

_DEFAULTS: Final = {
    **dict.fromkeys(("ksplit", "run_1stage", "xbf16", "flat", "tflops", "bw"), "0"),
    "nt": "0",  # as it was measured: no non-temporal hint besides the kernel's own
}


def bucket(tokens: int) -> int:
    """The token count by which AITER main looks a batch up."""
    return 1 << (tokens - 1).bit_length() if tokens < 32768 else 32768 if tokens < 131072 else 131072


@dataclass(frozen=True)
class FmoeKey:
    """What AITER asks a row by, apart from the tokens.

    Attributes:
        gfx: `gfx942`.
        act_type, dtype, q_dtype_a, q_type: as Python prints AITER's and torch's values.
        q_dtypes_w: every name under which an engine may ask: SGLang and vLLM hold INT4 as `torch.uint32`,
            AITER's own tuner writes `torch.int4`. Each gets a row.
    """

    gfx: str
    cu_num: int
    model_dim: int
    inter_dim: int
    experts: int
    top_k: int
    q_dtype_a: str
    q_dtypes_w: tuple[str, ...]
    q_type: str = "QuantType.per_Token"
    act_type: str = "ActivationType.Silu"
    dtype: str = "torch.bfloat16"
    use_g1u1: bool = True
    doweight_stage1: bool = False


@dataclass(frozen=True)
class FmoeRow:
    """What a row chooses, for one bucket.

    Attributes:
        tokens: the bucket.
        us1, us2: measured microseconds of the stages.
        error1, error2: relative errors of the numeric gate.
    """

    tokens: int
    block_m: int
    kernel1: str
    kernel2: str
    us1: float
    us2: float
    error1: float = 0.0
    error2: float = 0.0
    ksplit: int = 0


def table_csv(key: FmoeKey, rows: Iterable[FmoeRow], columns: Sequence[str]) -> str:
    """The table, ascending by tokens.

    Args:
        columns: of the tables that it will be merged with, in their order.

    Raises:
        UserError: two rows for one bucket, or a key column that this tool does not know.
    """
    ordered = sorted(rows, key=lambda row: row.tokens)
    counts = [row.tokens for row in ordered]
    twice = sorted({count for count in counts if counts.count(count) > 1})
    if twice:
        raise UserError(
            f"two rows for the bucket of {twice[0]} tokens: AITER refuses duplicate keys, choose one for both"
        )
    missing = [name for name in KEY_COLUMNS if name not in columns]
    if missing:
        raise UserError(f"AITER's table has no column {missing[0]}: this generation is not supported")
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for row in ordered:
        for q_dtype_w in key.q_dtypes_w:
            writer.writerow(dict.fromkeys(columns, "") | _defaults(columns) | _cells(key, row, q_dtype_w))
    return out.getvalue()


def _defaults(columns: Sequence[str]) -> dict[str, str]:
    return {name: value for name, value in _DEFAULTS.items() if name in columns}


def _cells(key: FmoeKey, row: FmoeRow, q_dtype_w: str) -> dict[str, str]:
    return {
        "gfx": key.gfx,
        "cu_num": str(key.cu_num),
        "token": str(row.tokens),
        "model_dim": str(key.model_dim),
        "inter_dim": str(key.inter_dim),
        "expert": str(key.experts),
        "topk": str(key.top_k),
        "act_type": key.act_type,
        "dtype": key.dtype,
        "q_dtype_a": key.q_dtype_a,
        "q_dtype_w": q_dtype_w,
        "q_type": key.q_type,
        "use_g1u1": str(int(key.use_g1u1)),
        "doweight_stage1": str(int(key.doweight_stage1)),
        "block_m": str(row.block_m),
        "ksplit": str(row.ksplit),
        "us1": f"{row.us1:.4f}",
        "kernelName1": row.kernel1,
        "err1": f"{row.error1:.1%}",
        "us2": f"{row.us2:.4f}",
        "kernelName2": row.kernel2,
        "err2": f"{row.error2:.1%}",
        "us": f"{row.us1 + row.us2:.4f}",
    }


def columns_of(table: str) -> list[str]:
    """The columns of a table's text."""
    return next(csv.reader(io.StringIO(table)), [])


def without_keys(shipped: str, ours: str) -> str | None:
    """A shipped table's text without the rows whose keys are in `ours`; None: it has none of them.

    A merge of both would raise, and rewrite the installed file before it does.
    """
    taken = {_key(row) for row in csv.DictReader(io.StringIO(ours))}
    reader = csv.DictReader(io.StringIO(shipped))
    columns, rows = list(reader.fieldnames or ()), list(reader)
    kept = [row for row in rows if _key(row) not in taken]
    if len(kept) == len(rows):
        return None
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(kept)
    return out.getvalue()


def with_shipped(ours: str, shipped: Iterable[str], key: FmoeKey) -> str:
    """Our table's text with the rows that shipped tables have for this GPU and other keys.

    Columns that a shipped table lacks are filled with what a row without them means.
    """
    reader = csv.DictReader(io.StringIO(ours))
    columns, rows = list(reader.fieldnames or ()), list(reader)
    known = {_key(row) for row in rows}
    for text in shipped:
        for row in csv.DictReader(io.StringIO(text)):
            here = row.get("cu_num") == str(key.cu_num) and row.get("gfx", key.gfx) == key.gfx
            if here and _key(row) not in known:
                known.add(_key(row))
                given = {name: value for name, value in row.items() if name in columns and value is not None}
                rows.append(dict.fromkeys(columns, "") | _defaults(columns) | {"gfx": key.gfx} | given)
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _key(row: Mapping[str, str]) -> tuple[str, ...]:
    # Without gfx: a table that lacks the column gets it from cu_num, so equal keys stay equal.
    return tuple(row.get(name, "") for name in KEY_COLUMNS)


def merge_list(paths: Sequence[str]) -> str:
    """The variable's value: our table first, since of equal keys the first row wins.

    Raises:
        UserError: a path that has the separator in it.
    """
    for path in paths:
        if os.pathsep in path:
            raise UserError(f"{path!r} holds {os.pathsep!r}, at which AITER splits the list: move the bundle")
    return os.pathsep.join(paths)
