"""AITER's process environment for a config, and what a knob that is left unset comes to.

All names and defaults: aiter 511df6a (the same at b5757d6), aiter/fused_moe.py, and FlyDSL a1d8312,
kernels/moe_gemm_2stage.py; `autotune.backends.aiter.contract` finds out whether a given source still fits.
"""

from collections.abc import Mapping

from autotune.backends.flydsl.request import GATES
from autotune.problem.layer import Stage
from autotune.protocol.process_knobs import ProcessKnobs
from autotune.space.config import UNSET, Config, Value

TILE_VARIABLES = {
    stage: {knob: f"AITER_FLYDSL_{stage.name}_{knob.upper()}" for knob in ("tile_n", "tile_k")}
    for stage in Stage
}
"""Read at every call (:1968-1981, :2516-2525). TILE_M is never set: it must be the sort's block size, of
which AITER decides: it overwrites the variable for it."""

MODE_VARIABLE = "AITER_FLYDSL_MOE_GEMM2_MODE"
"""`reduce`; anything else is atomic (:2635). Read at every call."""

TRIM_VARIABLE = "AITER_FLYDSL_MOE_GRID_TRIM"
"""On by default, for both stages (:2047, :2532). Read at every call."""

LDS_VARIABLE = "FLYDSL_CK_LDS128"
"""Off: rows in LDS are 8 bytes longer. Read when a launcher is built (FlyDSL a1d8312
kernels/moe_gemm_2stage.py:237 and 1630), for both stages; a stage-1 config has it. It is in FlyDSL's own key,
as the stride, but in none within a process: a process of its own is needed, a cache folder is not."""

CACHE_VARIABLE = "FLYDSL_RUNTIME_CACHE_DIR"
"""Where FlyDSL keeps compiled kernels, under keys that do not know the gates."""

SWITCHES = {
    "AITER_W4A8_USE_INT8": "1",  # off by default: INT4 weights then get FP8 activations, and no FlyDSL (:317)
    "AITER_USE_FLYDSL_MOE": "1",  # these four are the defaults, and guard against a shell that has others
    "AITER_USE_FLYDSL_MOE_STAGE1": "1",
    "AITER_USE_FLYDSL_MOE_STAGE2": "1",
    "AITER_ENFORCE_DSL": "1",
}
"""What it takes to reach the kernels. Some are read within a cached function: set before the first call."""


def bucket(tokens: int) -> int:
    """The token count by which AITER looks a batch up (`get_padded_M`, :671-684)."""
    if tokens < 1024:
        return 1 << (tokens - 1).bit_length()
    return 1024 if tokens < 2048 else 2048 if tokens < 16384 else 16384


_FLAGS = ("sched", "lds128", "grid_trim")

PUBLISHED = ProcessKnobs(
    {
        Stage.STAGE1: {
            **TILE_VARIABLES[Stage.STAGE1],
            "sched": GATES[Stage.STAGE1],
            "lds128": LDS_VARIABLE,
            "grid_trim": TRIM_VARIABLE,
        },
        Stage.STAGE2: {
            **TILE_VARIABLES[Stage.STAGE2],
            "mode": MODE_VARIABLE,
            "sched": GATES[Stage.STAGE2],
            "grid_trim": TRIM_VARIABLE,
        },
    },
    flags=frozenset(_FLAGS),
    always={"AITER_W4A8_USE_INT8": SWITCHES["AITER_W4A8_USE_INT8"]},  # the others are what an image has
    unkeyed=frozenset(GATES.values()),
    cache_variable=CACHE_VARIABLE,
    bucket=bucket,
)
"""The knobs of the published generation; `autotune verify --engine env` shows the lines that read them."""

_ONCE = frozenset({*GATES.values(), LDS_VARIABLE})
"""Variables that are read once a process."""

SCRUBBED = (
    *(variable for tiles in TILE_VARIABLES.values() for variable in tiles.values()),
    *(f"AITER_FLYDSL_{stage.name}_TILE_M" for stage in Stage),
    *(MODE_VARIABLE, TRIM_VARIABLE),
    *("AITER_FLYDSL_MOE_BLOCK_M", "AITER_FLYDSL_MOE_COMPACT_EXPERTS", "AITER_FLYDSL_MOE_COMPARE"),
    *("AITER_BYPASS_TUNE_CONFIG", "AITER_ONLINE_TUNE", "AITER_KSPLIT", "AITER_MOE_SMALL_BATCH"),
    *(
        "AITER_FLYDSL_DEBUG",
        "FLYDSL_MOE_PROFILE",
        LDS_VARIABLE,
        "FLYDSL_MOE_STAGE1_CSHUFFLE",
        "FLYDSL_MOE_STAGE2_CSHUFFLE",
    ),
    *("MOE_SHAPE_LOG_PATH", "COMPILE_ONLY", "FLYDSL_DUMP_IR"),
)
"""Taken out of a measuring process: each changes what is launched, or what it costs."""

_STAGE2_TILE = {"tile_n": 256, "tile_k": 64}


def engine_block(tokens: int) -> int:
    """Rows of a block of the sort.

    The rule (:1006-1021) sees the padded count, which is 1024 up to 2047 tokens.
    """
    return 16 if tokens <= 128 else 32 if tokens < 2048 else 64


def tile(stage: Stage, config: Config, knob: str) -> int:
    """A tile's side in effect, with AITER's default where it is unset."""
    value = config[knob]
    if value is not UNSET:
        assert isinstance(value, int)
        return value
    if stage is Stage.STAGE2:
        return _STAGE2_TILE[knob]
    if knob == "tile_n":
        return 64
    return 256 if config["tile_m"] == 16 else 128  # (:1964-1979), for packed INT4


def effective(config: Config) -> Config:
    """The config with what AITER makes of each unset knob: equal ones are one kernel and one launch."""
    stage = stage_of(config)
    written: dict[str, Value] = {knob: tile(stage, config, knob) for knob in TILE_VARIABLES[stage]}
    # The flags are on where nothing is said.
    written |= {name: True for name in _FLAGS if name in config and config[name] is UNSET}
    if "mode" in config and config["mode"] is UNSET:
        written["mode"] = "atomic"
    return config.replaced(**written)


def stage_of(config: Config) -> Stage:
    """The stage that a config is of: only stage 2 has a mode."""
    return Stage.STAGE2 if "mode" in config else Stage.STAGE1


def gate(config: Config) -> dict[str, str]:
    """What is read once a process, written out: unset is on, with the same code."""
    written = {GATES[stage_of(config)]: "0" if config["sched"] is False else "1"}
    if "lds128" in config:
        written[LDS_VARIABLE] = "0" if config["lds128"] is False else "1"
    return written


def launch_variables(config: Config) -> dict[str, str]:
    """What AITER reads at every call, for one stage. Unset knobs are not in it."""
    return {
        variable: str(int(value)) if isinstance(value, bool) else str(value)
        for knob, variable in PUBLISHED.names[stage_of(config)].items()
        if variable not in _ONCE and (value := config.get(knob)) is not UNSET
    }


def gates_name(environment: Mapping[str, str]) -> str:
    """A folder's name for the gates in an environment, e.g. `stage1-off.stage2-on`."""
    on = ("1", "true", "True", "YES", "yes")
    return ".".join(
        f"{stage}-{'on' if environment.get(GATES[stage], '1') in on else 'off'}" for stage in Stage
    )


def knobs_of(kernel_source: str) -> ProcessKnobs:
    """Whatever the source: this backend runs no other generation."""
    return PUBLISHED
