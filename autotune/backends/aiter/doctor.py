"""AITER: its generation and commit, the third published patch, and what would make a search lie."""

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autotune.backends.aiter.contract import check_aiter
from autotune.backends.aiter.source import SOURCE_VARIABLE, AiterGeneration, generation_of
from autotune.backends.flydsl.doctor import find_flydsl
from autotune.backends.flydsl.tree import git_commit
from autotune.protocol.doctor import Ability, Can, Doctor, Finding, Machine, State, contract_finding
from autotune.protocol.host import Host

# Read with int() and swallowed where that fails (aiter 511df6a, fused_moe.py:1968-1981 and 2516-2525): a bad
# TILE_N takes the stage's TILE_K and its automatic rule with it.
_TILES = tuple(f"AITER_FLYDSL_STAGE{stage}_TILE_{side}" for stage in (1, 2) for side in "NKM")
_MERGED_TABLE = "/tmp/aiter_configs/tuned_fmoe.csv"


class AiterDoctor(Doctor):
    """See `protocol.doctor.Doctor`."""

    def findings(self, machine: Machine) -> Sequence[Finding]:
        host = machine.host
        aiter = find_aiter(host)
        return [
            *aiter_findings(aiter),
            *pin_findings(aiter, host.version("flydsl")),
            *_tiles(host),
            *_tables(host),
        ]

    def ability(self, machine: Machine) -> Ability:
        flydsl, aiter = find_flydsl(machine.host), find_aiter(machine.host)
        without = Can.COMPILE if flydsl.compiles else Can.NOTHING
        if not machine.has_instinct:
            return Ability(without, "run it on a machine with an AMD Instinct GPU, in the image that serves")
        able = machine.able(without)
        if able.remedy:
            return able
        if aiter is None:
            return Ability(without, "run it in the image that serves, where AITER is installed")
        if aiter.generation is AiterGeneration.OTHER:
            return Ability(without, "install aiter 511df6a or b5757d6 (published)")
        if aiter.generation is AiterGeneration.MAIN:
            return Ability(without, "use --backend aiter_main, or aiter 511df6a or b5757d6 (published)")
        if flydsl.tree is None:
            return Ability(without, "set DSL2_ROOT to the FlyDSL tree that the engine uses")
        return able


@dataclass(frozen=True)
class AiterInstall:
    """An AITER.

    Attributes:
        package: the folder `aiter/`.
        version: of its distribution; None: a bare source tree.
        commit: hex; None: no git checkout.
    """

    package: Path
    version: str | None
    commit: str | None
    generation: AiterGeneration


def find_aiter(host: Host) -> AiterInstall | None:
    """The AITER that `AUTOTUNE_AITER_SRC` names, or the installed one; None: there is none."""
    named = host.environ.get(SOURCE_VARIABLE)
    package = Path(named) / "aiter" if named else host.package("aiter")
    if package is None or not (package / "fused_moe.py").is_file():
        return None
    version = None if named else host.version("amd_aiter") or host.version("aiter")
    return AiterInstall(package, version, git_commit(package.parent), generation_of(package))


def rounds_to_zero(source: Path) -> bool | None:
    """Whether `how_v3_bf16_cvt` defaults to 2 in both public FMHA functions, as in aiter b5757d6, ops/mha.py.

    None: the file is not there, or has no such functions.
    """
    try:
        tree = ast.parse(source.read_text(encoding="utf-8", errors="replace"))
    except (OSError, SyntaxError, ValueError):  # the last of null bytes
        return None
    defaults = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name in ("flash_attn_func", "flash_attn_varlen_func"):
            arguments = node.args
            positional = reversed([*arguments.posonlyargs, *arguments.args])
            pairs = [
                *zip(positional, reversed(arguments.defaults), strict=False),
                *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
            ]
            defaults += [
                value.value
                for argument, value in pairs
                if argument.arg == "how_v3_bf16_cvt" and isinstance(value, ast.Constant)
            ]
    return all(value == 2 for value in defaults) if defaults else None


def aiter_findings(aiter: AiterInstall | None) -> list[Finding]:
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
    findings = [Finding("AITER", State.YES, detail), _fmha(aiter)]
    if aiter.generation is not AiterGeneration.OTHER:
        misfits = check_aiter(aiter.package, aiter.generation)
        findings.append(contract_finding("AITER", misfits, "511df6a, b5757d6, or main of August 2026"))
    return findings


def pin_findings(aiter: AiterInstall | None, wheel: str | None) -> list[Finding]:
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


def _fmha(aiter: AiterInstall) -> Finding:
    name = "FMHA rounds to zero"
    to_zero = rounds_to_zero(aiter.package / "ops/mha.py")
    if to_zero is None:
        return Finding(name, State.NOTE, "ops/mha.py does not tell")
    if to_zero:
        return Finding(name, State.YES, "how_v3_bf16_cvt defaults to 2, as in the third published patch")
    return Finding(
        name,
        State.NO,
        "how_v3_bf16_cvt defaults to 1; no part of the MoE, but of the published times",
        "take aiter b5757d6 to repeat those, else leave it",
    )


def _tiles(host: Host) -> list[Finding]:
    findings = []
    for name in _TILES:
        value = host.environ.get(name)
        if value is None:
            continue
        if value and not value.strip().isdecimal():
            detail = (
                f"{value!r} is not a number: AITER drops it, and with it what it would have read after it"
            )
        elif name.endswith("_M"):
            detail = f"{value!r}: unlike the sort's block size it gives wrong numbers"
        else:
            detail = f"{value!r}: no default is the shipped one with it"
        findings.append(Finding(name, State.WARNING, detail, f"unset {name}"))
    return findings


def _tables(host: Host) -> list[Finding]:
    findings = []
    named = host.environ.get("AITER_CONFIG_FMOE")
    if named:
        detail = f"{named}: it replaces every table that AITER ships"
        findings.append(Finding("AITER_CONFIG_FMOE", State.NOTE, detail))
    if host.path(_MERGED_TABLE).is_file():
        detail = f"{_MERGED_TABLE} was merged by an earlier process, and is again when AITER is next imported"
        findings.append(Finding("AITER's merged table", State.NOTE, detail))
    return findings
