"""AITER's own lookup of a fused-MoE row, which `processes.lookup` runs.

`aiter/fused_moe.py` is run as it is. Of `aiter/jit/core.py`, which builds kernels when it is imported, only
the class that finds and merges the tables is run. Values of torch and of AITER's native module are stood in
for by names that print as the real ones do, since the rows are matched by what they print.
"""

import ast
import functools
import logging
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from autotune.engines.stand_in import StandIn, StandIns
from autotune.processes.lookup import Select

FUSED_MOE = "aiter/fused_moe.py"
CORE = "aiter/jit/core.py"
_MERGED = "/tmp/aiter_configs/"
_SAYS = "[fused_moe] using"
ROW = ("block_m", "ksplit", "run_1stage")
"""What it takes from a row besides the kernels, by the names of its own variables."""
_CHOICE = re.compile(r"kernelName1='(?P<stage1>[^']*)', kernelName2='(?P<stage2>[^']*)'")


class Named:
    """Prints as its name, and equals its like."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __str__(self) -> str:
        return self.name

    __repr__ = __str__

    @property
    def value(self) -> str:
        """As an enumeration's member has one."""
        return self.name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Named) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)


class Names:
    """Any attribute is a `Named` with this prefix; AITER's short names for torch's dtypes are known."""

    def __init__(self, prefix: str, known: dict[str, str] | None = None) -> None:
        self._prefix = prefix
        self._known = known or {}

    def __getattr__(self, name: str) -> Named:
        if name.startswith("__"):
            raise AttributeError(name)
        return Named(self._known.get(name, f"{self._prefix}.{name}"))


def aiter_lookup(request: dict[str, Any], messages: list[str]) -> tuple[Select, Select]:
    """Selects by tokens, for each name of the weights' dtype: the kernels of both stages, and `ROW`.

    Empty names are AITER's heuristics.
    """
    root, key = Path(request["root"]), request["key"]
    gfx, fp8 = key["gfx"], "float8_e4m3fnuz" if key["gfx"] == "gfx942" else "float8_e4m3fn"
    short = {
        "bf16": "torch.bfloat16",
        "fp16": "torch.float16",
        "fp32": "torch.float32",
        "fp8": f"torch.{fp8}",
        "i8": "torch.int8",
        "i4x2": "torch.int4",
        "fp4x2": "torch.float4_e2m1fn_x2",
    }
    logger = logging.getLogger("aiter")
    shared = {
        "logger": logger,
        "dtypes": Names("torch", short),
        "QuantType": Names("QuantType"),
        "ActivationType": Names("ActivationType"),
    }
    chip = {name: lambda *_: gfx for name in ("get_gfx", "get_gfx_runtime")}
    chip |= {"get_cu_num": lambda *_: key["cu_num"], "gfx_from_cu_num": lambda *_: gfx}
    opus = SimpleNamespace(
        is_opus_a8w4_stage2_kernel=lambda *_: False,
        cfg_is_supported=lambda *_, **__: (True, ""),
    )
    name = FUSED_MOE.removesuffix(".py").replace("/", ".")
    StandIns(
        ("aiter", "torch", "triton", "flydsl"),
        {name: root / FUSED_MOE},
        {
            "torch": _torch(),
            "aiter": shared,
            "aiter.jit.core": {"AITER_CONFIGS": _tables(root, Path(request["scratch"]), logger)},
            "aiter.jit.utils.chip_info": chip,
            "aiter.jit.utils.torch_guard": {"torch_compile_guard": lambda *_, **__: lambda fn: fn},
            "aiter.ops.flydsl.moe_common": {"GateMode": _GateMode},
            "aiter.ops.flydsl.mxfp4_kname": {"is_mxfp4_kname": lambda *_: False},
            "aiter.ops.opus": {"moe_stage2_a8w4": opus},
        },
    ).install()
    engine: Any = __import__(name, fromlist=["x"])
    engine.fused_moe_1stage_dict = {gfx: {}}
    if request.get("regime"):
        engine.set_moe_regime(request["regime"])

    taken = _Taken()
    logger.addFilter(taken)

    def select(tokens: int) -> dict[str, Any]:
        return {name: chosen(tokens, name) for name in key["q_dtypes_w"]}

    def chosen(tokens: int, q_dtype_w: str) -> dict[str, Any]:
        before, taken.values = len(messages), {}
        failed = None
        arguments = (
            *(engine.get_padded_M(tokens), key["model_dim"], key["inter_dim"], key["experts"], key["top_k"]),
            *(Named(key["dtype"]), Named(key["q_dtype_a"]), Named(q_dtype_w), Named(key["q_type"])),
            *(key["use_g1u1"], Named(key["act_type"]), key["doweight_stage1"], 0, 0),
        )
        try:
            engine.get_2stage_cfgs(*arguments)
        except Exception as error:
            # What follows the choice binds kernels, which are not here; the choice itself was logged.
            logging.getLogger(__name__).debug("after the choice", exc_info=True)
            failed = error
        said = [text for text in messages[before:] if _SAYS in text]
        if not said:
            raise failed or RuntimeError("AITER does not say what it chose: its log line is another one")
        choice = _CHOICE.search(said[-1])
        kernels = (choice["stage1"], choice["stage2"]) if choice else ("", "")
        engine.get_2stage_cfgs.cache_clear()
        names = {"kernelName1": kernels[0], "kernelName2": kernels[1]}
        return {**names, **taken.values, "bucket": engine.get_padded_M(tokens)}

    return select, lambda tokens: {}


class _Taken(logging.Filter):
    """Notes what AITER has taken from a row when it says which kernels it uses: it logs these alone."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, Any] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        frame = sys._getframe() if _SAYS in record.getMessage() else None
        while frame is not None and frame.f_code.co_name != "get_2stage_cfgs":
            frame = frame.f_back
        if frame is not None:
            self.values = {name: int(frame.f_locals[name]) for name in ROW if name in frame.f_locals}
        return True


class _GateMode:
    """AITER's enumeration of weight layouts, of which the lookup only needs a value."""

    SEPARATED = SimpleNamespace(value="separated")

    def __init__(self, value: str) -> None:
        self.value = value


def _torch() -> dict[str, Any]:
    names = Names("torch")
    dtypes = ("bfloat16", "float16", "float32", "uint32", "int8", "int4", "float4_e2m1fn_x2")
    return {name: getattr(names, name) for name in dtypes}


def _tables(root: Path, scratch: Path, logger: logging.Logger) -> Any:
    """An instance of AITER's class that finds and merges the tables, which writes into `scratch`."""
    tree = ast.parse((root / CORE).read_text())
    wanted = [node for node in tree.body if _is_of_tables(node)]
    for node in ast.walk(ast.Module(wanted, [])):
        if isinstance(node, ast.Constant) and node.value == _MERGED:
            node.value = f"{scratch}/"

    def mp_lock(lock_path: str, main: Callable[[], None], *_: Any, **__: Any) -> None:
        main()

    space: dict[str, Any] = {
        "os": os,
        "re": re,
        "functools": functools,
        "logger": logger,
        "mp_lock": mp_lock,
        "AITER_ROOT_DIR": str(root),
        "Any": Any,
    }
    space = _Forgiving(space)
    exec(compile(ast.Module(wanted, []), str(root / CORE), "exec"), space)
    return space["AITER_CONFIG"]()


class _Forgiving(dict[str, Any]):
    """A module's names, of which those that the tables do not need are made up."""

    def __missing__(self, name: str) -> Any:
        import builtins

        return getattr(builtins, name) if hasattr(builtins, name) else StandIn()


def _is_of_tables(node: ast.stmt) -> bool:
    if isinstance(node, ast.ClassDef):
        return node.name == "AITER_CONFIG"
    targets = node.targets if isinstance(node, ast.Assign) else []
    return any(isinstance(t, ast.Name) and t.id.startswith("AITER_CONFIG_") for t in targets)
