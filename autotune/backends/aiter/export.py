"""The environment that deploys AITER's published generation; backend `flydsl` is deployed by the same one."""

from collections.abc import Mapping

from autotune.backends.aiter.knobs import SWITCHES
from autotune.errors import UserError
from autotune.protocol.exporter import Content, Exporter, Request, Stack


class EnvExporter(Exporter):
    """No file: the setting of the process is all."""

    format = "env"
    options = frozenset[str]()
    stacks: Mapping[str, Stack] = {
        "sglang": Stack(
            "the published image clementlincf/amdafde:v0.5.10rc0-rocm720-mi30x-kimi-k2.5-opt-20260420, the"
            " only one with the int8 W4A8 path; mainline SGLang runs this checkpoint as int4 x fp8 through"
            " AITER, which reads AITER_CONFIG_FMOE and none of these variables",
            {**SWITCHES, "SGLANG_USE_AITER": "1"},
            required="DSL2_ROOT",
        ),
        "vllm": Stack(
            "mainline vLLM through AITER, which serves int4 x fp8 and reads AITER_CONFIG_FMOE; its int8 W4A8"
            " path is in the published SGLang image only, so the FLYDSL variables of this bundle have no"
            " effect here",
            {"VLLM_ROCM_USE_AITER": "1"},
        ),
    }

    def content(self, request: Request) -> Content:
        if request.setting is None:
            winner = request.winners[0]
            raise UserError(
                f"these kernels of {winner.backend} ({winner.environment.kernel_source}) are called with"
                " parameters, and no engine reads those from a file or its environment: export winners of the"
                " published generation"
            )
        return Content({}, request.setting, {"env": {"variables": dict(request.setting)}})
