"""The file for vLLM's Triton fused MoE.

Rules as in vLLM 0.33.0, `model_executor/layers/fused_moe/fused_moe.py`:

- The path is `$VLLM_TUNED_CONFIG_FOLDER/NAME.json`, with no folder between; the package's own files come
  after it.
- NAME has no blanks: `block_shape=[128,128]`. Every H200 is `NVIDIA_H200`.
- One file serves both stages: there is no `_down`.
- INT4 weights are looked up by the unpacked width, inter_dim.
- Every key of the body is made an integer, but `triton_version`, which is dropped unread: the one place for
  words.
- For grouped INT4 and INT8 weights the kernel has a SPLIT_K parameter that only the file can give: an entry
  without `"SPLIT_K": 1` raises.
- The device's name comes from a table of PCI ids on ROCm (`platforms/rocm.py`: 0x74a5 and 0x74b9 are
  `AMD_Instinct_MI325X`), else it is the marketing name.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

from autotune.engines.backend import EngineBackend
from autotune.engines.export import engine_default, intended, preview, table_json, winners_table
from autotune.engines.moe import Quantisation
from autotune.errors import UserError
from autotune.problem.layer import Layer, Stage
from autotune.protocol.exporter import Content, Exporter, Place, Request, Stack, estimate_note
from autotune.results import LayerConfig
from autotune.store.records import WinnerRecord

FOLDER = "vllm"
VARIABLE = "VLLM_TUNED_CONFIG_FOLDER"


@dataclass(frozen=True)
class VllmKey:
    """What vLLM asks a file by.

    Attributes:
        width: N: inter_dim, unpacked.
        device_name: as vLLM's platform has it, blanks and slashes allowed.
    """

    experts: int
    width: int
    quantisation: Quantisation
    device_name: str

    @classmethod
    def of(cls, layer: Layer, quantisation: Quantisation, device_name: str) -> "VllmKey":
        """What vLLM looks a layer of these dimensions up by.

        Args:
            device_name: of the GPU, as torch has it.
        """
        return cls(layer.experts, layer.inter_dim, quantisation, device_name)

    def file_name(self) -> str:
        """The file's name, as vLLM's `get_config_file_name` makes it."""
        quantisation = self.quantisation
        device = re.sub(r"[\s/]+", "_", self.device_name)
        if "H200" in device.split("_"):
            device = "NVIDIA_H200"
        parts = [f"E={self.experts}", f"N={self.width}", f"device_name={device}"]
        if quantisation.dtype:
            parts.append(f"dtype={quantisation.dtype}")
        if quantisation.named_block:
            n, k = quantisation.named_block
            parts.append(f"block_shape=[{n},{k}]")
        return ",".join(parts) + ".json"


def needs_split_k(quantisation: Quantisation) -> bool:
    """Whether vLLM launches the kernel that takes SPLIT_K from the file."""
    return quantisation.weight_only


def vllm_content(
    winners: Sequence[WinnerRecord],
    quantisation: Quantisation,
    default: Callable[[int], LayerConfig],
    place: Place,
) -> Content:
    """The file.

    Args:
        winners: of one layer on one stack, ascending by tokens.
        default: vLLM's own config at so many tokens.

    Raises:
        UserError: the device is not known, or a winner fits no file.
    """
    for winner in winners:
        if winner.config.stage1 != winner.config.stage2:
            raise UserError(
                f"the winner at {winner.problem.tokens_text} has unlike configs for its stages, and vLLM"
                " has one file for both: tune it again, a run now pairs equal ones only"
            )
    layer, environment = winners[0].problem.layer, winners[0].environment
    device = place.device_name or environment.device
    if not device.strip() or device.startswith("offline:"):
        raise UserError(
            f"vLLM's file carries the GPU's name, and {device!r} is none: give the one that vLLM has for the"
            " serving GPU, e.g. AMD_Instinct_MI325X, with --device-name"
        )
    name = f"{FOLDER}/{VllmKey.of(layer, quantisation, device).file_name()}"
    split_k = needs_split_k(quantisation)
    table = winners_table(winners, default)
    note = estimate_note(winners)
    head = {"triton_version": note} if note else None
    return Content(
        files={name: table_json(table, Stage.STAGE1, split_k=split_k, head=head)},
        variables={VARIABLE: f"{place.folder}/{FOLDER}"},
        lookups={
            "vllm": {
                "experts": layer.experts,
                "model_dim": layer.model_dim,
                "inter_dim": layer.inter_dim,
                "top_k": layer.top_k,
                "quantisation": asdict(quantisation),
                "device_name": device,
                "arch": environment.arch,
                "intended": {"both": intended(table, winners, Stage.STAGE1, split_k=split_k)},
            }
        },
        previews=(preview(name, table, winners, Stage.STAGE1),),
    )


class VllmExporter(Exporter):
    """For the backends whose kernels are vLLM's."""

    format = "vllm"
    options = frozenset({"device_name"})
    stacks: Mapping[str, Stack] = {
        "vllm": Stack("mainline vllm: its Triton fused MoE reads the JSON files of this bundle")
    }

    def content(self, request: Request) -> Content:
        kernels, winners = request.kernels, request.winners
        assert isinstance(kernels, EngineBackend)
        default = engine_default(kernels, winners[0])
        return vllm_content(winners, kernels.quantisation, default, request.place)
