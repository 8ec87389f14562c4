"""SGLang's and vLLM's own lookup of a fused-MoE file, run on a bundle: what both have in common."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from autotune.engines.diagnose import Answer, diagnose
from autotune.engines.moe import Quantisation
from autotune.engines.rows import Engine
from autotune.engines.source import EngineSource, open_source
from autotune.machine.probe import gpu_here
from autotune.problem.arithmetic import Scales
from autotune.processes.lookup import run_lookup
from autotune.protocol.bundle import Bundle
from autotune.protocol.form import ANY, COUNT, NAME, SCALAR, TOKENS, Form
from autotune.protocol.lookup import Check, Serving, Verification, Verifier, same, short


def lookup_form(*parts: str) -> Form:
    """The form of what a manifest says of such an engine.

    Args:
        parts: of the layer that have entries of their own: both stages, or `both` together.
    """
    side = range(COUNT.stop)
    return {
        **dict.fromkeys(("experts", "model_dim", "inter_dim", "top_k"), COUNT),
        "quantisation": {
            "dtype": (str, None),
            "block_shape?": ([side, side], None),
            "per_channel?": bool,
        },
        "device_name": str,
        "arch": str,
        "triton_version?": (str, None),
        "intended": {part: {TOKENS: {NAME: SCALAR}} for part in parts},
        **ANY,
    }


class FusedMoeVerifier(Verifier):
    """See `protocol.lookup.Verifier`.

    Attributes:
        needed: the files and folders that are run or read, by their paths in the package's folder.
        variable: names the folder with the configs.
        lookup: `module:function`, a `processes.lookup.Lookup`.
        stage_files: what the engine's files are for: `up` and `down`, or `both` stages in one.
    """

    sources = 1
    judges_gpu = True  # it looks a file up by the GPU's name

    engine: Engine
    needed: Sequence[str]
    variable: str
    lookup: str
    stage_files: Sequence[str] = ("both",)
    form: Form = lookup_form("both")

    def verify(self, bundle: Bundle, serving: Serving) -> Verification:
        source = open_source(self.engine.name, serving.source)
        # What is not said is asked of this machine, where it is one that could serve.
        device_name, triton_version = serving.device_name, serving.triton_version
        if device_name is None:
            device_name = self.device_here()
            if triton_version is None and not serving.sources and device_name is not None:
                triton_version = self.triton_here()
        return self.look_up(
            *(bundle, source),
            device_name=device_name,
            triton_version=triton_version,
            asked=self.asked(serving, bundle.lookup(self.engine.name)),
        )

    def look_up(
        self,
        bundle: Bundle,
        source: EngineSource,
        *,
        device_name: str | None = None,
        triton_version: str | None = None,
        asked: Mapping[str, Any] | None = None,
    ) -> Verification:
        """Runs the engine's lookup with the bundle's environment, and compares with what the export meant.

        Args:
            device_name: as of a `Serving`; None: what the bundle was exported for.
            triton_version: of the serving stack; None: what the bundle was exported for.
            asked: what the engine asks by for the model that is served, where the export meant something
                else.

        Raises:
            UserError: the bundle is not for this engine, or the source lacks what is run.
        """
        meant = bundle.lookup(self.engine.name)
        intended: Mapping[str, Mapping[str, Any]] = meant["intended"]
        request = {
            **meant,
            **(asked or {}),
            "tokens": sorted({int(m) for table in intended.values() for m in table}),
            "triton_version": triton_version or meant.get("triton_version"),
        }
        with tempfile.TemporaryDirectory(prefix="autotune-verify-") as scratch:
            root = source.unpack(Path(scratch), *self.needed)
            request["device_name"] = self.device_name(root, device_name or meant["device_name"])
            answer = self.ask(request, root, bundle.here(self.variable))
        checks = tuple(_checks(intended, answer))
        reasons = diagnose(
            *(bundle, self.engine.name, self.variable, self.stage_files, intended, answer),
            hint=self.hint,
            other_stack=lambda files: self.other_stack(files, request["triton_version"]),
        )
        notes = [message for message in answer.messages if "suboptimal" not in message.lower()]
        name = f"{self.engine.name} at {source.root}"
        return Verification(name, checks, tuple(dict.fromkeys((*reasons, *bundle.changed()))), tuple(notes))

    def ask(self, request: Mapping[str, Any], root: Path, value: str | None) -> Answer:
        """What the engine below `root` says with its variable set, and without it where `value` is None."""
        environment = {} if value is None else {self.variable: value}
        asking = {**request, "engine": self.engine.name, "lookup": self.lookup, "root": str(root)}
        return Answer(**run_lookup(asking, environment, without=[self.variable]))

    def asked(self, serving: Serving, meant: Mapping[str, Any]) -> dict[str, Any]:
        """What the engine asks by for the model that is served, in place of what the export meant."""
        layer = serving.layer
        if layer is None:
            return {}
        quantisation = dict(meant["quantisation"])
        scheme = layer.needs.scheme if layer.needs is not None else None
        if scheme is not None and scheme.scales is Scales.BLOCK:
            quantisation.update(block_shape=scheme.block, per_channel=False)
        fused = self.engine.fused(serving.family, layer.experts, quantisation["dtype"])
        return {
            "experts": layer.experts + fused,
            "model_dim": layer.model_dim,
            "inter_dim": layer.inter_dim,
            "top_k": layer.top_k + fused,
            "quantisation": quantisation,
        }

    def device_here(self) -> str | None:
        """The name of the GPU here as the engine would make it; None: there is none, or no torch sees it."""
        gpu = gpu_here()
        return gpu.name if gpu else None

    def device_name(self, root: Path, name: str) -> str:
        """A GPU's name as the engine below `root` makes it.

        Raises:
            UserError: the engine knows no such GPU.
        """
        return name

    def triton_here(self) -> str | None:
        """The version of the installed Triton, for a lookup that asks for it."""
        return None

    def hint(self, error: str) -> str:
        """What to do about what the engine raised, to be put behind it; "": nothing is known."""
        return ""

    def other_stack(self, files: Sequence[Path], triton_version: str | None) -> Iterator[str]:
        """Why the bundle's files that the engine used are for another stack than the serving one."""
        yield from ()


def weight_shapes(request: Mapping[str, Any]) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Both stages' weights as an engine holds them: [experts, 2 * inter, model] and [experts, model, inter].

    INT4 is packed in pairs along the last dimension.
    """
    experts, k, n = request["experts"], request["model_dim"], request["inter_dim"]
    packed = 2 if Quantisation(**request["quantisation"]).packed else 1
    return (experts, 2 * n, k // packed), (experts, k, n // packed)


def _checks(intended: Mapping[str, Mapping[str, Any]], answer: Answer) -> Iterator[Check]:
    for what, table in intended.items():
        name = "both stages" if what == "both" else what
        for m in sorted(table, key=int):
            selected = answer.selected.get(m, {}).get(what)
            ok = same(selected, table[m])
            yield Check(f"{name} at M = {m}", short(selected), ok, "" if ok else short(table[m]))
