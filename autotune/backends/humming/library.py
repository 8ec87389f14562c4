"""The installed humming-kernels: its import, its layer configs and its heuristic, with a GPU or without.

`humming.device` asks the driver for the GPU when something is first wanted of it. Compile workers and the
driver must not open the GPU, and may have none, so there its answers are those of the device table
(`without_gpu`); a measure worker asks the real one.
"""

import atexit
import importlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

from platformdirs import user_cache_path

from autotune.backends.humming.rows import Row
from autotune.errors import UserError
from autotune.machine.devices import Device
from autotune.problem.layer import Layer, Stage, gemm_dims

DISTRIBUTION: Final = "humming-kernels"
READ: Final = "0.1.19"
"""The version whose rules and calls are followed here."""

GEMM_TYPE: Final = "indexed"
"""What vLLM 0.33 takes without expert parallelism, unless VLLM_HUMMING_MOE_GEMM_TYPE says otherwise."""

COMPUTE: Final = {"use_batch_invariant": False, "use_f16_accum": False, "gemm_type": GEMM_TYPE}
"""vLLM's `compute_config` by default."""

CACHE_VARIABLE: Final = "HUMMING_CACHE_DIR"

_BUILDS_NOTHING: Final = "HUMMING_DISABLE_PARALLEL_BUILD"
_OURS: Final = f"AUTOTUNE_SET_{_BUILDS_NOTHING}"

_PAD_N, _PAD_K = 256, 128  # vLLM 0.33.0, quantization/utils/humming/moe.py
_THREADS_PER_SM, _REGISTERS_PER_SM = 2048, 65536
_STATIC_SHARED_MEMORY = 48 << 10
"""Bytes that a block has without asking for more."""


def version() -> str | None:
    """The installed version; None: it is not installed."""
    try:
        return importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return None if importlib.util.find_spec("humming") is None else READ


def load(module: str = "humming") -> Any:
    """A module of humming's.

    Raises:
        UserError: it is not installed, or something that it imports is not.
    """
    if module in sys.modules:
        return sys.modules[module]
    # Importing it would start two processes that build what the wheel brings compiled. Afterwards the
    # variable would keep humming from compiling the variants of a kernel side by side, each of which takes
    # seconds. A child that is started meanwhile inherits it, and the word that it is ours.
    asked = None if _OURS in os.environ else os.environ.get(_BUILDS_NOTHING)
    os.environ[_OURS] = os.environ[_BUILDS_NOTHING] = "1"
    try:
        return importlib.import_module(module)
    except ImportError as error:
        missing = error.name or str(error)
        raise UserError(
            f"humming's kernels cannot be loaded, {missing} is missing: pip install 'moe-autotune[humming]'"
        ) from error
    finally:
        if asked is None:
            del os.environ[_BUILDS_NOTHING]
        else:
            os.environ[_BUILDS_NOTHING] = asked
        del os.environ[_OURS]


def own_cache() -> None:
    """Lets humming keep kernels in a folder of this process and its workers, which is deleted at its end.

    A search compiles a thousand kernels that no server needs. A folder that the user names is kept.
    """
    if CACHE_VARIABLE in os.environ:  # the user's, or that of the process that started this one
        return
    folder, owner = user_cache_path("moe-autotune") / "humming" / str(os.getpid()), os.getpid()
    os.environ[CACHE_VARIABLE] = str(folder)
    atexit.register(_remove, folder, owner)


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # and not a fork of it
        shutil.rmtree(folder, ignore_errors=True)


def require_hopper(name: str, device: Device) -> None:
    """Makes sure that a device is one whose heuristic and rules are known here.

    Raises:
        UserError: it is not.
    """
    if device.arch != "sm_90":
        raise UserError(
            f"backend {name} tunes humming's kernels for compute capability 9.0 (H100, H200), not for"
            f" {device.name} ({device.arch}): run it on such a GPU"
        )


def without_gpu(device: Device) -> None:
    """Lets humming have the answers of the device table, so that nothing of it opens a GPU."""
    module = load("humming.device")
    facts = SimpleNamespace(
        index=0,
        name=device.name,
        is_ppu=False,
        sm_count=device.compute_units,
        sm_major=9,
        sm_minor=0,
        sm_version=90,
        max_threads_per_block=1024,
        max_threads_per_sm=_THREADS_PER_SM,
        max_registers_per_sm=_REGISTERS_PER_SM,
        l2_cache_size=device.last_level_cache_bytes,
        default_smem_size=_STATIC_SHARED_MEMORY,
        max_smem_size=device.lds_bytes,
    )
    module.current_device._value = facts
    module.DeviceInfo._instances[0] = module.current_device


@cache
def layer_config(row: Row, layer: Layer, stage: Stage) -> Any:
    """humming's `LayerConfig` of one stage, made as vLLM makes it of such a checkpoint."""
    import torch

    schema, dtypes = load("humming.schema"), load("humming.dtypes")
    n, k = gemm_dims(layer, stage)
    weights = schema.HummingWeightSchema(
        b_dtype=dtypes.uint4, bs_dtype=dtypes.bfloat16, weight_scale_group_size=row.group
    )
    inputs = schema.HummingInputSchema()
    if row.activation_bits == 8:
        inputs = schema.HummingInputSchema(a_dtype=dtypes.DataType.from_str(row.activations))
    return load("humming.transform").prepare_layer_config(
        shape_n=n,
        shape_k=k,
        weight_schema=weights,
        input_schema=inputs,
        num_experts=layer.experts,
        pad_n_to_multiple=_PAD_N,
        pad_k_to_multiple=_PAD_K,
        torch_dtype=torch.bfloat16,
        device=0,
    )


def layer_facts(row: Row, layer: Layer, stage: Stage) -> dict[str, Any]:
    """`layer_config` as JSON values: what a kernel is compiled for, and a bundle is known by."""
    facts: dict[str, Any] = json.loads(layer_config(row, layer, stage).to_str())
    return facts


def heuristic(row: Row, layer: Layer, stage: Stage, slots: int | None) -> Any:
    """What humming itself takes for so many rows, a dict; None: all its ranges, as vLLM asks for them.

    A range is `[above, up to, config]`, by rows: tokens * top_k.
    """
    gemm_type = load("humming.config").GemmType(GEMM_TYPE)
    config = layer_config(row, layer, stage)
    chosen = load("humming.tune")._get_heuristics_config(
        config, slots, False, False, False, gemm_type, 0, False
    )
    # It keeps what it answered, lists and all; tuples become lists, as in the JSON that vLLM hands on.
    return json.loads(json.dumps(chosen))


def require_capability(name: str) -> None:
    """Makes sure that the first GPU is one that `require_hopper` lets pass, and asks it from now on.

    Raises:
        UserError: it is not, or humming is not installed.
    """
    import torch

    module = load("humming.device")
    major, minor = torch.cuda.get_device_capability(0)
    if torch.version.hip is not None or (major, minor) != (9, 0):
        raise UserError(
            f"backend {name} tunes humming's kernels for compute capability 9.0 (H100, H200), and the GPU"
            f" here is {torch.cuda.get_device_name(0)}: run it on such a GPU"
        )
    module.current_device._value = None
    module.DeviceInfo._instances.pop(0, None)
    layer_config.cache_clear()
