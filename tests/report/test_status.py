"""What still fits the machine, and what does not."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from autotune.errors import UserError
from autotune.export.export import Selection, export
from autotune.problem.layer import Stage
from autotune.protocol.registry import load_backend
from autotune.report import status
from autotune.report.status import MachineStack, bundles_status, stack_names, this_stack, winners_status
from autotune.store.records import ShortListed
from autotune.store.store import Store
from tests.export.test_export import both, win
from tests.export.winners import fingerprint
from tests.store.examples import DEFAULT, M4, OFFLINE, begin, estimated

MI325X = {
    name: getattr(fingerprint(), name)
    for name in (
        *("device", "arch", "compute_units", "compute_partition", "memory_partition", "power_cap_w"),
        *("driver", "runtime", "torch", "triton"),
    )
}


@pytest.fixture
def store(own_database: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    family = type(load_backend("sglang"))
    monkeypatch.setattr(family, "source_digest", lambda self: "abc")
    with Store.open() as store:
        win(store, 4, [both(), both(tile_n=64)], [10.0, 8.0])
        yield store


def test_on_the_stack_that_it_was_measured_on_a_winner_fits(store: Store) -> None:
    (one,) = winners_status(store, MachineStack(MI325X, gpu=True))
    assert one.verdict == "fits"


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("triton", "3.9.0", "triton: 3.6.0 -> 3.9.0"),
        ("device", "AMD Instinct MI300X", "device: AMD Instinct MI325X -> AMD Instinct MI300X"),
        ("compute_units", 38, "compute_units: 304 -> 38"),
        ("power_cap_w", 750, "power_cap_w: 1000 -> 750"),
        ("compute_partition", "CPX", "compute_partition: SPX -> CPX"),
        ("memory_partition", "NPS4", "memory_partition: NPS1 -> NPS4"),
        ("driver", "6.14", "driver: 6.12 -> 6.14"),
        ("runtime", "rocm 7.3.0", "runtime: rocm 7.2.0 -> rocm 7.3.0"),
        ("torch", "2.10.0", "torch: 2.9.0 -> 2.10.0"),
    ],
)
def test_each_change_of_the_stack_makes_it_stale(field: str, value: object, told: str, store: Store) -> None:
    (one,) = winners_status(store, MachineStack({**MI325X, field: value}, gpu=True))
    stale = "DIFFERENT GPU" if field in ("device", "compute_units") else "STALE"
    assert one.verdict == f"{stale}: {told}"


def test_an_estimate_is_not_compared_with_the_card(own_database: Path) -> None:
    """No device had a part in it: its compiler and kernels are all that can have changed."""
    here = {**dict.fromkeys(MI325X, "another"), "triton": "3.9.0"}
    with Store.open() as store:
        run = begin(store)
        for stage in Stage:
            store.record_trial(run, estimated(stage, 128))
        store.record_short_list(
            run,
            problem=M4,
            backend="triton",
            environment=OFFLINE,
            default=DEFAULT,
            entries=[ShortListed(DEFAULT, 0.0)],
        )
        fitting, stale = (
            winners_status(store, MachineStack({**here, "triton": version}, gpu=True))[0].differs
            for version in ("3.9.0", "3.10.0")
        )
    assert [difference.split(":")[0] for difference in fitting] == ["kernel_source"]
    assert "triton: 3.9.0 -> 3.10.0" in stale


def test_a_stack_is_named_without_what_it_has_not() -> None:
    assert stack_names(replace(OFFLINE, torch=None, triton="3.9.0")) == [OFFLINE.device, "Triton 3.9.0"]
    assert stack_names(fingerprint())[1:] == ["rocm 7.2.0", "driver 6.12", "torch 2.9.0", "Triton 3.6.0"]


def test_new_kernels_make_it_stale(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(load_backend("sglang")), "source_digest", lambda self: "def")
    (one,) = winners_status(store, MachineStack(MI325X, gpu=True))
    assert one.differs == ("kernel_source: abc -> def",)


def test_without_a_gpu_the_rest_is_compared_and_that_is_said(store: Store) -> None:
    (one,) = winners_status(store, MachineStack({"triton": "3.6.0"}, gpu=False))
    assert one.verdict == "fits, as far as is known: no GPU here to compare with"


def test_a_bundle_is_followed_on_its_machine(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "deploy"
    export(store, folder, Selection("sglang"))
    fitting = winners_status(store, MachineStack(MI325X, gpu=True))
    assert bundles_status(store, fitting)[0].problems == ()

    stale = winners_status(store, MachineStack({**MI325X, "triton": "3.9.0"}, gpu=True))
    assert bundles_status(store, stale)[0].problems == ("1 of its 1 winners are stale here: tune again",)

    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text() + "\n")
    assert "changed" in bundles_status(store, fitting)[0].problems[0]

    win(store, 4, [both(), both(tile_n=128)], [10.0, 7.0])
    newer = winners_status(store, MachineStack(MI325X, gpu=True))
    assert any("newer" in problem for problem in bundles_status(store, newer)[0].problems)

    shutil.rmtree(folder)
    assert bundles_status(store, newer)[0].problems == ("it was deleted",)


@pytest.mark.parametrize(
    ("measured_on", "here"),
    [("NVIDIA H100 80GB HBM3", "NVIDIA H200"), ("NVIDIA H200", "NVIDIA H100 80GB HBM3")],
)
def test_a_bundle_of_another_gpu_with_the_same_code_is_called_that(
    measured_on: str, here: str, own_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An H100 and an H200 have one architecture and as many SMs."""
    hopper = {"arch": "sm_90", "compute_units": 132}
    monkeypatch.setattr(type(load_backend("sglang")), "source_digest", lambda self: "abc")
    with Store.open() as store:
        kept = win(
            store, 4, [both(), both(tile_n=64)], [10.0, 8.0], on=fingerprint(device=measured_on, **hopper)
        )
        export(store, tmp_path / "deploy", Selection("sglang"))
        stack = {**MI325X, **hopper, "device": here}
        (status,) = winners_status(store, MachineStack(stack, gpu=True))
        (bundle,) = bundles_status(store, [status])
    assert kept == status.winner.id
    differs = f"device: {measured_on} -> {here}"
    assert status.verdict.startswith(f"DIFFERENT GPU: {differs}")
    assert bundle.problems == (f"it is for another GPU ({differs}): tune on this one",)


def test_this_machine_tells_something() -> None:
    assert "triton" in this_stack().fields


def test_kernels_that_are_not_here_are_not_told_as_a_change(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the probe says of the GPU holds no backend and no kernels."""

    def gone(self: object) -> str:
        raise UserError("no source")

    monkeypatch.setattr(type(load_backend("sglang")), "source_digest", gone)
    monkeypatch.setattr(status, "has_gpu", lambda: True)
    monkeypatch.setattr(status, "probe", lambda _: {**MI325X, "backend": "", "kernel_source": ""})
    (winner,) = winners_status(store, this_stack())
    assert (winner.differs, winner.unknown) == ((), "the kernels of sglang are not here")
