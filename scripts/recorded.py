#!/usr/bin/env python
"""Makes `search_spaces/BACKEND/recorded.json` from recorded tables: see `autotune/search/recorded.py`.

python scripts/recorded.py db/tables/*.table.json.gz
"""

import argparse
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from autotune.errors import UserError
from autotune.problem.layer import Stage
from autotune.replay.files import read_table
from autotune.replay.table import Table
from autotune.resources import data_dir
from autotune.search.recorded import FILE, Recorded, packed

TOP = 15  # of each token count


def part_of(table: Table, stage: Stage) -> Recorded:
    """A table's stage: the configs that lead at a token count, then the others in random order."""
    part = table.stages[stage]
    times = np.array([[row.us(tokens) or np.nan for tokens in table.tokens] for row in part.rows])
    times /= [part.optimum(tokens)[1] for tokens in table.tokens]
    leading = dict.fromkeys(
        int(row)
        for column in times.T
        for row in np.argsort(column, kind="stable")[:TOP]
        if np.isfinite(column[row])
    )
    rest = [row for row in range(len(part.rows)) if row not in leading and not np.isnan(times[row]).all()]
    chosen = [*leading, *random.Random(0).sample(rest, len(rest))]
    configs = [part.rows[row].config for row in chosen]
    knobs = {param.name: list(param.values) for param in table.space(table.tokens[0], stage).params}
    return Recorded(table.layer, table.tokens, knobs, configs, times[chosen])


def content(tables: Sequence[Table]) -> dict[str, Any]:
    """The file's content, by arch, stage and layer."""
    made: dict[str, Any] = {}
    for table in tables:
        for stage in table.stages:
            at = made.setdefault(table.fingerprint.arch, {}).setdefault(stage.value, {})
            at[table.layer.key] = packed(part_of(table, stage))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("tables", nargs="+", type=Path)
    options = parser.parse_args()
    tables = [read_table(path) for path in options.tables]
    for backend in sorted({table.fingerprint.backend for table in tables}):
        of = [table for table in tables if table.fingerprint.backend == backend]
        path = data_dir("search_spaces") / backend / FILE
        path.write_text(json.dumps(content(of), separators=(",", ":")).replace("],[", "],\n[") + "\n")
        print(f"wrote {path}, {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
