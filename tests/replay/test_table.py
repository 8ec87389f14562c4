"""What a table says of its configs."""

import random
from dataclasses import replace

import pytest

from autotune.errors import UserError
from autotune.problem.layer import Stage
from autotune.replay.table import StageTable, Table
from autotune.results import Measurement


def test_the_optimum_is_a_settled_time_where_there_is_one(table: Table) -> None:
    part = table.stages[Stage.STAGE1]
    lucky, least = part.optimum(1)
    settled = tuple(
        replace(row, settled={1: least * 1.2} if row.config == lucky else {}) for row in part.rows
    )
    other = next(row.config for row in part.rows if row.config != lucky)
    settled = tuple(replace(row, settled={1: least * 1.1}) if row.config == other else row for row in settled)
    assert StageTable(part.space_text, settled).optimum(1) == (other, least * 1.1)


def test_its_space_is_exactly_what_was_recorded(table: Table) -> None:
    for stage in Stage:
        space = table.space(4, stage)
        recorded = table.stages[stage].by_config
        assert set(space) == set(recorded)
        assert space.size == len(recorded)
        assert space.default in recorded
        assert all(near in recorded for near in space.neighbours(space.default))
        assert space.sample(random.Random(0)) in recorded


def test_its_knobs_have_only_recorded_values(table: Table) -> None:
    split = next(p for p in table.space(4, Stage.STAGE1).params if p.name == "split_k")
    assert split.values == (1, 2, 7)


def test_what_was_not_recorded_is_told_with_what_was(table: Table) -> None:
    with pytest.raises(UserError, match="no stage1 at 3 tokens: it has stage1, stage2 at m1, m2, m4"):
        table.space(3, Stage.STAGE1)


def test_a_table_without_its_default_is_refused(table: Table) -> None:
    part = table.stages[Stage.STAGE1]
    without = StageTable(part.space_text, part.rows[1:])
    with pytest.raises(UserError, match="lacks the default"):
        replace(table, stages={Stage.STAGE1: without}).space(1, Stage.STAGE1)


def test_some_configs_failed(table: Table) -> None:
    rows = table.stages[Stage.STAGE1].rows
    assert any(not row.outcomes for row in rows)
    assert any(row.us(1) is None for row in rows)
    assert all(isinstance(row.outcomes[1], Measurement) for row in rows if row.us(1) is not None)
