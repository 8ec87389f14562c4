"""A server's traffic from its log of shapes: JSON lines, with `count` where a line stands for several calls.

AITER writes one with `MOE_SHAPE_LOG_PATH`: each shape once a process, all ranks to one file, all MoE layers,
and at the start each size of which a graph is captured. So lines are torn, some are of other layers, and most
token counts were never tuned.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from autotune.errors import UserError
from autotune.problem.layer import Layer
from autotune.quantities import load_json, whole
from autotune.text import counted

Bucket = Callable[[int], int]
"""The token count by which an engine looks a batch up."""

_DIMENSIONS: Final = ("E", "K", "inter", "topk")
# INT4 weights that a word holds; the log has the weight tensor's own width where they are packed.
_PACKED: Final = {"uint32": 8, "int32": 8, "uint8": 2, "int8": 2, "float4_e2m1fn_x2": 2}


@dataclass(frozen=True)
class LoggedShape:
    """A kind of call.

    Attributes:
        dimensions: of `E`, `K`, `inter` and `topk` those that the line has.
        packed: INT4 weights a word of the line's weight dtype.
    """

    tokens: int
    dimensions: tuple[tuple[str, int], ...] = ()
    packed: int = 1

    def is_of(self, layer: Layer) -> bool:
        """Whether a layer can have made the call; what the line does not tell counts as equal."""
        own = {
            "E": (layer.experts,),
            "K": (layer.model_dim,),
            "inter": (layer.inter_dim, layer.inter_dim / self.packed),
            "topk": (layer.top_k,),
        }
        return all(value in own[name] for name, value in self.dimensions)


@dataclass(frozen=True)
class ShapeLog:
    """A log as it was read.

    Attributes:
        where: the file.
        calls: how often each shape was called.
        torn: numbers of the lines that are no shape.
        counted: a line told how many calls it stands for.
    """

    where: str
    calls: Mapping[LoggedShape, int]
    torn: Sequence[int] = ()
    counted: bool = False

    def traffic(
        self, layer: Layer, timed: Sequence[int], bucket: Bucket | None
    ) -> tuple[dict[int, float], list[str]]:
        """The calls of a layer by token count at which it was timed, and what was made of the log's lines.

        Args:
            timed: token counts that a count may be folded into: itself, else of those in its bucket the next
                one above, else the one below.
            bucket: the engine's rule; None: it has none, and only counts that were timed are known.

        Raises:
            UserError: no call is of the layer, or none is at a count that was timed or shares its bucket.
        """
        own, others = Counter[int](), Counter[str]()
        for shape, calls in self.calls.items():
            if shape.is_of(layer):
                own[shape.tokens] += calls
            else:
                others[_text(shape.dimensions)] += calls
        if not own:
            raise UserError(
                f"{self.where} has no call of the layer {_text(_of(layer))}, but of {next(iter(others))}:"
                " record the shapes of the model that is exported"
            )
        folded = {tokens: _fold(tokens, timed, bucket) for tokens in sorted(own)}
        shares = Counter[int]()
        for tokens, into in folded.items():
            if into is not None:
                shares[into] += own[tokens]
        unknown = [tokens for tokens, into in folded.items() if into is None]
        if not shares:
            raise UserError(
                f"{self.where}: none of its token counts, {_few(unknown)}, was timed or shares the engine's"
                f" bucket with one that was, {_few(timed)}: tune them too"
            )
        notes = list(self._notes(own.total(), others))
        for into in sorted(shares):
            if members := [tokens for tokens, at in folded.items() if at == into and tokens != into]:
                notes.append(f"{into} tokens stand for {_few(members)} too: the engine's bucket is the same")
        if unknown:
            part = sum(own[tokens] for tokens in unknown) / own.total()
            notes.append(
                f"not in the mix: {part:.0%} of the layer's calls, at {_few(unknown)} tokens, which share no"
                " bucket with a shape that was timed; tune them too"
            )
        return {tokens: float(calls) for tokens, calls in sorted(shares.items())}, notes

    def _notes(self, own: int, others: Counter[str]) -> Iterator[str]:
        """What of the log is no call of the layer."""
        name = Path(self.where).name
        if self.torn:
            yield f"{name}: {len(self.torn)} torn and skipped, line {_few(self.torn)}"
        if others:
            listed = "; ".join(f"{calls} of {dimensions}" for dimensions, calls in others.most_common(3))
            more = f"; {len(others) - 3} more" if len(others) > 3 else ""
            yield (
                f"{name}: {others.total()} of {own + others.total()} calls left out, of other layers:"
                f" {listed}{more}"
            )
        if not self.counted:
            yield f"{name} has no counts: a line is a call, while AITER logs a size once a process"


def read_shape_log(path: Path) -> ShapeLog:
    """Reads a log.

    Raises:
        UserError: the file cannot be read, no line of it is a shape, or a line's number is none.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): give a log of shapes") from error
    calls = Counter[LoggedShape]()
    torn, has_counts = [], False
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            raw = load_json(line.decode())
        except ValueError:
            raw = None
        if isinstance(raw, dict) and "tokens" in raw:
            shape, count = _shape(raw, f"{path}:{number}")
            calls[shape] += count
            has_counts |= "count" in raw
        else:
            torn.append(number)
    # A rank without a request calls the layer for no token.
    calls = Counter({shape: count for shape, count in calls.items() if shape.tokens and count})
    if not calls:
        what = f"{counted(len(torn), 'line')} without a JSON object with tokens" if torn else "no call"
        raise UserError(f"{path} is not a log of shapes, it has {what}: record one with MOE_SHAPE_LOG_PATH")
    return ShapeLog(str(path), calls, torn, has_counts)


def _shape(raw: Mapping[str, Any], where: str) -> tuple[LoggedShape, int]:
    dimensions = tuple((name, whole(raw[name], f"{where}: {name}")) for name in _DIMENSIONS if name in raw)
    packed = _PACKED.get(str(raw.get("w_dtype")).removeprefix("torch."), 1)
    shape = LoggedShape(whole(raw["tokens"], f"{where}: tokens"), dimensions, packed)
    return shape, whole(raw.get("count", 1), f"{where}: count")


def _fold(tokens: int, timed: Sequence[int], bucket: Bucket | None) -> int | None:
    if tokens in timed:
        return tokens
    mates = [at for at in sorted(timed) if bucket and bucket(at) == bucket(tokens)]
    return next((at for at in mates if at > tokens), mates[-1] if mates else None)


def _of(layer: Layer) -> tuple[tuple[str, int], ...]:
    sizes = (layer.experts, layer.model_dim, layer.inter_dim, layer.top_k)
    return tuple(zip(_DIMENSIONS, sizes, strict=True))


def _text(dimensions: Iterable[tuple[str, int]]) -> str:
    return " ".join(f"{name}={value}" for name, value in dimensions)


def _few(numbers: Sequence[int], most: int = 8) -> str:
    """Numbers for people, the first few of many."""
    text = ", ".join(map(str, numbers[:most]))
    return text if len(numbers) <= most else f"{text} and {len(numbers) - most} more"
