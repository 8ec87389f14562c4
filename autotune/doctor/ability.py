"""What each backend can do here: measure, only compile, or nothing."""

from dataclasses import dataclass
from enum import StrEnum

from autotune.backends.aiter.doctor import Aiter
from autotune.backends.aiter.source import Generation
from autotune.backends.flydsl.doctor import Flydsl
from autotune.backends.flydsl.tree import Generation as Kernels
from autotune.backends.flydsl.wheel import fits, remedy
from autotune.doctor.gpu import Gpu
from autotune.doctor.packages import Torch
from autotune.protocol.host import Host


class Can(StrEnum):
    """The most that a backend can do."""

    MEASURE = "measures"
    COMPILE = "only compiles"
    NOTHING = "does nothing"


@dataclass(frozen=True)
class Ability:
    """A backend here.

    Attributes:
        remedy: the one thing to do for more; empty: there is no more.
    """

    backend: str
    can: Can
    remedy: str = ""


@dataclass(frozen=True)
class Facts:
    """What abilities follow from."""

    gpu: Gpu | None
    torch: Torch | None
    triton: bool
    aiter: Aiter | None
    flydsl: Flydsl
    engines: frozenset[str]


_ON_THE_CARD = "run it on the machine with the GPU"


def abilities(facts: Facts) -> list[Ability]:
    """One entry a family of kernels."""
    return [
        _triton(facts),
        *(_engine(facts, name) for name in ("sglang", "vllm")),
        _flydsl(facts),
        _aiter(facts),
        _aiter_main(facts),
        _aiter_main_w4a16(facts),
    ]


def engines_here(host: Host) -> frozenset[str]:
    """Engines whose source is installed or named."""
    names = {"sglang": "AUTOTUNE_SGLANG_SRC", "vllm": "AUTOTUNE_VLLM_SRC"}
    return frozenset(n for n, variable in names.items() if host.environ.get(variable) or host.package(n))


def _measures(facts: Facts) -> str:
    """The one thing that measuring lacks; empty: nothing."""
    if facts.gpu is None:
        return _ON_THE_CARD
    if facts.torch is None or not facts.torch.drives(facts.gpu):
        kind = "ROCm" if facts.gpu.runtime == "hip" else "CUDA"
        return f"install the {kind} build of torch"
    return ""


def _triton(facts: Facts) -> Ability:
    if not facts.triton:
        return Ability("triton", Can.NOTHING, "pip install 'moe-autotune[local]'")
    lacks = _measures(facts)
    return Ability("triton", Can.COMPILE if lacks else Can.MEASURE, lacks)


def _engine(facts: Facts, name: str) -> Ability:
    if name not in facts.engines:
        remedy = f"install {name}, or name its wheel with AUTOTUNE_{name.upper()}_SRC"
        return Ability(name, Can.NOTHING, remedy)
    return Ability(name, *_of(_triton(facts)))


def _of(ability: Ability) -> tuple[Can, str]:
    return ability.can, ability.remedy


def _flydsl(facts: Facts) -> Ability:
    if facts.flydsl.tree is None:
        return Ability("flydsl", Can.NOTHING, "set DSL2_ROOT to a FlyDSL source tree")
    if not facts.flydsl.compiles:
        return Ability("flydsl", Can.NOTHING, "install the wheel that matches the tree")
    if facts.gpu is None or facts.gpu.runtime != "hip":
        return Ability("flydsl", Can.COMPILE, "run it on a machine with an AMD Instinct GPU")
    lacks = _measures(facts)
    return Ability("flydsl", Can.COMPILE if lacks else Can.MEASURE, lacks)


def _aiter(facts: Facts) -> Ability:
    compiles = facts.flydsl.compiles and facts.flydsl.tree is not None
    can = Can.COMPILE if compiles else Can.NOTHING
    if facts.gpu is None or facts.gpu.runtime != "hip":
        return Ability("aiter", can, "run it on a machine with an AMD Instinct GPU, in the image that serves")
    lacks = _measures(facts)
    if lacks:
        return Ability("aiter", can, lacks)
    if facts.aiter is None:
        return Ability("aiter", can, "run it in the image that serves, where AITER is installed")
    if facts.aiter.generation is Generation.OTHER:
        return Ability("aiter", can, "install aiter 511df6a or b5757d6 (published)")
    if facts.aiter.generation is Generation.MAIN:
        return Ability("aiter", can, "use --backend aiter_main, or aiter 511df6a or b5757d6 (published)")
    if facts.flydsl.tree is None:
        return Ability("aiter", can, "set DSL2_ROOT to the FlyDSL tree that the engine uses")
    return Ability("aiter", Can.MEASURE)


def _aiter_main(facts: Facts) -> Ability:
    if facts.aiter is None or facts.aiter.generation is not Generation.MAIN:
        return Ability("aiter_main", Can.NOTHING, "install AITER main; it has no W4A8, only other formats")
    if facts.gpu is None or facts.gpu.runtime != "hip":
        return Ability("aiter_main", Can.NOTHING, "run it on a machine with an AMD Instinct GPU")
    lacks = _measures(facts)
    return Ability("aiter_main", Can.NOTHING if lacks else Can.MEASURE, lacks)


def _aiter_main_w4a16(facts: Facts) -> Ability:
    """Its kernels lie in AITER main itself; the wheel compiles them, with a GPU or without."""
    name, wheel = "aiter_main_w4a16", facts.flydsl.wheel
    if facts.aiter is None or facts.aiter.generation is not Generation.MAIN:
        return Ability(name, Can.NOTHING, "install AITER main; it has no W4A8, only other formats")
    if wheel is None or not fits(Kernels.AITER, wheel):
        return Ability(name, Can.NOTHING, remedy(Kernels.AITER, facts.flydsl.python))
    if facts.gpu is None or facts.gpu.runtime != "hip":
        return Ability(name, Can.COMPILE, "run it on a machine with an AMD Instinct GPU")
    lacks = _measures(facts)
    if not lacks and facts.gpu.arch.startswith("gfx94"):
        # LLVM aborts on stage 2 there, so a layer cannot be confirmed.
        return Ability(name, Can.MEASURE, "stage 1 only: its stage 2 does not compile for gfx942")
    return Ability(name, Can.COMPILE if lacks else Can.MEASURE, lacks)
