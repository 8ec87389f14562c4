"""What each exporter writes for the same winners stays the same, byte for byte, from release to release.

The digests are of the tool's first release. Who changes a file's bytes on purpose changes its digest here.
"""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from autotune.export.export import Selection, plan
from autotune.machine.targets import Kind
from autotune.problem.layer import Problem, Stage
from autotune.protocol.exporter import Place
from autotune.protocol.mix import UNTOLD
from autotune.results import LayerConfig
from autotune.space.config import Config, Value
from autotune.store.records import ShortListed
from autotune.store.store import Store
from tests.backends.aiter_main.test_export import SHIPS, TALL, TALLER, final
from tests.export.test_export import both, win
from tests.export.test_process_setting import MIX, SETTINGS, WIDE_TILE_LOSES_PREFILL, tuned
from tests.export.winners import KIMI, fingerprint
from tests.standins import SITE_MAIN
from tests.store.examples import trial


@pytest.fixture
def store(own_database: Path) -> Iterator[Store]:
    with Store.open() as store:
        yield store


def stages(one: dict[str, Value], two: dict[str, Value]) -> LayerConfig:
    return LayerConfig(Config(one), Config(two))


def engine(store: Store, backend: str) -> None:
    win(store, 4, [both(), both(tile_n=64, num_warps=4)], [10.0, 8.0], backend=backend)
    win(store, 3, [both(), both(tile_n=128)], [9.0, 8.0], backend=backend)
    win(store, 160, [both(), both(tile_n=128)], [9.0, 9.5], backend=backend)


def triton(store: Store, backend: str) -> None:
    def ours(tile_n: int) -> LayerConfig:
        tiles: dict[str, Value] = {"tile_n": tile_n, "tile_k": 256}
        return stages({**tiles, "num_warps": 4}, {**tiles, "split_blocks": 2})

    win(store, 4, [ours(32), ours(64)], [10.0, 8.0], backend=backend)
    win(store, 1, [ours(32), ours(128)], [10.0, 8.0], backend=backend)


def flydsl(store: Store, backend: str) -> None:
    tuned(store, SETTINGS, WIDE_TILE_LOSES_PREFILL)


def aiter(store: Store, backend: str) -> None:
    """An estimate at one shape, in which every knob differs from the default."""
    unset = dict.fromkeys(("tile_n", "tile_k", "sched", "grid_trim"))
    default = stages({"tile_m": 16, **unset, "lds128": None}, {"tile_m": 16, **unset, "mode": None})
    best = LayerConfig(
        default.stage1.replaced(sched=False, tile_n=128, lds128=False, grid_trim=False),
        default.stage2.replaced(grid_trim=False, tile_k=256, mode="reduce", sched=False),
    )
    environment = fingerprint(backend=backend, device="offline:mi325x")
    run = store.begin_run("autotune run", {}, 0, environment)
    problem, kind = Problem(KIMI, 4), Kind.ESTIMATE
    asked = {"problem": problem, "backend": backend, "environment": environment}
    for stage in Stage:
        store.record_trial(run, trial(**asked, stage=stage, kind=kind, config=best.of(stage)))
    store.record_short_list(run, **asked, default=default, entries=[ShortListed(best, 0.2)])  # type: ignore[arg-type]


def aiter_main(store: Store, backend: str) -> None:
    final(store, 3, {SHIPS: 20.0, TALLER: 18.0, TALL: 21.0})
    final(store, 4, {SHIPS: 20.0, TALL: 15.0, TALLER: 18.0})
    final(store, 8, {SHIPS: 30.0, TALL: 24.0})


def grouped(store: Store, backend: str) -> None:
    def tiled(tile_n: int) -> LayerConfig:
        tiles: dict[str, Value] = {"tile_m": 16, "tile_n": tile_n, "tile_k": 256}
        return stages({**tiles, "k_wave": 4, "b_nt": 0}, {**tiles, "tile_n": 128})

    final(store, 4, {tiled(64): 20.0, tiled(16): 16.0}, backend=backend)


def digest(files: dict[str, str]) -> str:
    """Of all that serving reads: the files, and the environment without its comment."""
    read = {name: text for name, text in files.items() if name != "manifest.json" and "env/" not in name}
    lines = read["autotune.env"].splitlines()
    read["autotune.env"] = "\n".join(line for line in lines if not line.startswith("#"))
    return hashlib.sha256(repr(sorted(read.items())).encode()).hexdigest()[:16]


@pytest.mark.parametrize(
    ("backend", "tune", "expected"),
    [
        ("triton", triton, "af09e6dea9e3f65a"),
        ("sglang", engine, "af2b58358a5f6cd8"),
        ("sglang_w4a16", engine, "020b09abf113ad84"),
        ("vllm", engine, "3eb951955a54ad74"),
        ("vllm_w4a16", engine, "3d45b6ca1e9d1c62"),
        ("aiter", aiter, "e3b944364583896e"),
        ("flydsl", flydsl, "b855d8083d5044ba"),
        ("aiter_main", aiter_main, "a069c634d6e85bab"),
        ("aiter_main_w4a16", grouped, "9f5b62c455807742"),
    ],
)
def test_the_same_winners_give_the_same_bytes(
    store: Store, backend: str, tune: Callable[[Store, str], None], expected: str
) -> None:
    tune(store, backend)
    source = {"source": SITE_MAIN, "root": "/app"} if backend.startswith("aiter_main") else {}
    mix = MIX if backend == "flydsl" else UNTOLD
    made = plan(store, Selection(backend, allow_estimates=True), Place("/opt/b", **source), mix=mix)  # type: ignore[arg-type]
    assert digest(dict(made.files)) == expected
