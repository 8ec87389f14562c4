"""Records to store."""

from dataclasses import replace
from typing import Any

from autotune.machine.fingerprint import Fingerprint
from autotune.machine.targets import Kind
from autotune.problem.layer import Layer, Problem, Stage
from autotune.problem.models import preset
from autotune.results import (
    CheckVerdict,
    CompilerVersion,
    Confirmation,
    Finalist,
    LayerConfig,
    LayerMeasurement,
    Round,
    Status,
    VerdictStatus,
)
from autotune.space.config import Config
from autotune.store.records import LayerTrial, TrialRecord
from autotune.store.store import Store

LAYER = Layer.of(preset("kimi-k2.5-w4a8"), 8)
M4 = Problem(LAYER, 4)
MI325X = Fingerprint(
    device="AMD Instinct MI325X",
    arch="gfx942",
    compute_units=304,
    compute_partition="SPX",
    memory_partition="NPS1",
    power_cap_w=1000,
    driver="6.14.5",
    runtime="rocm 7.2.0",
    torch="2.13.0",
    triton="3.9.0",
    backend="triton",
    kernel_source="5ba1",
    tool_version="0.1.0",
)
OFFLINE = replace(MI325X, device="offline:mi325x", power_cap_w=None, driver=None, runtime="none")

TRITON = CompilerVersion("triton", "3.9.0")
PASS = CheckVerdict(VerdictStatus.PASS, 1.7e-3, None, 0.4, {"workgroups": 5})
WRONG = CheckVerdict(VerdictStatus.INCORRECT, 0.7, "relative error 7.0e-01", 0.4)


def config(tile_k: int) -> Config:
    return Config({"tile_k": tile_k, "num_stages": None})


def layer_config(one: int, two: int) -> LayerConfig:
    return LayerConfig(config(one), config(two))


DEFAULT = layer_config(128, 128)
FASTER = layer_config(256, 64)


def layer_trial(**changes: Any) -> LayerTrial:
    known = LayerTrial(
        problem=M4,
        backend="triton",
        environment=MI325X,
        workload="cold",
        config=FASTER,
        default=DEFAULT,
        origin="leaders",
        kind=Kind.MEASURED,
        outcome=LayerMeasurement((9.0, 9.2), (10.0, 10.1), 6e-3, 0.01),
    )
    return replace(known, **changes)


def trial(**changes: Any) -> TrialRecord:
    """A measured trial that is ok."""
    made = TrialRecord(
        problem=M4,
        stage=Stage.STAGE1,
        backend="triton",
        environment=MI325X,
        space_digest="space",
        workload="cold",
        config=config(256),
        origin="tpe",
        status=Status.OK,
        kind=Kind.MEASURED,
        time_us=41.5,
        gate_error=1.7e-3,
        binary_hash="ab" * 32,
        compile_s=1.5,
        measure_s=0.25,
    )
    return replace(made, **changes)


def failed(status: Status = Status.INCORRECT, **changes: Any) -> TrialRecord:
    """A trial without a time."""
    return trial(status=status, time_us=None, reason="the output is off", **changes)


def estimated(stage: Stage, tile_k: int, **changes: Any) -> TrialRecord:
    """An offline trial that is ok."""
    return trial(
        stage=stage,
        config=config(tile_k),
        kind=Kind.ESTIMATE,
        environment=OFFLINE,
        gate_error=None,
        **changes,
    )


def confirmation(**changes: Any) -> Confirmation:
    """A confirmation in which FASTER beat DEFAULT by 10 %."""
    made = Confirmation(
        problem=M4,
        finalists=(Finalist("default", DEFAULT), Finalist("candidate", FASTER)),
        rounds=(
            Round(({"layer": 100.0, "stage1": 60.0, "stage2": 30.0}, {"layer": 90.0, "stage1": 52.0})),
            Round(({"layer": 102.0}, {"layer": 91.8})),
        ),
        errors=(1.7e-3, 1.8e-3),
        winner=1,
        gain=0.1,
        gain_low=0.08,
        gain_high=0.12,
        notes=("clocks settled",),
    )
    return replace(made, **changes)


def begin(store: Store) -> int:
    return store.begin_run("autotune run --shape m4", {"shape": "m4"}, 7, MI325X)


def confirm(store: Store, run: int, confirmed: Confirmation | None = None, **changes: Any) -> int:
    """Records a confirmation; returns its id."""
    how: dict[str, Any] = {"backend": "triton", "environment": MI325X, "workload": "cold", **changes}
    return store.record_confirmation(run, confirmed or confirmation(), **how)


def win(store: Store, run: int, confirmed: Confirmation | None = None, **changes: Any) -> int:
    """Records a confirmation and its winner; returns the winner's id."""
    return store.record_winner(run, confirm(store, run, confirmed, **changes))
