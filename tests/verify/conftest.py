"""Engines' sources, and bundles with sentinel values."""

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from autotune.backends import sglang as sglang_rows
from autotune.backends import vllm as vllm_rows
from autotune.backends.sglang.export import sglang_content
from autotune.backends.vllm.export import vllm_content
from autotune.engines.backend import EngineBackend
from autotune.engines.source import EngineSource
from autotune.export.bundle import write_bundle
from autotune.export.env_file import env_files
from autotune.export.manifest import manifest_json
from autotune.machine.devices import DEVICES
from autotune.problem.layer import Layer
from autotune.protocol.bundle import MANIFEST, Bundle
from autotune.protocol.exporter import Content, Place
from autotune.protocol.registry import load_backend
from autotune.store.records import WinnerRecord
from tests.export.winners import KIMI, winner
from tests.verify.engines import engine_source


@pytest.fixture(scope="session")
def sglang(tmp_path_factory: pytest.TempPathFactory) -> EngineSource:
    return engine_source("sglang", tmp_path_factory.mktemp("sglang"))


@pytest.fixture(scope="session")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> EngineSource:
    return engine_source("vllm", tmp_path_factory.mktemp("vllm"))


def sentinel(tokens: int, *, same: bool, layer: Layer = KIMI) -> WinnerRecord:
    """A winner with values that nothing else has: GROUP_SIZE_M tells the tokens, BLOCK_SIZE_N the stage."""
    one = {"group_m": 1000 + tokens, "tile_n": 64}
    return winner(tokens, one, one if same else {**one, "tile_n": 128}, layer=layer)


def content(backend: str, place: Place, layer: Layer = KIMI) -> Content:
    """Sentinels at every verify shape and at 160 tokens, as that backend's files."""
    family = load_backend(backend)
    assert isinstance(family, EngineBackend)
    same = family.engine == "vllm"
    winners = [sentinel(m, same=same, layer=layer) for m in (1, 2, 3, 4, 5, 6, 7, 8, 160)]
    write = vllm_content if same else sglang_content
    device = DEVICES["mi325x"]
    return write(winners, family.quantisation, lambda m: family.default(layer, m, device), place)


def write_as_bundle(folder: Path, made: Content, place: Place, won: WinnerRecord | None = None) -> None:
    files = {**made.files, **env_files(made.variables, "test")}
    manifest = manifest_json(
        [won or winner(4)], files, serving_folder=place.folder, variables=made.variables, lookups=made.lookups
    )
    write_bundle(folder, {**files, MANIFEST: manifest})


CONTENTS = tuple(row.name for row in (*sglang_rows.ROWS, *vllm_rows.ROWS))
MakeBundle = Callable[..., Bundle]


@pytest.fixture(scope="session")
def contents() -> dict[str, Content]:
    """Made once; the engine's default is followed over 16,384 tokens."""
    return {name: content(name, Place("/opt/b")) for name in CONTENTS}


@pytest.fixture
def bundle(tmp_path: Path, contents: dict[str, Content]) -> MakeBundle:
    """Writes a bundle of sentinels as it would be in a container, under /opt/b."""

    def make(backend: str, layer: Layer = KIMI) -> Bundle:
        place = Place("/opt/b")
        made = contents[backend] if layer == KIMI else content(backend, place, layer)
        write_as_bundle(tmp_path / "deploy", made, place, winner(4, backend=backend, layer=layer))
        return Bundle.read(tmp_path / "deploy")

    return make


def plant(bundle: Bundle, change: Callable[[Path], None]) -> Bundle:
    """Changes a bundle's files as a careless tool would have written them: the manifest agrees with them."""
    change(bundle.folder)
    path = bundle.folder / MANIFEST
    manifest = json.loads(path.read_text())
    manifest["files"] = {
        file.relative_to(bundle.folder).as_posix(): {"sha256": sha256(file.read_bytes()).hexdigest()}
        for file in bundle.folder.rglob("*")
        if file.is_file() and file != path
    }
    path.write_text(json.dumps(manifest))
    return Bundle.read(bundle.folder)
