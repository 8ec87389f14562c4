"""Another distribution's backend with an exporter of its own: one file that its engine would read."""

from collections.abc import Mapping
from typing import Final

from autotune.protocol.exporter import Content, Preview, Request, Row, Stack, source_of
from autotune.protocol.registry import Registration

NAME: Final = "tests.export.toy_exporter:REGISTRATION"
EXPORTLESS: Final = "tests.export.toy_exporter:EXPORTLESS_REGISTRATION"


class Toy:
    """As much of a backend as export asks for."""

    name = NAME

    def environment(self, config: object) -> dict[str, str]:
        return {"TOY_KERNELS": "1"}


class ToyExporter:
    """`toy.txt`: a line a number of tokens."""

    format = "toy"
    options = frozenset({"device_name"})
    stacks: Mapping[str, Stack] = {"vllm": Stack("vLLM with the toy plugin", arguments=("--toy",))}

    def content(self, request: Request) -> Content:
        lines = [f"{winner.problem.tokens} {winner.config.stage1}" for winner in request.winners]
        rows = tuple(
            Row(winner.problem.tokens, winner.problem.tokens, source_of(winner), line)
            for winner, line in zip(request.winners, lines, strict=True)
        )
        head = f"for {request.place.device_name or request.winners[0].environment.device}"
        return Content(
            files={"toy/toy.txt": "\n".join([head, *lines]) + "\n"},
            variables={"TOY_FILE": f"{request.place.folder}/toy/toy.txt", **request.environment()},
            lookups={"toy": {"intended": dict(line.split(" ", 1) for line in lines)}},
            previews=(Preview("toy/toy.txt", rows),),
            notes=("a toy reads it",),
        )


REGISTRATION = Registration(
    NAME, kernels="tests.export.toy_exporter:Toy", exporter="tests.export.toy_exporter:ToyExporter"
)
EXPORTLESS_REGISTRATION = Registration(EXPORTLESS, kernels="tests.export.toy_exporter:Toy")
