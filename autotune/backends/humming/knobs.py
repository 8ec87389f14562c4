"""A config of the space and humming's `TuningConfig`, one made of the other."""

from collections.abc import Mapping
from typing import Any, Final

from autotune.errors import UserError
from autotune.space.config import UNSET, Config, Value

_OFF: Final = ("use_tma_a", "use_tma_c", "use_tma_as", "use_tma_as2")
"""An indexed GEMM has no such transfers."""
_ABSENT: Final[Mapping[str, Value]] = {
    "use_stream_k": True,
    "num_stages": 2,
    "num_ctas_per_sm": 1,
    "use_warp_spec": False,
    "use_tma": False,
    "smem_reuse_mode": "all_stages",
    "wgmma_split_issue_wait": False,
    "producer_stage_unroll": UNSET,
    "consumer_stage_unroll": UNSET,
    "evict_weights_first": False,
    "use_pdl": False,
}
"""What `TuningConfig` takes where a heuristic's entry says nothing; each but the first three names a knob."""
_NAMES: Final = {
    "use_stream_k": "stream_k",
    "num_stages": "num_stages",
    "num_ctas_per_sm": "ctas_per_sm",
    "use_warp_spec": "warp_spec",
    "use_tma": "tma",
    "smem_reuse_mode": "smem_reuse",
    "wgmma_split_issue_wait": "split_issue",
    "producer_stage_unroll": "producer_unroll",
    "consumer_stage_unroll": "consumer_unroll",
    "evict_weights_first": "evict_weights_first",
    "use_pdl": "pdl",
}
_NEUTRAL: Final[Mapping[str, Any]] = {
    **dict.fromkeys(_OFF, False),
    "use_f16_accum": False,  # of the compute config, said again
    "raster_group_m": 1,
    "wgmma_use_late_as": False,
    "output_chunk_rows": 0,
    "multi_cast_size_a": 1,
    "multi_cast_size_b": 1,
    "producer_registers": None,
    "num_sms": 0,
}
"""What no knob sets: an entry that says otherwise is none of this space."""


def entry(config: Config) -> dict[str, Any]:
    """A config as humming takes it, as JSON values."""
    rows, columns, depth = (whole(config, f"block_{axis}") for axis in "mnk")
    return {
        "mma_type": config["mma"],
        "block_shape": [rows, columns, depth],
        "warp_shape": [rows, whole(config, "warp_n"), whole(config, "warp_k")],
        **{theirs: config[ours] for theirs, ours in _NAMES.items() if config[ours] is not UNSET},
        **dict.fromkeys(_OFF, False),
    }


def config_of(raw: Mapping[str, Any]) -> Config:
    """The config that an entry of humming's heuristic is.

    Raises:
        UserError: it uses something that the space has no knob for.
    """
    rest = dict(raw)
    (rows, columns, depth), (own_rows, own_columns, own_depth) = (
        rest.pop("block_shape"),
        rest.pop("warp_shape"),
    )
    values: dict[str, Value] = {
        "mma": rest.pop("mma_type"),
        "block_m": rows,
        "block_n": columns,
        "block_k": depth,
        "warp_n": own_columns,
        "warp_k": own_depth,
        **{ours: rest.pop(theirs, _ABSENT[theirs]) for theirs, ours in _NAMES.items()},
    }
    if values["smem_reuse"] is None:
        values["smem_reuse"] = _ABSENT["smem_reuse_mode"]
    strange = {name: value for name, value in rest.items() if value != _NEUTRAL.get(name, ...)}
    if own_rows != rows:
        strange["warp_shape"] = [own_rows, own_columns, own_depth]
    if strange:
        told = ", ".join(f"{name}={value}" for name, value in strange.items())
        raise UserError(
            f"humming's own choice has {told}, for which the space has no knob: use humming-kernels 0.1.19,"
            " or another --tp"
        )
    return Config(values)


def whole(config: Mapping[str, Value], name: str) -> int:
    """A knob that is a whole number."""
    value = config[name]
    assert isinstance(value, int), name
    assert not isinstance(value, bool), name
    return value
