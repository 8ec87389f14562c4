"""`--target replay:TABLE`: a whole run without a GPU, whose times are never taken for measured ones."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from autotune.cli import app
from autotune.errors import UserError
from autotune.export.export import Selection, select
from autotune.machine.targets import Kind
from autotune.protocol.backend import one_config
from autotune.protocol.registry import load_backend
from autotune.replay.files import write_table
from autotune.replay.table import Table
from autotune.replay.target import ReplayBackend
from autotune.report.content import Scope, gather
from autotune.report.markdown import markdown
from autotune.report.page import page
from autotune.search.driver import Task
from autotune.search.study import StageSearch
from autotune.store.store import Store
from autotune.tuning.run import RunRequest, RunResult, run
from autotune.tuning.targets import resolve_target


class Silent:
    resumed = 0

    def on_start(self, tasks: dict[Task, StageSearch], *, resumed: int) -> None:
        self.resumed = resumed

    def on_trial(self, trial: object, search: StageSearch) -> None:
        pass

    def on_confirm(self, problem: object, contenders: int) -> None:
        pass


def replayed(table: Table, path: Path, store: Store, listener: Silent, *, trials: int = 40) -> RunResult:
    request = RunRequest(
        backend="triton",
        problems=table.problems,
        target=resolve_target(f"replay:{path}"),
        trials=trials,
        seed=0,
        sampler="joint",
        workers=4,
    )
    return run(request, store, listener)


def test_a_run_on_a_table_finds_winners_that_are_replayed(table: Table, table_path: Path) -> None:
    with Store.open() as store:
        result = replayed(table, table_path, store, Silent())
        assert result.complete
        assert [winner.problem for winner in result.best] == table.problems
        assert {winner.kind for winner in result.best} == {Kind.REPLAYED}
        assert {trial.kind for trial in store.trials_of(result.run)} == {Kind.REPLAYED}
        assert all(winner.gain > 0.1 for winner in result.best)
        assert result.environment.device.startswith("replay of ")


def test_replayed_winners_are_never_exported(table: Table, table_path: Path) -> None:
    with Store.open() as store:
        replayed(table, table_path, store, Silent())
        for allow in (False, True):
            with pytest.raises(UserError, match="never exported"):
                select(store, Selection("triton", None, None, allow))


def test_it_resumes_from_its_own_trials(table: Table, table_path: Path) -> None:
    with Store.open() as store:
        replayed(table, table_path, store, Silent(), trials=20)
        listener = Silent()
        replayed(table, table_path, store, listener, trials=30)
        assert listener.resumed == 20 * 2 * len(table.problems)


def test_a_live_run_does_not_count_replayed_trials_as_its_own(table: Table, table_path: Path) -> None:
    with Store.open() as store:
        replayed(table, table_path, store, Silent(), trials=20)
        for stage in table.stages:
            live = store.trials(
                problem=table.problems[0],
                stage=stage,
                backend="triton",
                environment_key=table.fingerprint.key,
                workload=table.workload,
            )
            assert live == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "replay:/nowhere"], "not a recorded table"),
        (["--target", "replay:TABLE", "--tp", "4"], "not of kimi-k2.5-w4a8/tp4"),
        (["--target", "replay:TABLE", "--shape", "m8"], "it has stage1, stage2 at m1, m2, m4"),
    ],
)
def test_what_the_table_does_not_hold_is_told(table_path: Path, arguments: list[str], message: str) -> None:
    filled = [argument.replace("TABLE", str(table_path)) for argument in arguments]
    result = CliRunner().invoke(app, ["run", *filled])
    assert isinstance(result.exception, UserError)
    assert message in str(result.exception)


def test_the_command_line_says_that_times_are_replayed(table_path: Path) -> None:
    arguments = ["run", "--target", f"replay:{table_path}", "--shape", "m4", "--trials", "12"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert (
        "Replaying a recording from synthetic (small.table.json.gz); replayed times cannot be exported."
        in result.output
    )
    assert "(replayed)" in result.output
    assert "export --out" not in result.output


def test_a_table_of_a_layer_that_no_preset_has_is_searched_without_naming_it(
    table: Table, tmp_path: Path
) -> None:
    path = tmp_path / "own.table.json.gz"
    write_table(replace(table, layer=replace(table.layer, model="own")), path)
    asked = ["run", "--target", f"replay:{path}", "--shape", "m4", "--trials", "4"]
    said = CliRunner().invoke(app, asked)
    assert said.exit_code == 0, said.output
    assert f"own/tp8/{table.layer.key.partition('tp8/')[2]}, backend triton" in said.output
    plan = tmp_path / "plan.toml"
    plan.write_text('[[problems]]\nshape = "m4"\n')
    planned = ["run", "--plan", str(plan), "--target", f"replay:{path}", "--dry-run"]
    assert CliRunner().invoke(app, planned).exit_code == 0
    named = CliRunner().invoke(app, [*asked, "--model", "kimi-k2.5-w4a8"])
    assert str(named.exception).startswith("the table is of own/tp8/")


def test_nothing_claims_that_a_replay_ran_a_final(table: Table, table_path: Path, own_database: Path) -> None:
    """It draws recorded samples of each stage and adds the stages up."""
    arguments = ["run", "--target", f"replay:{table_path}", "--shape", "m4", "--trials", "12"]
    said = CliRunner().invoke(app, arguments).output
    assert "drawing recorded samples of" in said
    assert "replayed layer" in said
    assert "the table holds no layers: where one would be timed, its stages are added up" in said
    with Store.open(read_only=True) as store:
        report = gather(store, Scope())
        texts = [said, page(store, report), markdown(store, report)]
    claims = r"fresh routings|confirm|\brounds?\b|had not seen|in the final|layer's (error|time)"
    for text in texts:
        shown = re.sub("<style>.*?</style>", "", text, flags=re.DOTALL)
        assert re.findall(claims, shown, re.IGNORECASE) == []
    assert "nothing ran" in texts[1]
    assert "32 (final)" in texts[1]
    assert "median and 95% CI of the draws" in texts[1]


def test_json_names_the_target(table_path: Path) -> None:
    arguments = ["run", "--target", f"replay:{table_path}", "--shape", "m4", "--trials", "12", "--json"]
    result = CliRunner().invoke(app, arguments)
    answer = json.loads(result.output)
    assert answer["target"] == f"replay:{table_path}"
    assert answer["device"].startswith("replay of ")


def test_where_one_config_serves_both_stages_it_does_so_replayed(table: Table) -> None:
    def on(backend: str) -> ReplayBackend:
        recorded = replace(table, fingerprint=replace(table.fingerprint, backend=backend))
        return ReplayBackend(load_backend(backend), recorded)

    assert one_config(on("vllm"))
    assert not one_config(on("sglang"))
