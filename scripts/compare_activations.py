"""What INT8 and FP8 activations cost a layer of INT4 experts in accuracy, on given weights and activations.

    python scripts/compare_activations.py --checkpoint /models/Kimi-K2.5-W4A8 \\
        --layer model.layers.3.mlp.experts --activations x.pt

Reads a layer's experts from a checkpoint (safetensors) in a layout that the plugins serve, and its input from
a file of torch's: a tensor [tokens, hidden size], or a dict with `x` and, as the model routed it, `topk_ids`
and `topk_weight`. Without `--activations` the input is random, which real ones are not: theirs have outliers.
Prints the relative error of the layer's output against float32 activations, the same INT4 weights in both,
for each kind of activation quantised per token before both stages; and of the worst token.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from autotune.errors import UserError
from autotune.kernels.formats import Format, quantise
from autotune.kernels.reference import gate_up_reference, silu, stage2_reference
from autotune.serving.checkpoint import Experts, Layout, Loading, compressed, converted, parameters, quark

_SHARDS = {"gate_proj": ("w13", "w1"), "up_proj": ("w13", "w3"), "down_proj": ("w2", "w2")}
_KINDS = {
    "INT8 per token": Format.INT8,
    "FP8 e4m3fn per token": Format.FP8_OCP,
    "FP8 e4m3fnuz per token": Format.FP8,
}


def main() -> int:
    options = _parser().parse_args()
    try:
        compare(options)
    except UserError as error:
        print(f"compare_activations: {error}", file=sys.stderr)
        return 2
    return 0


def compare(options: argparse.Namespace) -> dict[str, tuple[float, float]]:
    """Prints, and gives, the error of the layer and of its worst token by kind of activation."""
    config = json.loads((options.checkpoint / "config.json").read_text(encoding="utf-8"))
    config = config.get("text_config") or config
    model_dim, inter_dim = config["hidden_size"], config["moe_intermediate_size"]
    named = dict(_tensors(options.checkpoint, options.layer))
    if not named:
        raise UserError(f"{options.checkpoint} has no tensors of {options.layer}: give the experts' prefix")
    count = 1 + max(int(name.partition(".")[0]) for name in named)
    layout = _layout(config["quantization_config"])
    experts = read_experts(layout, options.layer, named, count, model_dim, inter_dim)
    x, ids, weight = _input(options, model_dim, count, int(config["num_experts_per_tok"]))
    exact = layer(experts, x, ids, weight, None)
    print(
        f"{options.layer}: {count} experts of {model_dim} x {inter_dim}, {len(x)} tokens; layout"
        f" {layout.name}"
    )
    found = {}
    for name, kind in _KINDS.items():
        apart = layer(experts, x, ids, weight, kind) - exact
        token = (apart.norm(dim=1) / exact.norm(dim=1).clamp(min=1e-30)).max()
        found[name] = float(apart.norm() / exact.norm()), float(token)
        print(f"  {name:24} relative error {found[name][0]:.2e}, worst token {found[name][1]:.2e}")
    return found


def layer(
    experts: Experts, x: torch.Tensor, ids: torch.Tensor, weight: torch.Tensor, kind: Format | None
) -> torch.Tensor:
    """The layer in float32, its activations quantised before each stage; None: not.

    Args:
        x: [tokens, model_dim].

    Returns:
        float32 [tokens, model_dim].
    """

    def activations(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return quantise(Format.BF16 if kind is None else kind, rows.float())

    gate, up = gate_up_reference(*activations(x), experts.w1, experts.w1_scale, ids).chunk(2, dim=-1)
    return stage2_reference(*activations(silu(gate) * up), experts.w2, experts.w2_scale, ids, weight)


def read_experts(
    layout: Layout, name: str, named: dict[str, torch.Tensor], count: int, model_dim: int, inter_dim: int
) -> Experts:
    """A layer's experts from its tensors, which are named from the expert's number on.

    Raises:
        UserError: they are not of the layout, or some are missing.
    """
    loading = Loading(layout, name, model_dim, inter_dim, tp=1)
    places = {
        wanted.name: torch.full(wanted.shape, wanted.fill, dtype=getattr(torch, wanted.dtype))
        for wanted in parameters(layout, count, model_dim, inter_dim)
    }
    for key, tensor in named.items():
        expert, projection, suffix = key.split(".")
        prefix, shard = _SHARDS[projection]
        target = f"{prefix}_{suffix}"
        if target in places:
            loader = loading.checked(target, _copy)
            loader(places[target], tensor, weight_name=target, shard_id=shard, expert_id=int(expert))
    loading.require_all(places)
    return converted(layout, places)


def _copy(
    param: torch.Tensor, loaded: torch.Tensor, *, weight_name: str, shard_id: str, expert_id: int
) -> None:
    place = param[expert_id]
    if not weight_name.startswith("w2") and not weight_name.endswith("shape"):
        place = place.chunk(2)[int(shard_id == "w3")]
    place.copy_(loaded.reshape(place.shape))


def _tensors(folder: Path, layer: str) -> Iterator[tuple[str, torch.Tensor]]:
    try:
        from safetensors import safe_open
    except ModuleNotFoundError as error:
        raise UserError("reading a checkpoint needs safetensors: pip install safetensors") from error
    files = sorted(folder.glob("*.safetensors"))
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = [
            folder / name for name in sorted({f for t, f in places.items() if t.startswith(f"{layer}.")})
        ]
    for path in files:
        with safe_open(str(path), framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 it cannot be iterated
                if name.startswith(f"{layer}."):
                    yield name.removeprefix(f"{layer}."), opened.get_tensor(name)


def _layout(config: dict[str, Any]) -> Layout:
    if config.get("quant_method") == "quark":
        return quark(config["export"]["pack_method"])
    if config.get("quant_method") == "compressed-tensors":
        return compressed(config.get("format"))
    raise UserError(f"the checkpoint's quant_method is {config.get('quant_method')!r}: give INT4 experts")


def _input(
    options: argparse.Namespace, model_dim: int, experts: int, top_k: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(options.seed)
    given: Any = {} if options.activations is None else torch.load(options.activations, weights_only=True)
    given = {"x": given} if isinstance(given, torch.Tensor) else given
    x = given.get("x", torch.randn(options.tokens, model_dim, generator=generator)).reshape(-1, model_dim)
    weight, ids = torch.rand(len(x), experts, generator=generator).softmax(-1).topk(top_k)
    return x.bfloat16(), given.get("topk_ids", ids), given.get("topk_weight", weight)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--layer", required=True, help="the experts' prefix, e.g. model.layers.3.mlp.experts")
    parser.add_argument("--activations", type=Path, help="of torch.save; default: random")
    parser.add_argument("--tokens", type=int, default=16, help="of random activations")
    parser.add_argument("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    sys.exit(main())
