"""What serving needs of the toy: the file that its engine reads, and that engine's own lookup of it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autotune.problem.layer import Stage
from autotune.protocol.bundle import Bundle
from autotune.protocol.exporter import Content, Exporter, Request, Stack
from autotune.protocol.lookup import Check, Serving, Verification, Verifier, short

VARIABLE, FILE = "TOY_CONFIG", "toy/toy.json"


def engine_lookup(path: str | None, tokens: int) -> dict[str, Any] | None:
    """As the engine does it; for a real one, import or run its own code here."""
    if path is None or not Path(path).is_file():
        return None
    entry: dict[str, Any] | None = json.loads(Path(path).read_text()).get(str(tokens))
    return entry


class ToyExporter(Exporter):
    """See `autotune.protocol.exporter`."""

    format = "toy"
    options = frozenset[str]()  # it needs no more than the winners
    stacks: Mapping[str, Stack] = {}  # no launch examples: `--deploy` is refused

    def content(self, request: Request) -> Content:
        table = {
            str(winner.problem.tokens): {str(stage): dict(winner.config.of(stage)) for stage in Stage}
            for winner in request.winners
        }
        return Content(
            files={FILE: json.dumps(table, indent=1) + "\n"},
            variables={VARIABLE: f"{request.place.folder}/{FILE}", **request.environment()},
            lookups={"toy": {"intended": table}},  # into the manifest, for the verifier
        )


class ToyVerifier(Verifier):
    """See `autotune.protocol.lookup`."""

    def verify(self, bundle: Bundle, serving: Serving) -> Verification:
        path, checks = bundle.here(VARIABLE), []
        for tokens, meant in bundle.lookup("toy")["intended"].items():
            found = engine_lookup(path, int(tokens))
            checks.append(Check(f"{tokens} tokens", short(found), found == meant, short(meant)))
        return Verification(f"toy at {path}", tuple(checks), tuple(bundle.changed()))
