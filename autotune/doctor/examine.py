"""The whole examination, and how it is shown."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from autotune.doctor.machine import (
    find_gpu,
    find_torch,
    gpu_finding,
    stack_finding,
    torch_finding,
    triton_finding,
)
from autotune.errors import UserError
from autotune.protocol.doctor import Ability, Can, Doctor, Finding, Machine, State
from autotune.protocol.host import Host
from autotune.protocol.registry import backend_names, instance, registration
from autotune.serving import versions


@dataclass(frozen=True)
class Examination:
    """What was found, and by backend what follows."""

    findings: tuple[Finding, ...]
    abilities: Mapping[str, Ability]

    def json(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return {
            "findings": [asdict(finding) for finding in self.findings],
            "backends": {
                name: {"can": ability.can.name.lower(), "remedy": ability.remedy}
                for name, ability in self.abilities.items()
            },
        }


def examine(host: Host) -> Examination:
    """Looks at everything; takes less than a second and starts nothing heavy."""
    gpu, torch, triton = find_gpu(host), find_torch(host), triton_finding(host)
    machine = Machine(host, gpu, torch, triton.there)
    findings = [gpu_finding(gpu), stack_finding(host, gpu), torch_finding(torch, gpu), triton]
    abilities = {}
    for name, doctor in _doctors():
        findings += doctor.findings(machine)
        abilities[name] = doctor.ability(machine)
    findings += _plugins(host)
    warnings = [finding for finding in findings if finding.state is State.WARNING]
    rest = [finding for finding in findings if finding.state is not State.WARNING]
    if not warnings:
        nothing = "no stale kernel caches, no variables that override a config"
        warnings = [Finding("caches", State.YES, nothing)]
    return Examination((*rest, *warnings), abilities)


def _plugins(host: Host) -> Iterator[Finding]:
    """The engines that the serving plugins were tested with, and which of them are here."""
    for row in versions.TESTED:
        here = host.version(row.package)
        state, note = (State.NOTE, "not installed") if here is None else (State.YES, "installed")
        if versions.warning(row.package, here) is not None:
            state, note = State.WARNING, f"{here} is installed"
        remedy = f"pip install {row.package}=={row.version}" if state is State.WARNING else ""
        detail = f"tested with {row.version} ({note}), by {row.hook}: {row.how}"
        yield Finding(f"plugin in {row.package}", state, detail, remedy)


class _NoDoctor(Doctor):
    """Stands for the doctor of a backend that has none, or cannot be loaded."""

    def __init__(self, ability: Ability) -> None:
        self._ability = ability

    def ability(self, machine: Machine) -> Ability:
        return self._ability


def _doctors() -> Iterator[tuple[str, Doctor]]:
    """Every backend's doctor; of backends that share one the first stands for all."""
    seen = set()
    for name in backend_names():
        try:
            path = registration(name).doctor
            doctor: Doctor = instance(name, path, Doctor) if path else _NoDoctor(Ability(Can.UNKNOWN))
        except UserError as error:
            path, doctor = "", _NoDoctor(Ability(Can.NOTHING, str(error)))
        if path not in seen:
            yield name, doctor
        if path:
            seen.add(path)


_STYLE = {State.YES: "green", State.NO: "red", State.WARNING: "yellow", State.NOTE: ""}


def _shown(state: State) -> str:
    return "warning" if state is State.WARNING else str(state)


def print_examination(examination: Examination) -> None:
    """For people: a line a finding, the remedy below it."""
    from rich.text import Text

    from autotune.report.console import Console

    console = Console(highlight=False, soft_wrap=True)
    width = max(len(finding.name) for finding in examination.findings)
    for finding in examination.findings:
        line = Text(f"{finding.name:<{width}}  ")
        line.append(f"{_shown(finding.state):<9}", _STYLE[finding.state])
        line.append(f"  {finding.detail}")
        console.print(line)
        if finding.remedy:
            console.print(Text(f"{'':<{width}}  -> {finding.remedy}", "dim"))
    console.print()
    width = max((len(name) for name in examination.abilities), default=0)
    for name, ability in examination.abilities.items():
        line = Text(f"backend {name:<{width}}", "bold")
        line.append(f"  {ability.can}", "not bold")
        if ability.remedy:
            line.append(f" -> {ability.remedy}", "not bold dim")
        console.print(line)
