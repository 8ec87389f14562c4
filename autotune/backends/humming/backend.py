"""humming's spaces, what is compiled, and how."""

import hashlib
import io
import time
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from autotune.backends.humming import library
from autotune.backends.humming.knobs import config_of, entry, whole
from autotune.backends.humming.rows import Row, row_of
from autotune.backends.humming.shared_memory import shared_memory_rules
from autotune.machine.devices import Device
from autotune.problem.arithmetic import Computes
from autotune.problem.layer import Layer, Problem, Stage, gemm_dims
from autotune.protocol.backend import CompileRefused, Work
from autotune.protocol.legality import require_layout
from autotune.protocol.registry import weight_bytes
from autotune.results import Compiled, StaticFacts
from autotune.space.config import Config
from autotune.space.expressions import Expression
from autotune.space.read import shipped_spaces
from autotune.space.space import BoundSpace, Override, Space

_TOOLKIT = "13.0"
"""What humming is told of the compiler where only its rules are asked; from 13.4 on it uses more of it."""
_COMPILED = "failed with exit code"  # humming's words where the compiler ran
_ALWAYS = Expression.parse("0 == 0")


def backend(name: str) -> "HummingBackend":
    """The backend of a row, whose kernels are compiled into a cache of this process's own."""
    library.own_cache()
    return HummingBackend(row_of(name))


@dataclass(frozen=True)
class HummingBackend:
    """One format of humming's indexed MoE GEMM."""

    row: Row

    @property
    def name(self) -> str:
        return self.row.name

    @property
    def runtime(self) -> str:
        """The kernels on the device."""
        return f"autotune.backends.humming.runtime:make_runtime({self.name})"

    @property
    def computes(self) -> Computes:
        """What the kernels take."""
        return self.row.computes

    def space(self, layer: Layer, tokens: int, stage: Stage, device: Device) -> BoundSpace:
        library.require_hopper(self.name, device)
        require_layout(self.name, self.computes, layer)
        space = _spaces(self.row)[stage]
        default = self.default_config(layer, tokens, stage, device)
        overrides = (Override(_ALWAYS, dict(default)),)
        return replace(space, overrides=overrides, stored_as=space.digest).at(layer, tokens, device)

    def default_config(self, layer: Layer, tokens: int, stage: Stage, device: Device) -> Config:
        """What humming takes by itself at so many tokens."""
        library.without_gpu(device)
        return config_of(library.heuristic(self.row, layer, stage, tokens * layer.top_k))

    def seeds(self, layer: Layer, tokens: int, stage: Stage, device: Device) -> Mapping[str, Config]:
        return {}  # nobody has published any

    def artefact_key(self, layer: Layer, tokens: int, stage: Stage, config: Config) -> str:
        return f"{self.name}/{layer.key}/{stage}/{config.key}"  # the number of rows is an argument

    def environment(self, config: Config) -> Mapping[str, str]:
        return {}

    def source_digest(self) -> str:
        return source_digest()

    def work(self, problem: Problem, stage: Stage, config: Config) -> Work:
        """Weights once, activations once, outputs once."""
        n, k = gemm_dims(problem.layer, stage)
        slots = problem.tokens * problem.layer.top_k
        blocks = min(float(slots), problem.expected_experts() + slots // whole(config, "block_m"))
        rows = problem.tokens if stage is Stage.STAGE1 else slots
        weights, columns = weight_bytes(self.name), whole(config, "block_n")
        return Work(
            bytes_moved=weights.read(problem, stage)
            + rows * k * self.row.activation_bits // 8
            + 2 * slots * n,
            workgroups=blocks * -(-n // columns),
            bytes_in_flight=columns * whole(config, "block_k") * weights.weight * whole(config, "num_stages"),
        )

    def compile(self, layer: Layer, tokens: int, stage: Stage, config: Config, device: Device) -> Compiled:
        library.without_gpu(device)
        started, printed = time.perf_counter(), io.StringIO()
        try:
            with redirect_stdout(printed):
                kernel = kernel_class()(**kernel_arguments(self.row, layer, stage, config))
        except (AssertionError, ValueError, OSError) as error:
            raise CompileRefused.of(error) from error
        except RuntimeError as error:
            raise _refused(error, printed.getvalue()) from error
        code = Path(kernel.kernel_filename).read_bytes()
        facts = StaticFacts(lds_bytes=kernel.estimated_smem_size)
        return Compiled(hashlib.sha256(code).hexdigest(), facts, time.perf_counter() - started)


def _refused(error: RuntimeError, printed: str) -> CompileRefused:
    """Why there is no kernel: what the compiler said of it, or that there is no compiler.

    Args:
        printed: what humming printed, the compiler's messages.
    """
    if _COMPILED not in str(error):  # it could not even be started, which is nobody's fault but the machine's
        return CompileRefused.of(OSError(str(error)))
    told = next((line.strip() for line in printed.splitlines() if "error" in line), str(error))
    return CompileRefused.of(RuntimeError(told))


def kernel_arguments(row: Row, layer: Layer, stage: Stage, config: Config) -> dict[str, Any]:
    """What humming's kernel class is made with."""
    return {**library.layer_facts(row, layer, stage), **library.COMPUTE, **entry(config)}


@cache
def kernel_class(*, compiling: bool = True) -> Any:
    """humming's kernel, which is compiled when it is made, and which its launcher is not told of.

    Args:
        compiling: False: only its rules are asked, nothing is compiled.
    """
    module = library.load("humming.kernel.humming")

    class Kernel(module.HummingKernel):  # type: ignore[misc,name-defined]
        def register_kernel(self) -> None:
            """The launcher library needs a driver."""

    class NoCompiler:
        @staticmethod
        def signature() -> str:
            return f"none+{_TOOLKIT}"

    class Asked(Kernel):
        @staticmethod
        def _get_compiler() -> type[NoCompiler]:
            return NoCompiler

        def prepare(self) -> None:
            """Compiles nothing."""

    return Kernel if compiling else Asked


@cache
def source_digest() -> str:
    """The version, and the start of SHA-256 over what kernels are made of."""
    library.load()
    folder = Path(library.load("humming").__file__).parent
    digest = hashlib.sha256()
    for path in sorted(
        [*folder.glob("include/**/*.cuh"), *folder.glob("kernel/*.py"), *folder.glob("config/*.py")]
    ):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return f"humming {library.version()} {digest.hexdigest()[:16]}"


@cache
def _spaces(row: Row) -> Mapping[Stage, Space]:
    rules = shared_memory_rules(row)
    return {
        stage: replace(space, backend=row.name, rules=(*space.rules, *rules))
        for stage, space in shipped_spaces(row.spaces).items()
    }
