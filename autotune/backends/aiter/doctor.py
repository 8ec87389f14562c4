"""AITER: which generation, which commit, and whether it has the third published patch."""

import ast
import re
from dataclasses import dataclass
from pathlib import Path

from autotune.backends.aiter.contract import check_aiter
from autotune.backends.aiter.source import SOURCE_VARIABLE, Generation, generation_of
from autotune.backends.flydsl.tree import git_commit
from autotune.protocol.finding import Finding, State, contract_finding
from autotune.protocol.host import Host


@dataclass(frozen=True)
class Aiter:
    """An AITER.

    Attributes:
        package: the folder `aiter/`.
        version: of its distribution; None: a bare source tree.
        commit: hex; None: no git checkout.
        round_to_zero: whether FMHA rounds bfloat16 towards zero by default; None: its source does not tell.
    """

    package: Path
    version: str | None
    commit: str | None
    generation: Generation
    round_to_zero: bool | None


def find_aiter(host: Host) -> Aiter | None:
    """The AITER that `AUTOTUNE_AITER_SRC` names, or the installed one; None: there is none."""
    named = host.environ.get(SOURCE_VARIABLE)
    package = Path(named) / "aiter" if named else host.package("aiter")
    if package is None or not (package / "fused_moe.py").is_file():
        return None
    version = None if named else host.version("amd_aiter") or host.version("aiter")
    return Aiter(
        package,
        version,
        git_commit(package.parent),
        generation_of(package),
        rounds_to_zero(package / "ops/mha.py"),
    )


def rounds_to_zero(source: Path) -> bool | None:
    """Whether `how_v3_bf16_cvt` defaults to 2 in both public FMHA functions, as in aiter b5757d6, ops/mha.py.

    None: the file is not there, or has no such functions.
    """
    try:
        tree = ast.parse(source.read_text(encoding="utf-8", errors="replace"))
    except (OSError, SyntaxError):
        return None
    defaults = {
        node.name: default
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name in ("flash_attn_func", "flash_attn_varlen_func")
        for default in [_default(node, "how_v3_bf16_cvt")]
        if default is not None
    }
    return all(value == 2 for value in defaults.values()) if defaults else None


def _default(function: ast.FunctionDef, parameter: str) -> object:
    """The constant that a parameter defaults to; None: it has no such parameter or default."""
    arguments = function.args
    positional = [*arguments.posonlyargs, *arguments.args]
    pairs = [
        *zip(reversed(positional), reversed(arguments.defaults), strict=False),
        *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
    ]
    return next(
        (
            value.value
            for argument, value in pairs
            if argument.arg == parameter and isinstance(value, ast.Constant)
        ),
        None,
    )


def aiter_findings(aiter: Aiter | None) -> list[Finding]:
    """AITER, and its FMHA default, as findings."""
    if aiter is None:
        remedy = "use the image that serves the model, or name a source tree with AUTOTUNE_AITER_SRC"
        return [Finding("AITER", State.NO, "not installed", remedy)]
    known = [
        aiter.generation,
        aiter.version and f"version {aiter.version}",
        aiter.commit and aiter.commit[:10],
    ]
    detail = ", ".join([*(str(part) for part in known if part), str(aiter.package)])
    found = [Finding("AITER", State.YES, detail), _fmha(aiter)]
    if aiter.generation is not Generation.OTHER:
        misfits = check_aiter(aiter.package, aiter.generation)
        found.append(contract_finding("AITER", misfits, "511df6a, b5757d6, or main of August 2026"))
    return found


def pin_findings(aiter: Aiter | None, wheel: str | None) -> list[Finding]:
    """Whether AITER accepts the flydsl wheel beside it; nothing where it does not say, or there is none.

    aiter b5757d6, ops/flydsl/__init__.py:15-36: another version is an ImportError, which `aiter.tuned_gemm`,
    and so the engine's bfloat16 GEMMs, run into. `aiter.fused_moe` does not.
    """
    source = aiter.package / "ops/flydsl/__init__.py" if aiter else None
    if source is None or wheel is None or not source.is_file():
        return []
    pin = re.search(r'_REQUIRED_FLYDSL_VERSION\s*=\s*"([^"]+)"', source.read_text(errors="replace"))
    if pin is None:
        return []
    if pin.group(1) == wheel:
        return [Finding("AITER takes the wheel", State.YES, f"both are {wheel}")]
    detail = f"aiter.ops.flydsl imports with flydsl {pin.group(1)} only, here is {wheel}; fused_moe works"
    remedy = (
        f"give {wheel} a Python of its own (AUTOTUNE_FLYDSL_PYTHON), and the engine the FlyDSL of its image"
    )
    return [Finding("AITER takes the wheel", State.NO, detail, remedy)]


def _fmha(aiter: Aiter) -> Finding:
    name = "FMHA rounds to zero"
    if aiter.round_to_zero is None:
        return Finding(name, State.NOTE, "ops/mha.py does not tell")
    if aiter.round_to_zero:
        return Finding(name, State.YES, "how_v3_bf16_cvt defaults to 2, as in the third published patch")
    return Finding(
        name,
        State.NO,
        "how_v3_bf16_cvt defaults to 1; no part of the MoE, but of the published times",
        "take aiter b5757d6 to repeat those, else leave it",
    )
