"""Another distribution's backend: its verifier and doctor are used, what it lacks is told in a sentence."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from autotune.check.check import can_check, checker_of
from autotune.cli import app
from autotune.errors import UserError
from autotune.machine.devices import DEVICES
from autotune.protocol import registry
from autotune.protocol.doctor import Doctor
from autotune.protocol.exporter import Content, Place
from autotune.results import CompilerVersion
from tests.export.winners import winner
from tests.verify.conftest import write_as_bundle

RUNNER = CliRunner()

PARTS = """
from autotune.check.execution import Checker
from autotune.protocol.doctor import Ability, Can, Doctor, Finding, State
from autotune.protocol.lookup import Check, Verification, Verifier
from autotune.protocol.registry import Registration
from autotune.results import CompilerVersion

KERNELS = "autotune.backends.triton.backend:TritonW4A8"


class ToyVerifier(Verifier):
    def verify(self, bundle, serving):
        wanted = bundle.lookup("toyserve")["lanes"]
        here = bundle.here("TOY_LANES")
        return Verification("toyserve", (Check("lanes", str(here), here == wanted, wanted),), ())


class ToyDoctor(Doctor):
    def findings(self, machine):
        return [Finding("toy lathe", State.NO, "none", "buy one")]

    def ability(self, machine):
        return machine.able_with_triton() if machine.triton else Ability(Can.NOTHING, "pip install triton")


class ToyChecker(Checker):
    def compiler(self):
        return CompilerVersion("lathe", "1.0")


VERIFIERS = {"toyserve": "toy_parts:ToyVerifier"}
TOY = Registration("toy", KERNELS, verifiers=VERIFIERS, doctor="toy_parts:ToyDoctor")
TWIN = Registration("twin", KERNELS, doctor="toy_parts:ToyDoctor")
BARE = Registration("bare", KERNELS)
CHECKED = Registration("checked", KERNELS, checker="toy_parts:ToyChecker")
LOST = Registration("lost", KERNELS, doctor="toy_parts:Nowhere")
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A distribution with five backends, beside those that come with the tool."""
    site = tmp_path / "site"
    info = site / "toy-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "toy_parts.py").write_text(PARTS)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
    points = [f"{name} = toy_parts:{name.upper()}" for name in ("toy", "twin", "bare", "checked", "lost")]
    (info / "entry_points.txt").write_text("\n".join(["[autotune.backends]", *points, ""]))
    monkeypatch.syspath_prepend(site)
    registry._foreign.cache_clear()
    yield
    registry._foreign.cache_clear()


def bundle(folder: Path, backend: str, lanes: str = "8") -> str:
    made = Content({"toy.txt": "a file"}, {"TOY_LANES": lanes}, {"toyserve": {"lanes": "8"}})
    write_as_bundle(folder / "deploy", made, Place("/opt/b"), winner(4, backend=backend))
    return str(folder / "deploy")


@pytest.mark.usefixtures("installed")
def test_its_verifier_judges_its_bundle(tmp_path: Path) -> None:
    done = RUNNER.invoke(app, ["verify", bundle(tmp_path, "toy")])
    assert done.exit_code == 0, done.output
    assert "ok   lanes: 8" in done.output
    done = RUNNER.invoke(app, ["verify", bundle(tmp_path / "other", "toy", lanes="16")])
    assert done.exit_code == 1
    assert "FAIL lanes: 16  (meant: 8)" in done.output


@pytest.mark.usefixtures("installed")
def test_an_option_that_its_lookup_does_not_look_at_is_refused(tmp_path: Path) -> None:
    folder = bundle(tmp_path, "toy")
    for option in (["--engine-source", "x.whl"], ["--triton-version", "3.6.0"]):
        with pytest.raises(UserError, match=f"{option[0]}.* has no effect for toyserve"):
            RUNNER.invoke(app, ["verify", folder, *option], catch_exceptions=False)


def test_a_bundle_for_an_engine_that_nobody_registered_is_told_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no backend here brings a verifier: install .* backend toy"):
        RUNNER.invoke(app, ["verify", bundle(tmp_path, "toy")], catch_exceptions=False)


@pytest.mark.usefixtures("installed")
def test_its_doctor_is_listed_and_a_backend_without_one_says_nothing() -> None:
    told = json.loads(RUNNER.invoke(app, ["doctor", "--json"]).output)
    assert {"name": "toy lathe", "state": "no", "detail": "none", "remedy": "buy one"} in told["findings"]
    assert sum(finding["name"] == "toy lathe" for finding in told["findings"]) == 1
    assert told["backends"]["toy"] == told["backends"]["triton"]
    assert "twin" not in told["backends"]  # it shares the doctor: one entry a family
    assert told["backends"]["bare"] == {"can": "unknown", "remedy": ""}
    assert told["backends"]["lost"]["can"] == "nothing"
    assert "has no attribute 'Nowhere'" in told["backends"]["lost"]["remedy"]
    plain = RUNNER.invoke(app, ["doctor"]).output
    assert "says nothing of what it needs" in next(
        x for x in plain.splitlines() if x.startswith("backend bare")
    )


@pytest.mark.usefixtures("installed")
def test_without_a_checker_its_machine_code_is_not_checked() -> None:
    with pytest.raises(
        UserError, match=r"backend toy brings no checker, .*: use aiter_main_w4a16 or flydsl or triton"
    ):
        RUNNER.invoke(app, ["check", "--backend", "toy"], catch_exceptions=False)


@pytest.mark.usefixtures("installed")
def test_its_checker_is_asked_where_it_brings_one() -> None:
    assert can_check("checked", DEVICES["mi325x"])
    assert not can_check("checked", DEVICES["h100"])  # only gfx942 can be executed
    assert checker_of("checked").compiler() == CompilerVersion("lathe", "1.0")


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ('raise OSError("libcuda.so.1: cannot open\\nsecond line")', "OSError: libcuda.so.1: cannot open"),
        ('import sys\nsys.exit("I need CUDA")', "SystemExit: I need CUDA"),
        ("class Doctor:\n    def __init__(self):\n        raise ValueError('none')", "ValueError: none"),
        ("class Doctor:\n    pass", "is not a complete Doctor"),
    ],
)
def test_a_part_that_breaks_is_one_sentence_and_takes_no_other_with_it(
    source: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_parts.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "broken_parts", raising=False)
    with pytest.raises(UserError, match=re.escape(told)) as caught:
        registry.instance("toy", "broken_parts:Doctor", Doctor)
    assert "second line" not in str(caught.value)
