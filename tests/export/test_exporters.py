"""The seam of a backend's export: who registers an exporter exports by it, who registers none is refused."""

import inspect
import json
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from typer.testing import CliRunner

from autotune.cli import app
from autotune.errors import UserError
from autotune.export.deploy import ENGINES, deploy_files
from autotune.protocol import registry
from autotune.protocol.exporter import Content, Exporter, Place, load_exporter
from autotune.protocol.process_knobs import has_process_knobs, process_knobs
from autotune.protocol.registry import backend_names
from autotune.store.store import Store
from tests.export.test_export import both, win
from tests.export.toy_exporter import EXPORTLESS, NAME, ToyExporter
from tests.export.winners import winner

RUNNER = CliRunner()
FORMATS = {
    "triton": "json",
    "aiter": "env",
    "flydsl": "env",
    "aiter_main": "aiter",
    "aiter_main_w4a16": "aiter",
}


@pytest.fixture
def store(own_database: Path) -> Iterator[Store]:
    with Store.open() as store:
        yield store


def exported(backend: str, *options: str) -> str:
    """What the command prints."""
    done = RUNNER.invoke(app, ["export", "--backend", backend, *options], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize("name", backend_names())
def test_every_backend_that_comes_with_the_tool_brings_an_exporter(name: str) -> None:
    exporter = load_exporter(name)
    assert exporter.format == FORMATS.get(name, name.partition("_")[0])
    assert exporter.options <= inspect.signature(Place).parameters.keys() - {"folder"}
    assert set(exporter.stacks) <= set(ENGINES)
    assert inspect.signature(exporter.content) == inspect.signature(Exporter.content.__get__(exporter))


def test_a_backend_of_another_distribution_exports_by_its_own_exporter(store: Store, tmp_path: Path) -> None:
    win(store, 4, [both(), both(tile_n=64)], [10.0, 8.0], backend=NAME)
    out = tmp_path / "deploy"
    said = exported(NAME, "--out", str(out), "--bundle-path", "/opt/b", "--device-name", "Toy GPU")
    assert "note: a toy reads it" in said
    head, line = (out / "toy/toy.txt").read_text().splitlines()
    assert head == "for Toy GPU"
    assert line.startswith("4 ")
    assert "tile_n=64" in line
    # The variables that the kernels need stand beside those that name the file.
    assert (out / "autotune.env").read_text().splitlines()[1:] == [
        "TOY_FILE=/opt/b/toy/toy.txt",
        "TOY_KERNELS=1",
    ]
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["backend"] == NAME
    assert manifest["lookups"] == {"toy": {"intended": {"4": line.partition(" ")[2]}}}
    assert not list(out.rglob("moe_w4a8.json"))


def test_an_entry_point_registers_it_under_a_name(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("toy", "tests.export.test_exporters:BY_ENTRY_POINT", registry.GROUP)
    monkeypatch.setattr(registry, "_foreign", lambda: {"toy": point})
    win(store, 4, [both(), both(tile_n=64)], [10.0, 8.0], backend="toy")
    assert "key 4 for M = 4 (tuned): 4 " in exported("toy", "--preview")


BY_ENTRY_POINT = registry.Registration(
    "toy", kernels="tests.export.toy_exporter:Toy", exporter="tests.export.toy_exporter:ToyExporter"
)


@pytest.mark.parametrize("backend", [EXPORTLESS, "tests.export.toy_exporter:Toy"])
def test_without_an_exporter_nothing_is_written_in_another_backends_format(
    store: Store, tmp_path: Path, backend: str
) -> None:
    win(store, 4, [both(), both(tile_n=64)], [10.0, 8.0], backend=backend)
    out = tmp_path / "deploy"
    with pytest.raises(UserError, match=r"brings no exporter.*docs/add-a-backend.md"):
        exported(backend, "--out", str(out))
    assert not out.exists()


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("tests.export.nowhere:Exporter", "cannot be loaded"),
        ("tests.export.toy_exporter:Nothing", "cannot be loaded"),
        ("tests.export.toy_exporter:NAME", "cannot be loaded"),  # no class
        ("tests.export.toy_exporter:Toy", "is not a complete Exporter"),
    ],
)
def test_an_exporter_that_is_not_there_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, path: str, why: str
) -> None:
    wrong = registry.Registration("toy", kernels="tests.export.toy_exporter:Toy", exporter=path)
    monkeypatch.setattr("tests.export.toy_exporter.REGISTRATION", wrong)
    with pytest.raises(UserError, match=why) as told:
        load_exporter(NAME)
    assert path in str(told.value)


@pytest.mark.parametrize(
    "name", ["manifest.json", "autotune.env", "env/x", "deploy/x", "/etc/x", "../x", "toy/../../x", ""]
)
def test_an_exporter_writes_no_file_that_is_not_its_own(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    win(store, 4, [both(), both(tile_n=64)], [10.0, 8.0], backend=NAME)
    monkeypatch.setattr(ToyExporter, "content", lambda self, request: Content({name: ""}, {}))
    with pytest.raises(UserError, match="which is not its own"):
        exported(NAME, "--out", str(tmp_path / "deploy"))
    assert not list(tmp_path.rglob("*x"))


def test_another_backends_format_is_refused(store: Store) -> None:
    win(store, 4, [both(), both(tile_n=64)], [10.0, 8.0], backend=NAME)
    with pytest.raises(UserError, match="are served by --format toy, not by json"):
        exported(NAME, "--format", "json")


@pytest.mark.parametrize(
    "options",
    [
        ("--triton-version", "3.6.0"),
        ("--aiter-source", "x"),
        ("--aiter-root", "/x"),
        ("--mix", "4=1"),
        ("--guards", "64"),
        ("--margin", "0.1"),
    ],
)
def test_an_option_that_the_exporter_does_not_go_by_is_refused(options: tuple[str, str]) -> None:
    with pytest.raises(UserError, match=rf"^{' '.join(options)} has no effect here, .* --format toy"):
        exported(NAME, *options)


def test_a_launch_example_has_the_arguments_that_lead_to_the_kernels() -> None:
    files = deploy_files("vllm", "/opt/b", [winner(4, backend=NAME)], {})
    for arm in ("baseline", "tuned"):
        assert "Stack: vLLM with the toy plugin." in files[f"deploy/vllm-{arm}.sh"]
        assert "--toy" in files[f"deploy/vllm-{arm}.sh"]
    with pytest.raises(UserError, match="serve in vllm: use that --deploy"):
        deploy_files("sglang", "/opt/b", [winner(4, backend=NAME)], {})


def test_whether_knobs_are_variables_of_the_process_is_said_by_the_registration() -> None:
    assert [name for name in backend_names() if has_process_knobs(name)] == ["aiter", "flydsl"]
    assert not has_process_knobs(NAME)
    assert process_knobs("sglang", "any source") is None
    # Of FlyDSL's two generations only one is deployed by variables.
    assert process_knobs("flydsl", "published 123 flydsl 0.1.5") is process_knobs("aiter", "any source")
    assert process_knobs("flydsl", "main 123 flydsl 0.3.1") is None
