"""Each option of each command changes the outcome, or is refused by name: a walk over all of them.

A row is a command line and what is added to it. With the option something else must come out: another exit
code, other words, another file. What has no effect in a row's circumstances must be refused, with its name.
"""

import dataclasses
import gzip
import hashlib
import json
import os
import re
import runpy
import shlex
import shutil
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autotune import results as result
from autotune.check import judged
from autotune.check.judged import Judged
from autotune.cli import invoke, logfile
from autotune.compile import listing as listing_module
from autotune.export.export import Selection, export
from autotune.machine.devices import DEVICES
from autotune.measure import pool
from autotune.measure.confirm import Comparison
from autotune.protocol.backend import Listing
from autotune.report import dashboard
from autotune.results import Compiled, StaticFacts
from autotune.statistics import Interval, Verdict
from autotune.store.store import Store
from autotune.tuning import reconfirm, targets
from tests.ab import made_up
from tests.export.test_export import both, estimate, win
from tests.export.winners import fingerprint
from tests.report.conftest import RECORDED

ROOT = Path(__file__).parents[2]
SCRIPT = runpy.run_path(str(ROOT / "scripts" / "options_table.py"))
OURS = "--backend tests.live_stand_in:StandIn"
RUN = f"run {OURS} --target offline:mi325x --shape m2 --trials 1"
FP8 = "--model-config fp8.json --tp 1"

BASE = {
    "run": f"{RUN} --dry-run",
    "measure": "measure",
    "compare": "compare default stage1:group=4",
    "confirm": "confirm",
    "export": "export --backend sglang --preview",
    "verify": "verify deploy",
    "status": "status",
    "ab": "ab base tuned",
    "show": "show",
    "top": "top",
    "history": "history",
    "report": "report --out r.md",
    "dashboard": "dashboard --no-serve --storage new.log",
    "spaces": f"spaces {OURS}",
    "check": "check --config default",
    "isa": "isa --config default",
    "doctor": "doctor",
    "db path": "db path",
    "db upgrade": "db upgrade",
    "db merge": "db merge other.db",
    "db backup": "db backup",
    "db copy": "db copy new.db",
    "db forget": "db forget --run 1",
}
"""A command line of each command that comes out well."""

ADDED = {
    "--shape": "--shape m3",
    "--concurrency": "--concurrency 3",
    "--model": "--model deepseek-r1 --tp 1",
    "--model-config": "--model-config moe.json",
    "--tp": "--tp 4",
    "--ep": "--ep 8",
    "--fused-shared-experts": "--fused-shared-experts",
    "--routing": "--routing zipf:1.2",
    "--backend": "--backend nothing",
    "--target": "--target offline:mi300x",
    "--flydsl-root": "--flydsl-root nowhere",
    "--flydsl-python": "--flydsl-python nowhere",
    "--device": "--device 3",
    "--cold": "--cold 1",
    "--rounds": "--rounds 8",
    "--seed": "--seed 7",
    "--min-gain": "--min-gain 0.3",
    "--min-effect": "--min-effect 0.3",
    "--shared-gpu": "--shared-gpu",
    "--db": "--db empty.db",
    "--log-file": "--log-file a.log",
    "--quiet": "--quiet",
    "--json": "--json",
    "--stage": "--stage stage2",
    "--run": "--run 99",
    "--limit": "--limit 1",
}
"""What is added for an option, where the command has no row of its own."""

ROWS = {
    ("run", "--trials"): (BASE["run"], "--trials 2"),
    ("run", "--timeout"): (BASE["run"], "--timeout 9"),
    ("run", "--sampler"): (BASE["run"], "--sampler tpe"),
    ("run", "--knob"): (BASE["run"], "--knob us=8000"),
    ("run", "--try"): (BASE["run"], "--try stage1:us=8000"),
    ("run", "--workers"): (BASE["run"], "--workers 1"),
    ("run", "--compile-timeout"): (BASE["run"], "--compile-timeout 7"),
    ("run", "--allow-spills"): (BASE["run"], "--allow-spills"),
    ("run", "--stop-when"): (BASE["run"], "--stop-when 0.1"),
    ("run", "--guards"): (BASE["run"], "--guards none"),
    ("run", "--dry-run"): (RUN, "--dry-run"),
    ("run", "--devices"): (BASE["run"], "--devices 0,1"),
    ("run", "--ray"): (BASE["run"], "--ray auto"),  # refused: a target is given
    ("run", "--plan"): (RUN, "--plan plan.toml"),
    ("run", "--out"): (BASE["run"], "--out elsewhere"),  # refused: of a plan
    ("run", "--quiet"): (RUN, "--quiet"),
    ("measure", "--config"): (BASE["measure"], "--config stage1:split_k=2"),
    ("compare", "--db"): ("compare run:1 default", "--db empty.db"),
    ("export", "--out"): (BASE["export"], "--out elsewhere"),
    ("export", "--format"): (BASE["export"], "--format vllm"),
    ("export", "--device"): (BASE["export"], "--device nowhere"),
    ("export", "--allow-estimates"): ("export --backend vllm --device-name X --preview", "--allow-estimates"),
    ("export", "--bundle-path"): ("export --backend sglang", "--bundle-path /opt/there"),
    ("export", "--device-name"): (BASE["export"], "--device-name Other"),
    ("export", "--triton-version"): (BASE["export"], "--triton-version 3.1.0"),
    ("export", "--deploy"): (BASE["export"], "--deploy sglang"),
    ("export", "--preview"): ("export --backend sglang", "--preview"),
    ("export", "--quiet"): ("export --backend sglang", "--quiet"),
    **{
        ("export", option): (BASE["export"], f"{option} {value}")  # refused: SGLang's files have none of it
        for option, value in {
            "--aiter-source": "x",
            "--aiter-root": "x",
            "--mix": "4=1",
            "--shape-log": "x",
            "--guards": "none",
            "--margin": "0.1",
        }.items()
    },
    **{
        (name, "--device"): (BASE[name], "--device nowhere")
        for name in ("show", "top", "history", "report", "dashboard")
    },
    ("status", "--quiet"): ("status --db empty.db", "--quiet"),
    ("db copy", "--force"): ("db copy other.db", "--force"),
    ("db forget", "--run"): ("db forget --status ok", "--run 2"),
    ("db forget", "--status"): (BASE["db forget"], "--status timeout"),
    ("db forget", "--config"): (BASE["db forget"], "--config split_k=2"),
    ("verify", "--engine"): (BASE["verify"], "--engine sglang"),
    ("verify", "--engine-source"): (BASE["verify"], "--engine-source x"),
    ("verify", "--device-name"): (BASE["verify"], "--device-name x"),
    ("verify", "--triton-version"): (BASE["verify"], "--triton-version 3.1.0"),
    ("ab", "--eval-base"): (BASE["ab"], "--eval-base base"),
    ("ab", "--eval-tuned"): (BASE["ab"], "--eval-tuned base"),
    ("show", "--why"): ("show --device H100", "--why"),
    ("top", "--backend"): (BASE["top"], "--backend sglang"),
    ("top", "--status"): (BASE["top"], "--status incorrect"),
    ("top", "--sort"): (BASE["top"], "--sort trial"),
    ("history", "--sort"): (BASE["history"], "--sort trials"),
    ("report", "--out"): (BASE["report"], "--out s.md"),
    ("report", "--format"): (BASE["report"], "--format csv"),
    ("report", "--bundle"): (BASE["report"], "--bundle deploy"),
    ("dashboard", "--port"): (BASE["dashboard"], "--port 81"),
    ("dashboard", "--storage"): ("dashboard --no-serve", "--storage new.log"),
    ("dashboard", "--serve"): ("dashboard --storage new.log", "--no-serve"),
    ("dashboard", "--browser"): (BASE["dashboard"], "--no-browser"),
    ("check", "--config"): ("check", "--config stage1:split_k=2"),
    ("check", "--illegal"): ("check", "--illegal"),
    ("check", "--workers"): (BASE["check"], "--workers 100000"),
    ("check", "--time-limit"): (BASE["check"], "--time-limit 7"),
    ("check", "--quiet"): (BASE["check"], "--quiet"),
    ("isa", "--config"): (BASE["isa"], "--config split_k=2"),
    ("isa", "--executed"): (BASE["isa"], "--executed"),
    ("doctor", "--flydsl-root"): (BASE["doctor"], "--flydsl-root nowhere"),
    **{
        (name, "--requantised"): (f"{name} {FP8}{more}", "--requantised")
        for name, more in {
            "run": " --dry-run --backend triton --target offline:mi325x",
            "measure": "",
            "compare": " default default",
            "confirm": "",
            "spaces": "",
            "check": "",
            "isa": " --config default",
        }.items()
    },
    **{
        (name, option): (f"{name} {more} --shape m99", f"{option} nowhere")  # refused: triton has no tree
        for name, more in {"run": "", "spaces": "", "check": "", "isa": "--config default"}.items()
        for option in ("--flydsl-root", "--flydsl-python")
    },
    ("export", "--requantised"): (f"export {FP8}", "--requantised"),
}


def _walked() -> list[tuple[str, str, str, str]]:
    """Command, option, command line, what is added; an option without a row has an empty addition."""
    walked = []
    for command, options in SCRIPT["options_of"]().items():
        for option in (each.opts[0] for each in options):
            base, added = ROWS.get((command, option), (BASE.get(command, ""), ADDED.get(option, "")))
            walked.append((command, option, base, added))
    return walked


def test_every_option_of_every_command_is_walked() -> None:
    assert [f"{command} {option}" for command, option, base, added in _walked() if not (base and added)] == []


def test_the_page_of_options_is_in_step() -> None:
    assert (ROOT / "docs" / "options.md").read_text(encoding="utf-8") == SCRIPT["table"](), (
        "python scripts/options_table.py > docs/options.md"
    )


def _number(*parts: object) -> float:
    """A number that any change of `parts` changes."""
    text = re.sub(r" at 0x[0-9a-f]+", "", repr((parts, os.environ.get("CUDA_VISIBLE_DEVICES"))))
    return 10.0 + zlib.crc32(text.encode()) % 100_000 / 1000


class _Measurer:
    """Answers with numbers that depend on all that it was asked."""

    def __init__(self, *asked: object, **more: object) -> None:
        self._asked = (asked, sorted(more.items()))

    def __enter__(self) -> "_Measurer":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def fingerprint(self) -> Any:
        return fingerprint()

    def interval(self, *asked: object, **more: object) -> tuple[Interval, float]:
        us = _number(self._asked, asked, more)
        return Interval(us, us, us), 1e-3

    def compare(self, *asked: object, **more: object) -> Comparison:
        us = _number(self._asked, asked, more)
        interval = Interval(us, us, us)
        return Comparison(Verdict.SAME, interval, interval, interval, ())


class _Checks(_Measurer):
    def __init__(self, *asked: object, store: Store, **more: object) -> None:
        super().__init__(*asked, str(store.location), **more)  # where verdicts go

    def judge(self, candidates: Any) -> list[Judged]:
        error = _number(self._asked)
        passed = result.CheckVerdict(result.VerdictStatus.PASS, error, None, 1.0)
        return [Judged(each, passed) for each in candidates]


def _reconfirm(store: Store, backend: Any, target: Any, problems: Any, settings: Any, *rest: Any) -> Any:
    winners = [reconfirm._latest(store, backend, problem) for problem in problems]
    rechecks = []
    for winner in winners:
        assert winner.confirmation is not None
        before = store.confirmation(winner.confirmation).confirmation
        after = dataclasses.replace(before, gain=_number(settings, winner.problem), winner=1)
        rechecks.append(reconfirm.Recheck(winner, after, (), True))
        rest[1](rechecks[-1])
    return rechecks


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: a database with measured winners and estimates, a bundle, results of a benchmark."""
    folder = tmp_path_factory.mktemp("prepared")
    (folder / "autotune.db").write_bytes(gzip.decompress(RECORDED.read_bytes()))
    with Store.open(folder / "autotune.db") as store:
        export(store, folder / "deploy", Selection())
        win(store, 4, [both(), both(num_stages=3)], [10.0, 9.0])
        estimate(store, "vllm")
    for name in ("empty.db", "other.db"):
        with Store.open(folder / name):
            pass
    for arm, scales in {"base": made_up.BASE, "tuned": made_up.TUNED}.items():
        made_up.folder(folder / arm, {f"{n}.json": made_up.sglang(scale) for n, scale in enumerate(scales)})
    moe = {"hidden_size": 2048, "moe_intermediate_size": 512, "num_experts": 64, "num_experts_per_tok": 8}
    described = {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "hidden_act": "silu",
        **moe,
    }
    (folder / "moe.json").write_text(json.dumps(described))
    fp8 = {
        "quant_method": "fp8",
        "weight_block_size": [128, 128],
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
    }
    (folder / "fp8.json").write_text(json.dumps({**described, "quantization_config": fp8}))
    return folder


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose GPU, compiler and server are stand-ins: what they are asked shows in what they say."""
    real = targets.resolve_target
    live = targets.Target("live", DEVICES["h100"], live=True, why="for the test")
    monkeypatch.setattr(
        targets, "resolve_target", lambda name, **more: live if name == "live" else real(name, **more)
    )
    monkeypatch.setattr(pool, "Measurer", _Measurer)
    monkeypatch.setattr(reconfirm, "reconfirm", _reconfirm)
    monkeypatch.setattr(judged, "Checks", _Checks)
    monkeypatch.setattr(dashboard, "serve", lambda copied, port: None)

    def listings(backend: str, layer: Any, tokens: int, stage: Any, configs: Any, device: Any) -> Any:
        def listing(config: Any) -> Listing:
            lines = int(_number(backend, layer, tokens, stage, config, device))
            return Listing("\ts_nop 0\n" * lines, Compiled("hash", StaticFacts(vgprs=lines), 0.1))

        return [listing(config) for config in configs]

    monkeypatch.setattr(listing_module, "listings", listings)


Outcome = tuple[int, str, str, dict[str, str]]


@pytest.fixture
def outcome(
    prepared: Path,
    machine: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[[str], Outcome]:
    """What comes of a command line in a folder of its own: exit code, words, files."""

    def of(line: str) -> Outcome:
        folder = tmp_path / "work"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(prepared, folder)
        with monkeypatch.context() as patch:
            patch.chdir(folder)
            patch.delenv("COLUMNS", raising=False)
            patch.setenv("AUTOTUNE_DB", str(folder / "autotune.db"))
            for variable in (
                "CUDA_VISIBLE_DEVICES",
                "HIP_VISIBLE_DEVICES",
                "DSL2_ROOT",
                "AUTOTUNE_FLYDSL_PYTHON",
            ):
                patch.delenv(variable, raising=False)
            patch.setattr(sys, "argv", ["autotune", *shlex.split(line)])
            patch.setattr(logfile, "_current", None)
            patch.setattr(sys, "stdout", sys.stdout)
            patch.setattr(sys, "stderr", sys.stderr)
            environment = dict(os.environ)
            code = invoke.run()
            os.environ.clear()
            os.environ.update(environment)
        said = capsys.readouterr()
        files = {
            str(path.relative_to(folder)): ""
            if path.suffix == ".log" or ".db" in path.name
            else hashlib.sha256(path.read_bytes()).hexdigest()
            for path in folder.rglob("*")
            if path.is_file()
        }
        # How long a kernel beside the stages took to execute is told, and is no outcome.
        return code, re.sub(r"\(\d+\.\d s\)", "(… s)", said.out), said.err, files

    return of


@pytest.mark.slow
@pytest.mark.parametrize("base", sorted(BASE.values()))
def test_a_command_line_comes_out_well_and_twice_alike(base: str, outcome: Callable[[str], Outcome]) -> None:
    """Without this a difference would say nothing of the option."""
    first = outcome(base)
    assert first[0] in (0, 1), first[2]
    if base not in ("report --out r.md", "db backup"):  # they name the time
        assert outcome(base) == first


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "option", "base", "added"), [pytest.param(*row, id=f"{row[0]} {row[1]}") for row in _walked()]
)
def test_the_option_changes_what_comes_out_or_is_refused(
    command: str, option: str, base: str, added: str, outcome: Callable[[str], Outcome]
) -> None:
    without, with_it = outcome(base), outcome(f"{base} {added}")
    assert with_it != without
    nothing_left = (
        "there is no",
        "no winner",
        "no run",
        "run 1 has no",
    )  # the option chose among what is stored
    said = with_it[2].removeprefix("error: ")
    if with_it[0] == 2 and without[0] != 2 and not said.startswith(nothing_left):
        assert any(word in said for word in added.split()), said
