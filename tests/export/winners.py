"""Winners made by hand, for tests of formats."""

from collections.abc import Mapping
from datetime import UTC, datetime

from autotune.machine.fingerprint import Fingerprint
from autotune.machine.targets import Kind
from autotune.problem.layer import Layer, Problem
from autotune.problem.models import preset
from autotune.results import LayerConfig
from autotune.space.config import Config, Value
from autotune.store.records import WinnerRecord

KIMI = Layer.of(preset("kimi-k2.5-w4a8"), tp=8)

SMALL = {"tile_m": 16, "tile_n": 32, "tile_k": 64, "group_m": 1, "num_warps": None, "num_stages": None}


def config(**knobs: Value) -> Config:
    """A fused-MoE config: SGLang's default for few tokens, with changes."""
    return Config({**SMALL, **knobs})


def fingerprint(**changes: object) -> Fingerprint:
    fields: dict[str, object] = {
        "device": "AMD Instinct MI325X",
        "arch": "gfx942",
        "compute_units": 304,
        "compute_partition": "SPX",
        "memory_partition": "NPS1",
        "power_cap_w": 1000,
        "driver": "6.12",
        "runtime": "rocm 7.2.0",
        "torch": "2.9.0",
        "triton": "3.6.0",
        "backend": "sglang",
        "kernel_source": "abc",
        "tool_version": "1",
    }
    return Fingerprint(**{**fields, **changes})  # type: ignore[arg-type]


def winner(
    tokens: int,
    one: Mapping[str, Value] | None = None,
    two: Mapping[str, Value] | None = None,
    *,
    backend: str = "sglang",
    layer: Layer = KIMI,
    default: LayerConfig | None = None,
    **environment: object,
) -> WinnerRecord:
    """The winner at so many tokens; its configs are the small default with `one` and `two` changed."""
    base = LayerConfig(config(), config())
    won = LayerConfig(config(**(one or {})), config(**(two or {})))
    return WinnerRecord(
        id=tokens,
        run=1,
        problem=Problem(layer, 1, tokens),
        backend=backend,
        environment=fingerprint(**environment),
        kind=Kind.MEASURED,
        rank=0,
        config=won,
        default=default or base,
        gain=0.1,
        gain_low=0.08,
        gain_high=0.12,
        confirmation=None,
        stage1_trial=None,
        stage2_trial=None,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
