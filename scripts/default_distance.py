#!/usr/bin/env python
"""How far defaults of our kernels are from the optimum of every recorded table, before and after a change.

    python scripts/default_distance.py
    python scripts/default_distance.py --before /tmp/old/search_spaces/triton

Times are replayed: each is the table's, of the stack that it was recorded on. `before` is the default of the
spaces in that folder, by default of the space that the table itself carries; `after` is that of this tree's.
Knobs that a table does not have are left out of a default.

`left out` judges the rule on tables that it was not fitted on. Each table is left out in turn, and every
branch of this tree's rule takes the config that is best in that branch on the other tables (of those
recorded on all, so that it can be judged); the table that was left out tells how far off it is. Where the
others have nothing in a branch, what is best on all that they have stands in. The branches themselves were
chosen with every table in sight: of these it says nothing.
"""

import argparse
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from autotune.errors import UserError
from autotune.problem.layer import Stage
from autotune.replay.files import SUFFIX, read_table
from autotune.replay.table import StageTable, Table
from autotune.resources import data_dir
from autotune.space.config import Config
from autotune.space.read import load_spaces, shipped_spaces
from autotune.space.space import Space

Distance = float | None
"""A time over the optimum's, less one; None: the config was not recorded."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        tables = [read_table(path) for path in options.tables or sorted(_folder().glob(f"*{SUFFIX}"))]
        paths = sorted(options.before.glob("*.toml")) if options.before else []
        before = {stage: space for path in paths for stage, space in load_spaces(path).items()}
    except UserError as error:
        print(f"default_distance: {error}", file=sys.stderr)
        return 2
    after = shipped_spaces("triton")
    print("replayed times; distance of a default from the table's optimum, percent")
    for stage in Stage:
        found: dict[str, list[Distance]] = {"before": [], "after": [], "left out": []}
        branches = _branches(tables, after[stage])
        for table in tables:
            part = table.stages[stage]
            rows = {
                "before": [_default(table, part, before.get(stage, part.space), m) for m in table.tokens],
                "after": [_default(table, part, after[stage], m) for m in table.tokens],
                "left out": _left_out(tables, table, stage, branches),
            }
            for name, distances in rows.items():
                found[name] += distances
                cells = " ".join(f"{'-':>6}" if d is None else f"{d:6.1%}" for d in distances)
                print(f"{stage} {table.layer.key:44} {name:8} {cells}  {_summary(distances)}")
        for name, distances in found.items():
            print(f"{stage} {'all':44} {name:8} {_summary(distances)}")
    return 0


def _default(table: Table, part: StageTable, space: Space, tokens: int) -> Distance:
    config = space.at(table.layer, tokens, table.device).default
    recorded = next(iter(part.by_config))
    return _distance(part, Config({name: config[name] for name in recorded if name in config}), tokens)


def _distance(part: StageTable, config: Config | None, tokens: int) -> Distance:
    row = None if config is None else part.by_config.get(config)
    us = None if row is None else row.us(tokens)
    return None if us is None else us / part.optimum(tokens)[1] - 1


Branches = Mapping[tuple[str, int], Config]
"""The default of a table's layer at so many tokens: what tells one branch of a rule from another."""


def _branches(tables: Sequence[Table], space: Space) -> Branches:
    return {
        (table.layer.key, tokens): space.at(table.layer, tokens, table.device).default
        for table in tables
        for tokens in table.tokens
    }


def _left_out(tables: Sequence[Table], judged: Table, stage: Stage, branches: Branches) -> list[Distance]:
    """Distances on `judged` of a rule with these branches, fitted on all other tables."""
    part = judged.stages[stage]
    cells = [
        (table.stages[stage], tokens, branches[table.layer.key, tokens])
        for table in tables
        if table is not judged
        for tokens in table.tokens
    ]
    best = {
        branch: _best(part, [(other, m) for other, m, at in cells if at == branch])
        for branch in {at for *_, at in cells}
    }
    stands_in = _best(part, [(other, m) for other, m, _ in cells])
    return [_distance(part, best.get(branches[judged.layer.key, m], stands_in), m) for m in judged.tokens]


def _best(judged: StageTable, cells: Sequence[tuple[StageTable, int]]) -> Config | None:
    """The config with the least mean logarithm of its time over the optimum's; None: there is none on all."""
    common = set(judged.by_config).intersection(*(part.by_config for part, _ in cells))
    optimum = [part.optimum(m)[1] for part, m in cells]

    def score(config: Config) -> float:
        times = [part.by_config[config].us(m) for part, m in cells]
        return sum(
            math.inf if us is None else math.log(us / least) for us, least in zip(times, optimum, strict=True)
        )

    return min(sorted(common, key=lambda config: config.key), key=score, default=None)


def _summary(distances: Sequence[Distance]) -> str:
    known = [distance for distance in distances if distance is not None]
    missing = len(distances) - len(known)
    text = f"median {statistics.median(known):.1%}, most {max(known):.1%}" if known else "nothing recorded"
    return text + (f" ({missing} not recorded)" if missing else "")


def _folder() -> Path:
    return data_dir("db") / "tables"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--before", type=Path, help="a folder of search-space files")
    parser.add_argument("tables", nargs="*", type=Path, help="recorded tables; default: those in db/tables")
    return parser


if __name__ == "__main__":
    sys.exit(main())
