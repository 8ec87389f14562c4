"""An engine, and its kernel at a dtype: a row, of which a backend is made."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from autotune.engines.calls import EngineCalls
from autotune.engines.dtypes import Dtype
from autotune.engines.moe import Quantisation
from autotune.kernels.formats import BLOCK, Format


@dataclass(frozen=True)
class Engine:
    """What is an engine's own in its Triton fused MoE.

    Attributes:
        name: of its Python package.
        title: for people.
        files: the file with the kernels, and the one that quantises activations to INT8, by their path in the
            source.
        stand_ins: for `hip` or `cuda` and an architecture, the attributes of modules that those files import
            and that are not run, by module.
        calls: makes its launches, of the two modules, the dtype, `Row.per_channel` and what the kernel
            multiplies.
        configs: folder of the configs that it ships.
        one_config: one config serves both stages.
        fused: shared experts that it counts as routed ones, by the model's `model_type`, its routed experts
            and the engine's selector of the dtype.
        spread: why it does not spread experts with `--tp` and `--ep`; None: it does.
    """

    name: str
    title: str
    files: tuple[str, str]
    stand_ins: Callable[[str, str], Mapping[str, Mapping[str, Any]]]
    calls: Callable[[Any, Any, Dtype, bool, Format], EngineCalls]
    configs: str
    one_config: bool = False
    fused: Callable[[str, int, str | None], int] = lambda family, experts, dtype: 0
    spread: Callable[[int, int], str | None] = lambda tp, ep: None


@dataclass(frozen=True)
class Row:
    """An engine's kernel at a dtype.

    Attributes:
        name: of the backend.
        spaces: folder under `search_spaces/`.
        per_channel: SGLang is told, and has in the file's name, that weights have a scale per channel and
            activations one a token.
    """

    name: str
    engine: Engine
    dtype: Dtype
    spaces: str
    per_channel: bool = False

    @property
    def quantisation(self) -> Quantisation:
        """What the engine's file is looked for by."""
        block = (0, self.dtype.group) if self.dtype.group else None
        if self.dtype.blocks:
            block = (BLOCK, BLOCK)
        return Quantisation(self.dtype.selector, block, self.per_channel)
