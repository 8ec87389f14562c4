"""FlyDSL: the tree, the wheel, whether they match, the linker, and what would make a search lie."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autotune.backends.aiter.contract import check_flydsl
from autotune.backends.flydsl.request import GATES
from autotune.backends.flydsl.tree import ROOT_VARIABLE, FlydslTree, TreeGeneration, open_tree
from autotune.backends.flydsl.wheel import PYTHON_VARIABLE, fits, remedy, wheel_version
from autotune.errors import UserError
from autotune.protocol.doctor import Ability, Can, Doctor, Finding, Machine, State, contract_finding
from autotune.protocol.host import Host
from autotune.text import counted

# Debian's default lld is 14: FlyDSL's last pass fails with it. 19 was seen working.
_LLD_VERSIONS = range(24, 16, -1)
_ON = ("1", "true", "True", "YES", "yes")


class FlydslDoctor(Doctor):
    """See `protocol.doctor.Doctor`."""

    def findings(self, machine: Machine) -> Sequence[Finding]:
        host = machine.host
        return [
            *flydsl_findings(find_flydsl(host)),
            linker_finding(host),
            *_cache(host),
            *_gates(host),
        ]

    def ability(self, machine: Machine) -> Ability:
        flydsl = find_flydsl(machine.host)
        if flydsl.tree is None:
            return Ability(Can.NOTHING, f"set {ROOT_VARIABLE} to a FlyDSL source tree")
        if not flydsl.compiles:
            return Ability(Can.NOTHING, "install the wheel that matches the tree")
        if not machine.has_instinct:
            return Ability(Can.COMPILE, "run it on a machine with an AMD Instinct GPU")
        return machine.able()


@dataclass(frozen=True)
class FlydslInstall:
    """What there is of FlyDSL.

    Attributes:
        tree: None: none is named, or it holds no kernels that we know.
        wrong_tree: why what is named is none; empty: nothing is named.
        python: the interpreter that has the wheel, or should have it.
        wheel: its version; None: that interpreter has none.
    """

    tree: FlydslTree | None
    wrong_tree: str
    python: str
    wheel: str | None

    @property
    def compiles(self) -> bool:
        """Whether candidates can be compiled."""
        return self.tree is not None and self.wheel is not None and fits(self.tree.generation, self.wheel)


def find_flydsl(host: Host) -> FlydslInstall:
    """Looks for the tree and the wheel that backends `flydsl` and `aiter` compile with."""
    tree, wrong = None, ""
    named = host.environ.get(ROOT_VARIABLE)
    if named:
        try:
            tree = open_tree(Path(named) if host.is_this else host.path(named))
        except UserError as error:
            wrong = str(error)
    python = host.environ.get(PYTHON_VARIABLE)
    if python and host.is_this:
        try:
            return FlydslInstall(tree, wrong, python, wheel_version(python))
        except UserError:
            return FlydslInstall(tree, wrong, python, None)
    return FlydslInstall(tree, wrong, python or host.python, host.version("flydsl"))


def flydsl_findings(flydsl: FlydslInstall) -> list[Finding]:
    """Tree, wheel and match as findings."""
    tree = flydsl.tree
    if tree is None:
        how = f"git clone https://github.com/ROCm/FlyDSL, then set {ROOT_VARIABLE} to it"
        findings = [Finding("FlyDSL tree", State.NO, flydsl.wrong_tree or "none is given", how)]
    else:
        commit = f", {tree.commit[:10]}" if tree.commit else ""
        findings = [Finding("FlyDSL tree", State.YES, f"{tree.generation}{commit}, {tree.root}")]
        if tree.generation is not TreeGeneration.AITER:
            misfits = check_flydsl(tree.root, gates=tree.generation is TreeGeneration.PUBLISHED)
            findings.append(contract_finding("FlyDSL", misfits, "a1d8312, or main of August 2026"))
    wanted = remedy(tree.generation, flydsl.python) if tree else f"{flydsl.python} -m pip install flydsl"
    if flydsl.wheel is None:
        return [*findings, Finding("FlyDSL wheel", State.NO, f"{flydsl.python} has none", wanted)]
    findings.append(Finding("FlyDSL wheel", State.YES, f"{flydsl.wheel} of {flydsl.python}"))
    if tree is not None:
        if flydsl.compiles:
            findings.append(
                Finding("tree and wheel match", State.YES, f"{tree.generation} with {flydsl.wheel}")
            )
        else:
            detail = f"the {tree.generation} tree does not compile with {flydsl.wheel}"
            findings.append(Finding("tree and wheel match", State.NO, detail, wanted))
    return findings


def linker_finding(host: Host) -> Finding:
    """The linker that FlyDSL makes code objects with."""
    for root in (host.environ.get("ROCM_PATH"), "/opt/rocm"):
        path = host.path(f"{root}/llvm/bin/ld.lld") if root else None
        if path is not None and os.access(path, os.X_OK):
            return Finding("linker", State.YES, f"{path}: FlyDSL finds it by itself")
    link = "ln -s {} /opt/rocm/llvm/bin/ld.lld, where FlyDSL looks for it"
    for version in _LLD_VERSIONS:
        linker = host.which(f"ld.lld-{version}")
        if linker:
            return Finding("linker", State.YES, f"{linker}; for launching with it: {link.format(linker)}")
    if host.package("ziglang"):
        detail = (
            f"ziglang's ({host.python} -m ziglang ld.lld); FlyDSL needs a script around it under ROCM_PATH"
        )
        return Finding("linker", State.YES, detail)
    return Finding(
        "linker",
        State.NO,
        "none; compiling offline needs none, launching does",
        "apt-get install lld-19, or pip install ziglang",
    )


def _cache(host: Host) -> list[Finding]:
    home = host.environ.get("HOME", "/root")
    folder = host.environ.get("FLYDSL_RUNTIME_CACHE_DIR") or f"{home}/.flydsl/cache"
    kernels = sum(1 for _ in host.path(folder).glob("*/*.pkl"))
    if not kernels:
        return []
    detail = (
        f"{counted(kernels, 'kernel')} in {folder}: no cache key includes the gates, so a hit may be a"
        " kernel of the other setting"
    )
    remedy = f"rm -r {folder} before a gate is changed in serving (autotune itself uses folders of its own)"
    return [Finding("FlyDSL's cache", State.WARNING, detail, remedy)]


def _gates(host: Host) -> list[Finding]:
    findings = []
    for name in GATES.values():
        value = host.environ.get(name)
        if value is not None:
            state = "on" if value in _ON else "off"
            detail = f"{value!r} means {state} (on is {', '.join(_ON)} and nothing else)"
            findings.append(
                Finding(name, State.WARNING, detail, f"unset {name}: autotune sets it for each candidate")
            )
    return findings
