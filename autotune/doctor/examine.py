"""The whole examination, and how it is shown."""

from dataclasses import asdict, dataclass
from typing import Any

from autotune.backends.aiter.doctor import aiter_findings, find_aiter, pin_findings
from autotune.backends.flydsl.doctor import find_flydsl, flydsl_findings, linker_finding
from autotune.doctor.ability import Ability, Facts, abilities, engines_here
from autotune.doctor.caches import cache_findings
from autotune.doctor.gpu import find_gpu, gpu_finding, stack_finding
from autotune.doctor.packages import find_torch, torch_finding, triton_finding
from autotune.protocol.finding import Finding, State
from autotune.protocol.host import Host


@dataclass(frozen=True)
class Examination:
    """What was found, and what follows for each backend."""

    findings: tuple[Finding, ...]
    abilities: tuple[Ability, ...]

    def json(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return {
            "findings": [asdict(finding) for finding in self.findings],
            "backends": {
                ability.backend: {"can": ability.can.name.lower(), "remedy": ability.remedy}
                for ability in self.abilities
            },
        }


def examine(host: Host) -> Examination:
    """Looks at everything; takes less than a second and starts nothing heavy."""
    gpu, torch, triton = find_gpu(host), find_torch(host), triton_finding(host)
    aiter, flydsl = find_aiter(host), find_flydsl(host)
    findings = [
        gpu_finding(gpu),
        stack_finding(host, gpu),
        torch_finding(torch, gpu),
        triton,
        *aiter_findings(aiter),
        *flydsl_findings(flydsl),
        *pin_findings(aiter, host.version("flydsl")),
        linker_finding(host),
        *cache_findings(host),
    ]
    facts = Facts(gpu, torch, triton.there, aiter, flydsl, engines_here(host))
    return Examination(tuple(findings), tuple(abilities(facts)))


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
    width = max((len(ability.backend) for ability in examination.abilities), default=0)
    for ability in examination.abilities:
        line = Text(f"backend {ability.backend:<{width}}", "bold")
        line.append(f"  {ability.can}", "not bold")
        if ability.remedy:
            line.append(f" -> {ability.remedy}", "not bold dim")
        console.print(line)
