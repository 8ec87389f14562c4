"""Layouts of INT4 × 8-bit MoE checkpoints, and how their tensors become the operator's, expert by expert.

Three, of the routed experts of amd/Kimi-K2.5-W4A8 and of compressed-tensors. N rows of K values, eight values
in an int32, the first of a word in its lowest bits unless `order` says otherwise:

    Quark [fp8 per tensor, int4 per channel]   weight int32 [N, K/8], two's complement
                                               weight_scale [1], weight_scale_2 [N]: a value is w * both
    compressed-tensors, pack-quantized         weight_packed int32 [N, K/8], w + 8
                                               weight_scale [N, 1], weight_shape [2]
    compressed-tensors, int-quantized          weight int8 [N, K]; weight_scale [N, 1]

Sources: vLLM 0.33.0, quantization/quark/quark_moe.py (QuarkW4A8Fp8MoEMethod, and QuarkW4A16Int4MoEMethod for
`pack_method`), quantization/compressed_tensors (W4A8Int8, WNA16).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from autotune.errors import UserError
from autotune.kernels.layout import pack_int4

if TYPE_CHECKING:
    import torch

_PER_WORD: Final = 8
TENSOR, CHANNEL = "tensor", "channel"
"""How an engine's loader must treat a scale."""


@dataclass(frozen=True)
class Layout:
    """A checkpoint's layout of INT4 weights.

    Attributes:
        name: for people.
        weight: suffix of the weights' name.
        order: of the eight values of a word, in turn, which nibble holds each.
        offset: values are stored as w + 8; False: in two's complement.
        scales: suffix of each scale's name -> `TENSOR` or `CHANNEL`; a weight's scale is their product.
        words: weights are int32; False: int8, a value each.
        shaped: a `weight_shape` tells N and K.
    """

    name: str
    weight: str
    scales: Mapping[str, str]
    order: tuple[int, ...] = tuple(range(_PER_WORD))
    offset: bool = False
    words: bool = True
    shaped: bool = False


def quark(pack_method: str) -> Layout:
    """Quark's layout by its `export.pack_method`.

    Raises:
        UserError: it is none that is known.
    """
    orders = {"order": tuple(range(_PER_WORD)), "reorder": (0, 4, 1, 5, 2, 6, 3, 7)}
    if pack_method not in orders:
        raise UserError(
            f"the checkpoint's export.pack_method is {pack_method!r}: export it with {' or '.join(orders)}"
        )
    scales = {"weight_scale": TENSOR, "weight_scale_2": CHANNEL}
    return Layout(f"Quark's, pack_method {pack_method}", "weight", scales, orders[pack_method])


_CHANNELS: Final = {"weight_scale": CHANNEL}
_COMPRESSED: Final = {
    "pack-quantized": Layout(
        "compressed-tensors' pack-quantized", "weight_packed", _CHANNELS, offset=True, shaped=True
    ),
    "int-quantized": Layout("compressed-tensors' int-quantized", "weight", _CHANNELS, words=False),
}


def compressed(form: str | None) -> Layout:
    """compressed-tensors' layout by its `format`.

    Raises:
        UserError: it is none that is known.
    """
    if form not in _COMPRESSED:
        raise UserError(
            f"the checkpoint's format is {form!r}: INT4 experts are read as {' or '.join(_COMPRESSED)}"
        )
    return _COMPRESSED[form]


@dataclass(frozen=True)
class Parameter:
    """A tensor that a layer needs while its checkpoint is loaded.

    Attributes:
        kind: `TENSOR` or `CHANNEL` of a scale; "": of weights and shapes.
        fill: what is in it before; NaN in scales, so that one that was not loaded shows.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    kind: str = ""
    fill: float = 0


def parameters(layout: Layout, experts: int, model_dim: int, inter_dim: int) -> Iterator[Parameter]:
    """Of a rank's share of a layer.

    Args:
        experts: on this rank.
        inter_dim: of an expert on this rank.

    Raises:
        UserError: the dimensions do not fit the layout.
    """
    for name, size in (("hidden size", model_dim), ("intermediate size of an expert on a rank", inter_dim)):
        if size % _PER_WORD:
            raise UserError(f"the {name} is {size}, no multiple of {_PER_WORD}: choose another degree of TP")
    nan = float("nan")
    for prefix, shards, n, k in (("w13", 2, 2 * inter_dim, model_dim), ("w2", 1, model_dim, inter_dim)):
        # int8 is packed into bytes as it is loaded, so that a layer never takes more than its INT4.
        columns, dtype = (k // _PER_WORD, "int32") if layout.words else (k // 2, "uint8")
        yield Parameter(f"{prefix}_{layout.weight}", (experts, n, columns), dtype)
        for scale, kind in layout.scales.items():
            channel = (experts, n) if len(layout.scales) > 1 else (experts, n, 1)
            tensor = (experts, shards) if shards > 1 else (experts,)
            shape = tensor if kind == TENSOR else channel
            yield Parameter(f"{prefix}_{scale}", shape, "float32", kind, nan)
        if layout.shaped:
            yield Parameter(f"{prefix}_weight_shape", (experts, 2), "int64", fill=-1)


Loader = Callable[..., Any]


@dataclass
class Loading:
    """What a layer takes from its checkpoint.

    Attributes:
        layer: its name, for people.
        tp: degree of tensor parallelism of the experts; an engine's loader takes the rank's part.
        local: whether this rank has an expert, where the engine's loader does not tell.
    """

    layout: Layout
    layer: str
    model_dim: int
    inter_dim: int
    tp: int
    local: Callable[[int], bool] = lambda expert: True
    _ended: bool = False
    _loaded: dict[str, set[tuple[int, str]]] = field(default_factory=dict)

    def checked(self, name: str, loader: Loader) -> Loader:
        """An engine's loader of a parameter, which refuses what is not of the layout by name.

        The engine calls it as (param, loaded_weight, weight_name, shard_id, expert_id, …).
        """

        def load(
            param: Any, loaded_weight: Any, weight_name: str, shard_id: str, expert_id: int, **more: Any
        ) -> Any:
            tensor = self._accepted(name, loaded_weight, shard_id, expert_id)
            answer = loader(
                param,
                tensor,
                weight_name=weight_name,
                shard_id=shard_id,
                expert_id=expert_id,
                **more,
            )
            if answer is not False and self.local(expert_id):  # else it is another rank's
                self._loaded.setdefault(name, set()).add((expert_id, shard_id))
            return answer

        return load

    def _accepted(self, name: str, tensor: "torch.Tensor", shard: str, expert: int) -> "torch.Tensor":
        """A checkpoint's tensor as the parameter holds it.

        Raises:
            UserError: it has another shape, dtype or range.
        """
        import torch

        whole = self.inter_dim * self.tp
        n, k = (self.model_dim, whole) if shard == "w2" else (whole, self.model_dim)
        suffix = name.partition("_")[2]
        what = f"{self.layer}, expert {expert}, {shard}: {suffix}"
        shape = tuple(tensor.shape)
        if suffix == self.layout.weight:
            wanted = (n, k // _PER_WORD) if self.layout.words else (n, k)
            dtypes = (torch.int32, torch.uint32) if self.layout.words else (torch.int8,)
            self._require(what, shape, [wanted], tensor.dtype, dtypes)
            return tensor.view(torch.int32) if self.layout.words else _nibbles(tensor, what)
        if suffix == "weight_shape":
            if shape != (2,) or tensor.tolist() != [n, k]:
                raise UserError(
                    f"{what} is {tensor.tolist()}, and the layer's weights are {n} x {k}: the checkpoint is"
                    " not of this model"
                )
            return tensor
        kind = self.layout.scales[suffix]
        shapes = [(), (1,)] if kind == TENSOR else [(n,), (n, 1)]
        floats = (torch.float32, torch.bfloat16, torch.float16)
        self._require(what, shape, shapes, tensor.dtype, floats)
        if kind == TENSOR:
            return tensor
        return tensor.reshape(n) if len(self.layout.scales) > 1 else tensor.reshape(n, 1)

    def _require(
        self, what: str, shape: tuple[int, ...], shapes: list[tuple[int, ...]], dtype: Any, dtypes: Any
    ) -> None:
        if shape not in shapes or dtype not in dtypes:
            wanted = " or ".join(str(list(allowed)) for allowed in shapes)
            kinds = " or ".join(str(allowed).removeprefix("torch.") for allowed in dtypes)
            raise UserError(
                f"{what} is {str(dtype).removeprefix('torch.')} {list(shape)}, and {self.layout.name} layout"
                f" has {kinds} {wanted}: give a checkpoint of that layout"
            )

    def refuse_again(self, *_: Any, **__: Any) -> None:
        """What a converted parameter has for a loader.

        Raises:
            UserError: always.
        """
        raise UserError(
            f"{self.layer}: its weights were converted already and cannot be loaded anew: restart the server"
        )

    def require_all(self, tensors: "Mapping[str, torch.Tensor]") -> None:
        """Makes sure that nothing was left out.

        Raises:
            UserError: scales are not finite, an expert's tensor was never loaded, or this was done before.
        """
        if self._ended:
            self.refuse_again()
        self._ended = True
        experts = next(iter(tensors.values())).shape[0]
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                raise UserError(
                    f"{self.layer}: {name} is not in the checkpoint for every expert, or not finite"
                )
            # Dummy weights are not loaded at all.
            shards = 1 if name.startswith("w2") else 2
            count = len(self._loaded.get(name, ()))
            if self._loaded and count != experts * shards:
                raise UserError(
                    f"{self.layer}: {name} was loaded {count} times for {experts} experts: the checkpoint"
                    " lacks some"
                )


def _nibbles(values: "torch.Tensor", what: str) -> "torch.Tensor":
    """int8 [N, K] -> uint8 [N, K/2], the first of two values in the low nibble, two's complement."""
    import torch

    if bool(((values < -8) | (values > 7)).any()):
        raise UserError(f"{what} has values out of -8..7: they are no INT4")
    pairs = values.reshape(values.shape[0], -1, 2).view(torch.uint8)
    return (pairs[..., 0] & 0x0F) | (pairs[..., 1] << 4)


@dataclass(frozen=True)
class Experts:
    """Weights as `autotune.kernels.fused_moe_w4a8` takes them."""

    w1: "torch.Tensor"
    w2: "torch.Tensor"
    w1_scale: "torch.Tensor"
    w2_scale: "torch.Tensor"


def converted(layout: Layout, tensors: "Mapping[str, torch.Tensor]") -> Experts:
    """The operator's tensors, made in the checkpoint's own memory: weights are rewritten expert by expert.

    Args:
        tensors: of `parameters`, by name; those of the weights hold the operator's bytes afterwards.
    """
    import torch

    experts = {}
    for prefix in ("w13", "w2"):
        weights = tensors[f"{prefix}_{layout.weight}"]
        experts[prefix] = _in_place(layout, weights)
        scale = torch.ones((), device=weights.device)
        for name, kind in layout.scales.items():
            factor = tensors[f"{prefix}_{name}"].float()
            if kind == TENSOR and prefix == "w13":  # of gate, and of up
                factor = factor.repeat_interleave(weights.shape[1] // factor.shape[1], dim=1)
            elif kind == TENSOR:
                factor = factor[:, None]
            scale = scale * factor.reshape(weights.shape[0], -1)
        experts[f"{prefix}_scale"] = scale.contiguous()
    return Experts(experts["w13"], experts["w2"], experts["w13_scale"], experts["w2_scale"])


def _in_place(layout: Layout, weights: "torch.Tensor") -> "torch.Tensor":
    """int32 [experts, N, K/8], or bytes [experts, N, K/2] -> the operator's int8 [experts, N, K/2]."""
    import torch

    raw = weights.view(torch.uint8)
    for expert in range(raw.shape[0]):  # one at a time: unpacked, a layer takes twice its bytes
        raw[expert] = pack_int4(values(layout, raw[expert])).view(torch.uint8)
    return raw.view(torch.int8)


def values(layout: Layout, raw: "torch.Tensor") -> "torch.Tensor":
    """The INT4 values of a layout's bytes: uint8 [N, K/2] -> int8 [N, K], -8..7."""
    import torch

    rows = raw.shape[0]
    nibbles = torch.stack((raw & 0x0F, raw >> 4), dim=-1).reshape(rows, -1, _PER_WORD)
    ordered = nibbles if layout.order == tuple(range(_PER_WORD)) else nibbles[..., list(layout.order)]
    stored = ordered.reshape(rows, -1).view(torch.int8)
    return stored - 8 if layout.offset else (stored ^ 8) - 8
