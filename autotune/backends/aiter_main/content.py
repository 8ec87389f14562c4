"""The part of a bundle that AITER reads: our rows, and the list of tables in which they stand first."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path, PurePosixPath

from autotune.backends.aiter_main.csv import (
    COLUMNS,
    FILE_NAME,
    FOLDER,
    VARIABLE,
    FmoeKey,
    FmoeRow,
    Generation,
    bucket,
    columns_of,
    merge_list,
    table_csv,
    without_keys,
)
from autotune.engines.source import EngineSource
from autotune.protocol.content import Content, Place, Preview, Row
from autotune.protocol.key_table import looked_at

_SHIPPED = "aiter/configs"


def shipped_tables(source: EngineSource) -> dict[str, str]:
    """Paths and texts of the tables that an AITER merges by itself, in its order: the common one first."""
    names = [
        name
        for name in source.names(_SHIPPED)
        if name.endswith(".csv") and "tuned_fmoe" in name and "untuned" not in name and "grouped" not in name
    ]
    ordered = sorted(names, key=lambda name: (name.count("/"), name))
    return {name: source.text(name) for name in ordered}


def aiter_content(
    key: FmoeKey,
    rows: Iterable[FmoeRow],
    generation: Generation,
    place: Place,
    *,
    shipped: Mapping[str, str] | None = None,
    installed: str = "",
) -> Content:
    """Our table, and copies of shipped tables that have a row of the same key.

    Args:
        rows: one a bucket.
        shipped: tables of the serving AITER, path below its root to text; None: they are not known, and the
            variable then replaces them.
        installed: the root of the serving AITER, a path on the serving machine.

    Raises:
        UserError: two rows for one bucket, or an unknown table.
    """
    made = list(rows)
    shipped = shipped or {}
    columns: Sequence[str] = columns_of(next(iter(shipped.values()))) if shipped else COLUMNS[generation]
    if generation is Generation.MAIN and "gfx" not in columns:
        columns = ["gfx", *columns]
    ours = table_csv(key, made, columns)
    files = {f"{FOLDER}/{FILE_NAME}": ours}
    paths = [f"{place.folder}/{FOLDER}/{FILE_NAME}"]
    replaced = []
    for name, text in shipped.items():
        left = without_keys(text, ours)
        if left is None:
            paths.append(str(PurePosixPath(installed) / name))
        else:
            copy = f"{FOLDER}/{Path(name).name}"
            files[copy] = left
            paths.append(f"{place.folder}/{copy}")
            replaced.append(name)
    return Content(
        files=files,
        variables={VARIABLE: merge_list(paths)},
        lookups={"aiter": _lookup(key, made, generation)},
        previews=(_preview(made, generation),),
        notes=_notes(shipped, replaced),
    )


def _lookup(key: FmoeKey, rows: Sequence[FmoeRow], generation: Generation) -> dict[str, object]:
    by_bucket = {row.tokens: row for row in rows}
    intended = {
        str(m): {
            "kernelName1": by_bucket[bucket(m, generation)].kernel1,
            "kernelName2": by_bucket[bucket(m, generation)].kernel2,
        }
        for m in looked_at(by_bucket)
        if bucket(m, generation) in by_bucket
    }
    return {"key": asdict(key), "generation": str(generation), "intended": intended}


def _preview(rows: Sequence[FmoeRow], generation: Generation) -> Preview:
    by_bucket = {row.tokens: row for row in rows}
    shown = []
    for m in looked_at(by_bucket):
        rounded = bucket(m, generation)
        row = by_bucket.get(rounded)
        text = f"block_m={row.block_m} {row.kernel1} + {row.kernel2}" if row else "as shipped"
        shown.append(Row(m, rounded, "tuned" if row else "no row of ours", text))
    return Preview(f"{FOLDER}/{FILE_NAME}", tuple(shown))


def _notes(shipped: Mapping[str, str], replaced: Sequence[str]) -> tuple[str, ...]:
    if not shipped:
        return (
            f"{VARIABLE} replaces AITER's shipped tables; export with --aiter-source to merge with them.",
        )
    return tuple(
        f"{name} has rows with our keys: a copy without them is in the bundle, as a merge of both would raise"
        for name in replaced
    )
