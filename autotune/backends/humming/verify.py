"""vLLM's own code with our plugin, run on a bundle: which entry each shape's launch is handed."""

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from autotune.backends.humming import library
from autotune.backends.humming.export import FILE_NAME, short_entry
from autotune.backends.humming.lookup import FILES
from autotune.backends.humming.plugin import VARIABLE
from autotune.engines.source import open_source
from autotune.errors import UserError
from autotune.problem.layer import Stage
from autotune.processes.lookup import run_lookup
from autotune.protocol.bundle import Bundle
from autotune.protocol.form import ANY, COUNT, NAME, SCALAR, TOKENS, Form
from autotune.protocol.lookup import Check, Serving, Verification, Verifier, same
from autotune.quantities import load_json

_FORM: Final[Form] = {
    "file": FILE_NAME,
    "gpu": str,
    "compute": {"use_batch_invariant": bool, "use_f16_accum": bool, **ANY},
    "top_k": COUNT,
    "compute_units": COUNT,
    "intended": {
        TOKENS: {
            f"{stage}?": {"mma_type": str, "block_shape": [COUNT], "warp_shape": [COUNT], NAME: SCALAR}
            for stage in Stage
        }
    },
    **ANY,
}


class HummingVerifier(Verifier):
    """See `protocol.lookup.Verifier`."""

    sources = 1
    form = _FORM

    def verify(self, bundle: Bundle, serving: Serving) -> Verification:
        meant = bundle.lookup("vllm")
        library.load()  # vLLM's code asks it
        intended: Mapping[str, Mapping[str, Any]] = meant["intended"]
        source = open_source("vllm", serving.source)
        request = {
            **meant,
            "engine": "vllm",
            "lookup": "autotune.backends.humming.lookup:humming_lookup",
            "layers": _layers(bundle.folder / meant["file"]),
            "tokens": sorted(map(int, intended)),
        }
        variable = bundle.here(VARIABLE)
        with tempfile.TemporaryDirectory(prefix="autotune-verify-") as scratch:
            root = source.unpack(Path(scratch), *FILES.values())
            request["root"] = str(root)
            environment = {} if variable is None else {VARIABLE: variable}
            answer = run_lookup(request, environment, without=[VARIABLE])
        checks = tuple(_checks(intended, answer["selected"]))
        notes = tuple(message for message in answer["messages"] if message.startswith("autotune:"))
        reasons = [*_reasons(bundle, variable, answer), *bundle.changed()]
        name = f"vllm at {source.root} with the plugin autotune, humming-kernels {library.version()}"
        return Verification(name, checks, tuple(dict.fromkeys(reasons)), notes)


def _layers(file: Path) -> dict[str, Any]:
    """The layer configs that the bundle was made for.

    Raises:
        UserError: the file is not there, or is not a bundle's.
    """
    try:
        raw = load_json(file.read_bytes())
        return {entry["sublayer"]: entry["layer"] for entry in raw["layers"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{file} cannot be read ({type(error).__name__}: {error}): export it again"
        ) from error


def _reasons(bundle: Bundle, variable: str | None, answer: Mapping[str, Any]) -> Iterator[str]:
    if answer["error"]:
        yield f"vLLM's code raised {answer['error']}: give vLLM 0.33 with --engine-source"
    if variable is None:
        yield f"{bundle.folder}/autotune.env does not set {VARIABLE}: the plugin does nothing"


def _checks(intended: Mapping[str, Mapping[str, Any]], selected: Mapping[str, Any]) -> Iterator[Check]:
    for tokens in sorted(intended, key=int):
        for stage, entry in intended[tokens].items():
            taken = selected.get(tokens, {}).get(stage)
            ok = same(taken, entry)
            told = "nothing" if taken is None or "block_shape" not in taken else short_entry(taken)
            yield Check(f"{stage} at M = {tokens}", told, ok, "" if ok else short_entry(entry))
