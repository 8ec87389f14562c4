"""The interface between a family of kernels and the search."""

import builtins
import errno
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

from autotune.machine.devices import Device
from autotune.problem.layer import Layer, Problem, Stage
from autotune.results import Compiled, LayerConfig
from autotune.space.config import Config
from autotune.space.space import BoundSpace


class CompileRefused(Exception):
    """The compiler rejected a candidate; the message is one sentence from its diagnosis."""

    @classmethod
    def of(cls, error: Exception) -> "CompileRefused":
        """What a compiler raised, by its kind and the first line of its message.

        What it was raised for is told instead where that is the environment's: see `remedy`.
        """
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, ImportError | OSError):
            cause = cause.__cause__
        error = cause if isinstance(cause, Exception) else error
        lines = [line for line in str(error).splitlines() if line.strip()]
        kind = type(error).__name__
        return cls(f"{kind}: {lines[0].strip()[:300]}" if lines else kind)


_ENVIRONMENTS: Final = frozenset(
    kind.__name__
    for kind in vars(builtins).values()
    if isinstance(kind, type) and issubclass(kind, ImportError | OSError)
)
_ERRNO: Final = re.compile(r"\[Errno (\d+)\]")


def remedy(reason: str) -> str | None:
    """What mends a compile's failure that is the environment's, as words; None: it is the candidate's own.

    Args:
        reason: of a `CompileRefused`, or of a stored trial.
    """
    if "Failed to find C compiler" in reason:
        return "install a C compiler, e.g. gcc, or name one in the variable CC"
    kind = reason.partition(":")[0]
    if kind not in _ENVIRONMENTS:
        return None
    if kind in ("ImportError", "ModuleNotFoundError"):
        module = re.search(r"No module named '([\w.]+)'", reason)
        what = module[1].partition(".")[0] if module else "what it names"
        build = ", this platform's build of it" if what == "torch" else ""
        return f"install {what} in this environment{build}"
    number = _ERRNO.search(reason)
    code = int(number[1]) if number else 0
    if code in (errno.ENOSPC, errno.EDQUOT):
        return "free some space, or name folders that have some in TRITON_CACHE_DIR and TMPDIR"
    if code in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
        return "make it a folder that can be written, or name one in TRITON_CACHE_DIR (else it is under HOME)"
    return "put that right, then run the same command again"


@dataclass(frozen=True)
class Work:
    """What one launch asks of the device.

    Attributes:
        bytes_moved: expected bytes read and written, each once.
        workgroups: that do work.
        bytes_in_flight: bytes of loads that one workgroup has outstanding in its main loop.
    """

    bytes_moved: float
    workgroups: float
    bytes_in_flight: float


class Backend(Protocol):
    """A family of kernels: its spaces, and how a candidate is compiled.

    Instances are stateless: compile workers make their own from the name.

    Attributes:
        runtime: `module:function` that makes its `autotune.protocol.runtime.Runtime` in a measure worker.
    """

    name: str
    runtime: str

    def space(self, layer: Layer, tokens: int, stage: Stage, device: Device) -> BoundSpace:
        """The legal configs of a stage for the installed compiler.

        Raises:
            UserError: what this backend needs is not installed.
        """

    def seeds(self, layer: Layer, tokens: int, stage: Stage, device: Device) -> Mapping[str, Config]:
        """Configs to try after the default, by label: published ones and known good ones."""

    def artefact_key(self, layer: Layer, tokens: int, stage: Stage, config: Config) -> str:
        """Names what is compiled: configs and token counts with equal keys share one binary."""

    def environment(self, config: Config) -> Mapping[str, str]:
        """Process environment that the kernel needs; unlike environments need unlike processes."""

    def source_digest(self) -> str:
        """What the kernels are built from: a digest of our source, or the engine's commit."""

    def work(self, problem: Problem, stage: Stage, config: Config) -> Work:
        """What one launch asks of the device, for the offline estimate."""

    def compile(self, layer: Layer, tokens: int, stage: Stage, config: Config, device: Device) -> Compiled:
        """Compiles in this process; called in a worker that may be killed.

        Raises:
            CompileRefused: the compiler rejects it.
        """


def default_of(backend: Backend, layer: Layer, tokens: int, device: Device) -> LayerConfig:
    """The default of a layer: what runs where nothing is tuned."""
    stage1, stage2 = (backend.space(layer, tokens, stage, device).default for stage in Stage)
    return LayerConfig(stage1, stage2)


def program_key(backend: Backend, layer: Layer, tokens: int, config: LayerConfig) -> tuple[str, ...]:
    """What is launched for a layer config, by the keys of what is compiled: equal names are one program."""
    return tuple(backend.artefact_key(layer, tokens, stage, config.of(stage)) for stage in Stage)


def published_of(backend: Backend, layer: Layer, tokens: int, device: Device) -> LayerConfig | None:
    """The config that was published for a layer; None: none was, or of one stage only."""
    stage1, stage2 = (backend.seeds(layer, tokens, stage, device).get("published") for stage in Stage)
    return LayerConfig(stage1, stage2) if stage1 is not None and stage2 is not None else None


@runtime_checkable
class SharesConfig(Protocol):
    """A backend that says whether its engine has one config for both stages."""

    @property
    def one_config(self) -> bool:
        """Whether a layer can only be deployed with equal configs."""


def one_config(backend: object) -> bool:
    """Whether both stages of a layer must have the same config."""
    return isinstance(backend, SharesConfig) and backend.one_config


@dataclass(frozen=True)
class Listing:
    """A candidate's machine code.

    Attributes:
        text: assembly, or PTX.
    """

    text: str
    compiled: Compiled


@runtime_checkable
class Lists(Protocol):
    """A backend that shows its machine code."""

    def listing(self, layer: Layer, tokens: int, stage: Stage, config: Config, device: Device) -> Listing:
        """Compiles in this process.

        Raises:
            CompileRefused: the compiler rejects it.
        """
