#!/usr/bin/env python
"""Makes `search_spaces/BACKEND/leaders.json` from recorded tables: see `autotune/search/leaders.py`.

python scripts/leaders.py db/tables/h100-{kimi,qwen3,gpt-oss}*.table.json.gz
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autotune.errors import UserError
from autotune.problem.layer import Stage
from autotune.replay.files import read_table
from autotune.replay.table import StageTable, Table
from autotune.resources import data_dir
from autotune.search.leaders import FILE
from autotune.space.config import Config

TOP = 5  # of each table and token count


def leaders_of(tables: Sequence[Table]) -> dict[str, Any]:
    """The file's content: by arch and stage the configs that lead anywhere, and their times everywhere."""
    content: dict[str, Any] = {}
    for arch in sorted({table.fingerprint.arch for table in tables}):
        here = [table for table in tables if table.fingerprint.arch == arch]
        content[arch] = {}
        for stage in Stage:
            parts = {table.layer.key: (table, table.stages[stage]) for table in here if stage in table.stages}
            ahead = dict.fromkeys(
                config
                for table, part in parts.values()
                for tokens in table.tokens
                for config in _top(part, tokens)
            )
            knobs = sorted(next(iter(ahead)))
            known = [config for config in ahead if sorted(config) == knobs]
            content[arch][stage] = {
                "knobs": knobs,
                "configs": [[config[knob] for knob in knobs] for config in known],
                "ratios": {
                    key: [[_ratio(part, config, tokens) for tokens in table.tokens] for config in known]
                    for key, (table, part) in parts.items()
                },
            }
    return content


def _top(part: StageTable, tokens: int) -> list[Config]:
    timed = [(us, row.config.key, row.config) for row in part.rows if (us := row.us(tokens)) is not None]
    return [config for _, _, config in sorted(timed)[:TOP]]


def _ratio(part: StageTable, config: Config, tokens: int) -> float | None:
    row = part.by_config.get(config)
    us = row.us(tokens) if row else None
    return None if us is None else round(us / part.optimum(tokens)[1], 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("tables", nargs="+", type=Path)
    options = parser.parse_args()
    tables = [read_table(path) for path in options.tables]
    for backend in sorted({table.fingerprint.backend for table in tables}):
        content = leaders_of([table for table in tables if table.fingerprint.backend == backend])
        path = data_dir("search_spaces") / backend / FILE
        path.write_text(json.dumps(content, separators=(",", ":")).replace("],[", "],\n[") + "\n")
        print(f"wrote {path}, {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
