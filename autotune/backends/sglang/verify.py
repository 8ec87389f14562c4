"""SGLang's own lookup of its fused-MoE files, run on a bundle, and what its kernels need of a machine."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from autotune.backends.sglang.calls import SGLANG
from autotune.backends.sglang.export import VARIABLE
from autotune.engines.doctor import EngineDoctor
from autotune.engines.verify import FusedMoeVerifier, lookup_form
from autotune.machine.targets import TRITON_DISTRIBUTIONS, package_version


class SglangDoctor(EngineDoctor):
    """See `protocol.doctor.Doctor`."""

    engine = SGLANG


class SglangVerifier(FusedMoeVerifier):
    """A file a stage, below a folder that is named for the Triton that they were tuned with."""

    asks_triton = True
    engine = SGLANG
    needed = ("sglang/srt/layers/moe/moe_runner/triton_utils",)
    variable = VARIABLE
    lookup = "autotune.backends.sglang.lookup:sglang_lookup"
    stage_files = ("up", "down")
    form = lookup_form("stage1", "stage2")

    def triton_here(self) -> str | None:
        return package_version(*TRITON_DISTRIBUTIONS)

    def hint(self, error: str) -> str:
        if "triton_version" in error:
            return ": a body may hold token counts only, take triton_version out"
        if "invalid literal for int" in error:
            return ": a key of a body, or the version in a folder's name (triton_3_6_0+git), is not a number"
        return ""

    def other_stack(self, files: Sequence[Path], triton_version: str | None) -> Iterator[str]:
        """A folder of another Triton was fallen back to: a config of one Triton may lose on another."""
        public = (triton_version or "").partition("+")[0]
        for path in files:
            version = path.parent.name.removeprefix("triton_").replace("_", ".")
            if public and version != public:
                yield (
                    f"version: the configs are for Triton {version}, the server has {triton_version}, and"
                    " SGLang takes them all the same: tune on the serving stack"
                )
                return
