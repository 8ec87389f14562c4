"""What the search needs of a family of kernels."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from autotune.compile.estimate import Work
from autotune.config import Config
from autotune.devices import Device
from autotune.problem import Layer, Problem, Stage
from autotune.results import Compiled
from autotune.space import BoundSpace


class CompileRefused(Exception):
    """The compiler rejected a candidate; the message is one sentence from its diagnosis."""

    @classmethod
    def of(cls, error: Exception) -> "CompileRefused":
        """What a compiler raised, by its kind and the first line of its message."""
        lines = [line for line in str(error).splitlines() if line.strip()]
        kind = type(error).__name__
        return cls(f"{kind}: {lines[0].strip()[:300]}" if lines else kind)


class Backend(Protocol):
    """A family of kernels: its spaces, and how a candidate is compiled.

    Instances are stateless: compile workers make their own from the name.

    Attributes:
        runtime: `module:function` that makes its `autotune.measure.runtime.Runtime` in a measure worker.
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
