"""From a run to a bundle where one setting serves every shape, over the stand-in AITER on the CPU.

There stage 1's gate is slow at every shape, and stage 2's long tile fast in decoding and slow in prefill:
the winner at 4 tokens is not what may be exported.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from autotune.backends.aiter.knobs import PUBLISHED
from autotune.cli.progress import Progress
from autotune.errors import UserError
from autotune.export.export import Plan, Selection, plan, write
from autotune.export.process_setting import SettingsTable, TimedShape, decision_lines, program_of
from autotune.machine.devices import DEVICES
from autotune.machine.targets import Kind, Target
from autotune.problem.layer import Problem, Stage
from autotune.problem.routing import Routing
from autotune.protocol.exporter import Place
from autotune.protocol.mix import Mix
from autotune.results import Confirmation, Finalist, LayerConfig, Round
from autotune.space.config import Config
from autotune.store.store import Store
from autotune.tuning.context import Tuning
from autotune.tuning.process_settings import guard_problems, time_settings
from autotune.tuning.run import RunRequest, run
from autotune.verify.verify import verify_bundle
from tests.backends.aiter.conftest import Launches
from tests.backends.aiter.on_cpu import LAYER, AiterOnCpu
from tests.export.winners import fingerprint
from tests.measure.conftest import QUICK
from tests.spaces import KIMI
from tests.standins import PUBLISHED_TREE, SITE, python_with_wheel

GUARDS = (24, 129)
MEASURING = replace(
    QUICK,
    cold=1.0,
    steps=1,
    window_s=0.01,
    warmup_s=0.01,
    min_sample_us=1.0,
    select_rounds=2,
    judge_rounds=4,
)


@pytest.fixture
def store(
    own_database: Path, launches: Launches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Store]:
    monkeypatch.setenv("AUTOTUNE_FLYDSL_PYTHON", str(python_with_wheel(tmp_path)))
    with Store.open(own_database) as opened:
        yield opened


def asked(*problems: Problem, guards: tuple[int, ...] = GUARDS) -> RunRequest:
    return RunRequest(
        backend=AiterOnCpu.name,
        problems=problems,
        target=Target("live", DEVICES["mi325x"], live=True, why="for the test"),
        trials=2,  # the default, and what was published
        seed=0,
        sampler="random",
        workers=1,
        measuring=MEASURING,
        guards=guards,
    )


def planned(store: Store, guards: tuple[int, ...] = GUARDS) -> Plan:
    return plan(store, Selection(AiterOnCpu.name), Place("/opt/b"), mix=Mix({}, guards))


@pytest.mark.slow
def test_a_run_times_the_guards_and_the_export_chooses_and_verify_finds_the_reads(
    store: Store, tmp_path: Path
) -> None:
    result = run(asked(Problem(replace(LAYER, experts=4), 4)), store, Progress())
    (winner,) = result.best
    assert winner.config.stage2["tile_k"] == 256
    assert result.settings[-1].startswith("timed 3 process-wide settings at 4, 24, 129 tokens")

    made = planned(store)
    assert made.decision is not None
    lines = list(decision_lines(made.decision))
    assert sum("chosen: FLYDSL_MOE_STAGE1_SCHED=0" in line for line in lines) == 1, lines
    assert sum("AITER_FLYDSL_STAGE2_TILE_K=256" in line and "at 129 tokens" in line for line in lines) == 2
    assert any(
        "Tested on other routings: FLYDSL_MOE_STAGE1_SCHED=0:" in line and line.endswith("confirmed")
        for line in lines
    )
    assert "FLYDSL_MOE_STAGE1_SCHED=0\n" in made.files["autotune.env"]
    assert "TILE_K" not in made.files["autotune.env"]

    # The bundle says what it deploys, not what won at that shape alone.
    manifest = json.loads(made.files["manifest.json"])
    (entry,) = manifest["winners"]
    assert entry["config"]["stage1"]["sched"] is False
    assert entry["config"]["stage2"]["tile_k"] is None
    assert entry["gain_95"] == manifest["decision"]["tested"]["gains_95"]["4"]

    write(store, tmp_path / "deploy", made, allow_estimates=False)
    (found,) = verify_bundle(tmp_path / "deploy", engine=None, sources=[SITE, PUBLISHED_TREE])
    assert found.ok, found.reasons

    with pytest.raises(UserError, match="the guards 512 were not timed"):
        planned(store, guards=(24, 512))


def test_a_tile_written_out_is_the_same_program_as_the_unset_one_that_comes_to_it() -> None:
    backend = AiterOnCpu()
    for tokens, same in ((4, 256), (160, 128)):
        default = backend.space(LAYER, tokens, Stage.STAGE1, DEVICES["mi325x"]).default
        keys = {
            value: backend.artefact_key(LAYER, tokens, Stage.STAGE1, default.replaced(tile_k=value))
            for value in (None, 64, 128, 256)
        }
        assert [value for value in (64, 128, 256) if keys[value] == keys[None]] == [same]


def test_a_guard_is_prefill_and_one_that_is_a_shape_of_the_run_needs_no_other(store: Store) -> None:
    shapes = [Problem(KIMI, 4, concurrency, Routing("correlated", 0.5)) for concurrency in (1, 16)]
    made = guard_problems(asked(*shapes, guards=(64, 512, 4096)), AiterOnCpu())
    # Every token a sequence of its own: no draft tokens that share experts.
    assert made == [Problem(KIMI, 1, 512), Problem(KIMI, 1, 4096)]
    zipf = guard_problems(asked(Problem(KIMI, 4, 1, Routing("zipf", 1.0)), guards=(64,)), AiterOnCpu())
    assert [one.routing.kind for one in zipf] == ["zipf"]
    assert guard_problems(asked(*shapes, guards=()), AiterOnCpu()) == []


class TimesNothing:
    """A judge that notes what it is asked to time."""

    kind, workload = Kind.MEASURED, "cold"

    def __init__(self) -> None:
        self.asked: dict[int, list[LayerConfig]] = {}
        self.twins: dict[int, Mapping[int, int]] = {}

    def again(self, problem: Problem, stage: Stage, config: Config) -> None:
        return None

    def confirm(self, problem: Problem, finalists: Sequence[Finalist]) -> Confirmation:
        raise NotImplementedError

    def time_all(
        self, problem: Problem, finalists: Sequence[Finalist], twins: Mapping[int, int]
    ) -> Confirmation:
        self.asked[problem.tokens] = [finalist.config for finalist in finalists]
        self.twins[problem.tokens] = twins
        rounds = (Round(tuple({"layer": 10.0} for _ in finalists)),) * 2
        return Confirmation(problem, tuple(finalists), rounds, (0.0,) * len(finalists), 0, 0.0, 0.0, 0.0)


def told_of(store: Store, judge: TimesNothing, configs: Sequence[LayerConfig]) -> list[str]:
    """What the user is told where these configs, the default first, came out of a final at 4 tokens."""
    backend, problem = AiterOnCpu(), Problem(KIMI, 4)
    labels = ("default", *["candidate"] * (len(configs) - 1))
    environment = fingerprint(backend=AiterOnCpu.name)
    final = Confirmation(
        problem,
        tuple(Finalist(label, config) for label, config in zip(labels, configs, strict=True)),
        (Round(tuple({"layer": us} for us in (10.0, 8.0, 9.0))),) * 2,
        (0.0, 0.0, 0.0),
        1,
        *(0.2, 0.2, 0.2),
    )
    request = asked(problem, guards=(64, 512, 4096))
    id_ = store.begin_run("autotune run", {}, 0, environment)
    stored = store.record_confirmation(
        id_, final, backend=AiterOnCpu.name, environment=environment, workload="cold"
    )
    store.record_winner(id_, stored)
    tuning = Tuning(request, store, Progress(), backend, environment, id_)
    made = time_settings(tuning, judge, store.winners())
    assert [table.confirmation.problem.tokens for table in store.tables(id_)] == [4, 64, 512, 4096]
    return made


def what_ships() -> tuple[Config, Config]:
    backend = AiterOnCpu()
    one, two = (backend.space(KIMI, 4, stage, DEVICES["mi325x"]).default for stage in Stage)
    return one, two


def test_what_prefill_cannot_have_is_not_timed_and_the_user_is_told(store: Store) -> None:
    one, two = what_ships()
    judge = TimesNothing()
    # 1,792 columns fit the LDS in blocks of 16 rows, and not in those of 64 that 4,096 tokens have.
    told = told_of(store, judge, [LayerConfig(one, two.replaced(tile_n=n)) for n in (None, 1792, 448)])
    assert told[0].startswith("AITER_FLYDSL_STAGE2_TILE_N=1792 cannot serve every shape: at 512 tokens")
    assert told[1].startswith("timed 1 process-wide setting at 4, 64, 512, 4096 tokens")
    assert {tokens: [c.stage2["tile_n"] for c in asked] for tokens, asked in judge.asked.items()} == {
        tokens: [None, 448] for tokens in (4, 64, 512, 4096)
    }


def test_settings_that_come_to_one_program_at_a_shape_are_timed_once_there(store: Store) -> None:
    one, two = what_ships()
    judge = TimesNothing()
    # 256 is what an unset tile comes to at up to 128 tokens; with blocks of 32 and 64 rows it is 128.
    told_of(store, judge, [LayerConfig(one.replaced(tile_k=k), two) for k in (None, 256, 128)])
    assert judge.twins == {4: {1: 0}, 64: {1: 0}, 512: {2: 0}, 4096: {2: 0}}


def test_a_setting_counts_where_its_program_was_timed_under_another_name(launches: Launches) -> None:
    """One run timed the long tile at 512 tokens; at 4 another timed the default, which is that program."""
    backend = AiterOnCpu()

    def timed(run: int, tokens: int, tile_k: int, us: float) -> TimedShape:
        one, two = (backend.space(KIMI, tokens, stage, DEVICES["mi325x"]).default for stage in Stage)
        finalists = (
            Finalist("default", LayerConfig(one, two)),
            Finalist("setting 1", LayerConfig(one.replaced(tile_k=tile_k), two)),
        )
        rounds = (Round(({"layer": 10.0}, {"layer": us})),) * 6
        table = Confirmation(Problem(KIMI, 1, tokens), finalists, rounds, (0.0, 0.0), 0, 0.0, 0.0, 0.0)
        return TimedShape(run, table, MEASURING)

    shapes = [timed(1, 512, 256, 8.0), timed(2, 4, 128, 12.0)]
    table = SettingsTable(shapes, PUBLISHED, program_of(backend, KIMI))
    long = (("AITER_FLYDSL_STAGE1_TILE_K", "256"),)
    assert table.choosing()[long] == {4: 10.0, 512: 8.0}
    assert table.testing(long, 4) == ([10.0] * 4, [10.0] * 4)
