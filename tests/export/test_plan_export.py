"""An export's steps, over stand-ins of the backend, its exporter and the database."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from autotune.export import export as exporting
from autotune.export.export import Exported, Plan, Selection, export, plan, write
from autotune.machine.targets import Kind
from autotune.problem.layer import Stage
from autotune.protocol.exporter import Content, Place, Preview, Request
from autotune.protocol.mix import Mix, MixCandidate, MixDecision
from tests.export.winners import KIMI, config, winner

FOUR, EIGHT = (replace(winner(m), backend="mine") for m in (4, 8))
PREVIEW = Preview("a.json", ())
PLACE = Place("/opt/b")
LAYER = replace(KIMI, needs=None)
SELECTION = Selection("mine", LAYER, requantised=True)
MIX = Mix.of({4: 1.0}, guards=())
DECISION: MixDecision[Any] = MixDecision(
    (("A", "1"),), MIX, (MixCandidate((("A", "1"),), {4: 0.1}, 0.1, ""),)
)


class World:
    """What an export asks and is told.

    Attributes:
        own: the winners that are selected.
        knobs: of the process; None: there are none.
        content: what the exporter hands over.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.own = [FOUR, EIGHT]
        self.knobs: Any = None
        self.decision: Any = DECISION
        self.content = Content({"a.json": "1"}, {"X": "y"}, {"vllm": {"v": 1}}, (PREVIEW,), ("a note",))
        self.asked: list[Any] = []
        self.requests: list[Request] = []
        self.exporter = SimpleNamespace(content=lambda request: self.requests.append(request) or self.content)
        stand_ins = {
            "load_exporter": lambda name: self.asked.append(("exporter", name)) or self.exporter,
            "load_backend": lambda name: f"backend {name}",
            "_select": lambda store, selection: (self.own, self.own),
            "require_computed": lambda *of: self.asked.append(("computed", *of)),
            "process_knobs": lambda *of: self.asked.append(("knobs", *of)) or self.knobs,
            "decide_setting": lambda *of: self.asked.append(("decide", *of)) or self.decision,
            "deployed": lambda own, knobs, decision: [replace(w, config=changed(w), gain=0.5) for w in own],
            "deploy_files": lambda *of: {"deploy/x.sh": repr(of)},
        }
        for name, stand_in in stand_ins.items():
            monkeypatch.setattr(exporting, name, stand_in)
        self.recorded: list[Any] = []

    location = "/the/database"

    def verdicts_of(self, records: Sequence[Any]) -> list[dict[Stage, Any]]:
        reasons = [str(record.problem.tokens) for record in records]
        return [{Stage.STAGE1: SimpleNamespace(status="passed", error=0.0, reason=each)} for each in reasons]

    def record_export(self, *of: Any, **more: Any) -> None:
        self.recorded.append((of, more))


def changed(record: Any) -> Any:
    """The setting changes what runs at 8 tokens only."""
    return record.config if record.problem.tokens == 4 else replace(record.config, stage1=config(tile_n=256))


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def planned(world: World, **more: Any) -> Plan:
    return plan(world, SELECTION, PLACE, **more)  # type: ignore[arg-type]


def manifest(made: Plan) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(made.files["manifest.json"])
    return read


def test_the_exporters_files_go_out_with_the_environment_and_a_manifest(world: World) -> None:
    made = planned(world)
    assert list(made.files) == [
        *("a.json", "autotune.env", "env/autotune.sh", "env/configmap.yaml", "env/autotune.conf"),
        "manifest.json",
    ]
    assert made.files["autotune.env"] == f"# autotune: {KIMI.model}, AMD Instinct MI325X\nX=y\n"
    assert (made.winners, made.previews, made.notes, made.decision) == (
        [FOUR, EIGHT],
        (PREVIEW,),
        ("a note",),
        None,
    )
    (request,) = world.requests
    assert request == Request([FOUR, EIGHT], "backend mine", world, PLACE, None)  # type: ignore[arg-type]
    assert world.asked == [
        ("exporter", "mine"),
        ("computed", "backend mine", "mine", LAYER),
        ("knobs", "mine", FOUR.environment.kernel_source),
    ]
    said = manifest(made)
    assert (said["serving_folder"], said["variables"], said["lookups"]) == (
        "/opt/b",
        {"X": "y"},
        {"vllm": {"v": 1}},
    )
    assert said["requantised"] is True
    assert "decision" not in said
    assert [w["executed_on_cpu"]["stage1"]["reason"] for w in said["winners"]] == ["4", "8"]
    assert set(said["files"]) == set(made.files) - {"manifest.json"}


def test_estimates_are_noted_in_the_environment(world: World) -> None:
    world.own = [replace(FOUR, kind=Kind.ESTIMATE)]
    assert planned(world).files["autotune.env"].splitlines()[1].startswith("# ESTIMATES for AMD")


def test_launch_examples_are_added_where_they_are_asked_for(world: World) -> None:
    made = planned(world, deploy="vllm")
    assert made.files["deploy/x.sh"] == repr(("vllm", "/opt/b", [FOUR, EIGHT], {"X": "y"}))
    assert "deploy/x.sh" in manifest(made)["files"]


def test_what_the_exporter_makes_of_the_winners_is_what_is_told(world: World) -> None:
    other = replace(EIGHT, gain=0.0)
    world.content = replace(world.content, winners=[FOUR, other])
    made = planned(world)
    assert made.winners == [FOUR, other]
    assert manifest(made)["winners"][1]["gain"] == 0.0


def test_a_setting_of_the_process_is_decided_over_the_mix_and_deployed(world: World) -> None:
    world.knobs = SimpleNamespace(deployment=lambda setting: {"always": "1", **setting})
    made = planned(world, mix=MIX, log="a log")
    assert world.asked[-1] == ("decide", world, [FOUR, EIGHT], world.knobs, "backend mine", MIX, "a log")
    (request,) = world.requests
    assert request.setting == {"always": "1", "A": "1"}
    assert [w.gain for w in request.winners] == [0.5, 0.5]
    assert made.decision is DECISION
    said = manifest(made)
    assert said["decision"]["candidates"][0]["variables"] == {"A": "1"}
    # What was executed is the winner's own code, which the setting changes at 8 tokens.
    assert [w["executed_on_cpu"]["stage1"] is None for w in said["winners"]] == [False, True]


def test_one_estimate_deploys_its_own_setting(world: World) -> None:
    world.decision = None
    world.knobs = SimpleNamespace(
        deployment=dict,
        variables=lambda config, default: {"OF": str((config, default) == (FOUR.config, FOUR.default))},
    )
    made = planned(world)
    (request,) = world.requests
    assert (request.setting, request.winners) == ({"OF": "True"}, [FOUR, EIGHT])
    assert "decision" not in manifest(made)


def test_an_exporters_file_out_of_its_place_is_refused(world: World) -> None:
    world.content = replace(world.content, files={"env/x": ""})
    with pytest.raises(exporting.UserError, match="the exporter of backend mine names a file 'env/x'"):
        planned(world)


def test_a_written_bundle_is_recorded_with_its_manifests_digest(world: World, tmp_path: Path) -> None:
    made = planned(world)
    told = write(world, tmp_path / "deploy", made, allow_estimates=True)  # type: ignore[arg-type]
    assert told == Exported(tmp_path / "deploy", [FOUR, EIGHT], list(made.files))
    digest = hashlib.sha256((tmp_path / "deploy/manifest.json").read_bytes()).hexdigest()
    assert world.recorded == [((tmp_path / "deploy", digest, [4, 8]), {"unmeasured_allowed": True})]


def test_an_export_serves_from_where_it_is_told_or_lies(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "deploy"
    export(world, folder, Selection("mine", allow_estimates=True), bundle_path="/srv/b/")  # type: ignore[arg-type]
    assert world.requests[-1].place == Place("/srv/b")
    assert world.recorded[-1][1] == {"unmeasured_allowed": True}
    export(world, folder, Selection("mine"))  # type: ignore[arg-type]
    assert world.requests[-1].place == Place(str(folder.resolve()))
    assert world.recorded[-1][1] == {"unmeasured_allowed": False}
