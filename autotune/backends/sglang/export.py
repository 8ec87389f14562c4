"""Files for SGLang's Triton fused MoE.

Rules as in SGLang 0.5.23, `srt/layers/moe/moe_runner/triton_utils/fused_moe_triton_config.py`:

- The path is `$SGLANG_MOE_CONFIG_DIR/configs/triton_X_Y_Z/NAME.json`. The variable replaces the built-in
  folder, for every layer of every model in the process.
- NAME keeps the blank in `block_shape=[128, 128]`.
- Stage 2 has a file of its own, `NAME_down.json`; without it, stage 1's serves both. Its BLOCK_SIZE_M is
  overwritten with stage 1's.
- Every key of the body is made an integer: a `triton_version` there raises ValueError, and so would any word.
  What must be said of a file stands in one beside it.
- On a miss every `triton_*` folder's name is taken apart into integers: `triton_3_6_0+gitabc` raises
  ValueError. A Triton with a local version finds the folder of its public version by this search.
- INT4 weights are looked up by the packed width, half of inter_dim.
- The kernel for grouped weights has no SPLIT_K parameter: an entry with one raises.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

from autotune.engines.backend import EngineBackend
from autotune.engines.export import engine_default, intended, preview, table_json, winners_table
from autotune.engines.moe import Quantisation
from autotune.errors import UserError
from autotune.problem.layer import Layer, Stage
from autotune.protocol.exporter import ESTIMATES_FILE, Content, Exporter, Place, Request, Stack, estimate_note
from autotune.results import LayerConfig
from autotune.store.records import WinnerRecord

FOLDER = "sglang"
VARIABLE = "SGLANG_MOE_CONFIG_DIR"


@dataclass(frozen=True)
class SglangKey:
    """What SGLang asks a file by.

    Attributes:
        width: N: inter_dim, or half of it where two INT4 share a byte.
        device_name: as `torch.cuda.get_device_name()` has it, blanks allowed.
    """

    experts: int
    width: int
    quantisation: Quantisation
    device_name: str

    @classmethod
    def of(cls, layer: Layer, quantisation: Quantisation, device_name: str) -> "SglangKey":
        """What SGLang looks a layer of these dimensions up by.

        Args:
            device_name: of the GPU, as SGLang has it.
        """
        width = layer.inter_dim // 2 if quantisation.packed else layer.inter_dim
        return cls(layer.experts, width, quantisation, device_name)

    def file_name(self, *, down: bool) -> str:
        """The file's name; `down`: stage 2's."""
        quantisation = self.quantisation
        parts = [f"E={self.experts}", f"N={self.width}", f"device_name={self.device_name.replace(' ', '_')}"]
        if quantisation.dtype:
            parts.append(f"dtype={quantisation.dtype}")
        if quantisation.named_block:
            parts.append(f"block_shape={list(quantisation.named_block)}")
        if quantisation.per_channel:
            parts.append("per_channel_quant=True")
        return ",".join(parts) + ("_down.json" if down else ".json")


def triton_folder(version: str) -> str:
    """`configs/triton_3_6_0` for `3.6.0` and for `3.6.0+gitabc`.

    Raises:
        UserError: no release's number: SGLang itself would stumble over a folder named so.
    """
    public = version.partition("+")[0]
    if not re.fullmatch(r"\d+(\.\d+)*", public):
        raise UserError(
            f"Triton version {version!r} is not of the form 3.6.0, the only one that SGLang can search for:"
            " give the serving stack's with --triton-version"
        )
    return f"configs/triton_{public.replace('.', '_')}"


def sglang_content(
    winners: Sequence[WinnerRecord],
    quantisation: Quantisation,
    default: Callable[[int], LayerConfig],
    place: Place,
) -> Content:
    """Both stages' files.

    Args:
        winners: of one layer on one stack, ascending by tokens.
        default: SGLang's own config at so many tokens.

    Raises:
        UserError: the device or Triton is not known, or a winner fits no file.
    """
    layer, environment = winners[0].problem.layer, winners[0].environment
    device = place.device_name or environment.device
    if not device.strip() or device.startswith("offline:"):
        raise UserError(
            f"SGLang's file carries the GPU's name, and {device!r} is none: give the one that the serving"
            " container reports, python3 -c 'import torch; print(torch.cuda.get_device_name())', with"
            " --device-name"
        )
    triton = place.triton_version or environment.triton
    if triton is None:
        raise UserError(
            "SGLang's folder carries Triton's version, which this result lacks: give the serving stack's with"
            " --triton-version"
        )
    key = SglangKey.of(layer, quantisation, device)
    folder = f"{FOLDER}/{triton_folder(triton)}"
    table = winners_table(winners, default)
    names = {stage: f"{folder}/{key.file_name(down=stage is Stage.STAGE2)}" for stage in Stage}
    note = estimate_note(winners)
    return Content(
        files={
            **{names[stage]: table_json(table, stage) for stage in Stage},
            **({f"{folder}/{ESTIMATES_FILE}": f"{note}.\n"} if note else {}),
        },
        variables={VARIABLE: f"{place.folder}/{FOLDER}"},
        lookups={
            "sglang": {
                "experts": layer.experts,
                "model_dim": layer.model_dim,
                "inter_dim": layer.inter_dim,
                "top_k": layer.top_k,
                "quantisation": asdict(quantisation),
                "device_name": device,
                "arch": environment.arch,
                "triton_version": triton,
                "intended": {str(stage): intended(table, winners, stage) for stage in Stage},
            }
        },
        previews=tuple(preview(names[stage], table, winners, stage) for stage in Stage),
        notes=_notes(triton),
    )


def _notes(triton: str) -> tuple[str, ...]:
    notes = [
        f"{VARIABLE} replaces SGLang's built-in folder: layers of other sizes in the same process fall back"
        " to the default rule."
    ]
    if "+" in triton:
        notes.append(
            f"Triton {triton} has a local version; the files are in its public version's folder, which SGLang"
            " finds by search and says so in a warning."
        )
    return tuple(notes)


class SglangExporter(Exporter):
    """For the backends whose kernels are SGLang's."""

    format = "sglang"
    options = frozenset({"device_name", "triton_version"})
    stacks: Mapping[str, Stack] = {
        "sglang": Stack(
            "mainline sglang: its Triton fused MoE reads the JSON files of this bundle",
            # Left to itself, SGLang takes Marlin for grouped INT4 on NVIDIA's GPUs, which reads no file.
            arguments=("--moe-runner-backend triton",),
        )
    }

    def content(self, request: Request) -> Content:
        kernels, winners = request.kernels, request.winners
        assert isinstance(kernels, EngineBackend)
        default = engine_default(kernels, winners[0])
        return sglang_content(winners, kernels.quantisation, default, request.place)
