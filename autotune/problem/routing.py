"""Routing models: which experts the tokens of one step visit.

Routing decides how many bytes of weights a step touches, so it is part of the problem. Every model is
seeded: all candidates of a run see the same steps, a confirmation sees fresh ones.
"""

import hashlib
import io
import json
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tokenize import TokenError
from typing import TYPE_CHECKING, Any, Final

from autotune.errors import UserError
from autotune.quantities import parse_number

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_DIGEST: Final = re.compile(r"#[0-9a-f]{12}$")
# What numpy and json raise on bytes that are not theirs.
_UNREADABLE: Final = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    MemoryError,
    OverflowError,
    SyntaxError,
    TokenError,  # numpy takes a header that is not a literal for one of Python 2
    RecursionError,
)
_HELP = "use uniform, zipf:S (S > 0), correlated:P (0 <= P <= 1) or file:PATH"


@dataclass(frozen=True)
class Routing:
    """A routing model with its parameter.

    Attributes:
        kind: `uniform`: every expert is equally likely. `zipf`: the expert of popularity rank r has
            weight r^-S; ranks are shuffled by the seed. `correlated`: the first draft token of a
            sequence is uniform, each next one keeps every expert of its predecessor with probability
            P and draws the rest uniformly. `file`: recorded expert ids.
        parameter: S or P; 0 where the model has none.
        path: the recording with the first digits of its SHA-256, `PATH#0123456789ab`, for `file`: a
            recording made anew is another routing.
    """

    kind: str = "uniform"
    parameter: float = 0.0
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> "Routing":
        """Reads what the user typed, e.g. `correlated:0.5`.

        Raises:
            UserError: no such model, or a parameter out of range.
        """
        kind, _, argument = text.partition(":")
        if kind == "uniform" and not argument:
            return cls()
        if kind == "file" and argument:
            path = Path(_DIGEST.sub("", argument)) if not Path(argument).is_file() else Path(argument)
            if not path.is_file():
                raise UserError(
                    f"--routing {text}: there is no file {argument}: give a recording of expert ids"
                )
            digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
            return cls("file", path=f"{path.resolve()}#{digest}")
        parameter = parse_number(argument)
        if parameter is None:
            raise UserError(f"--routing {text!r} is not a routing model: {_HELP}")
        if (kind == "zipf" and 0 < parameter < 100) or (kind == "correlated" and 0 <= parameter <= 1):
            return cls(kind, abs(parameter))  # -0 is 0, under one key
        raise UserError(f"--routing {text!r} is not a routing model: {_HELP}")

    @property
    def key(self) -> str:
        """Canonical text; `parse(key)` gives the routing back."""
        if self.kind == "file":
            return f"file:{self.path}"
        if self.kind == "uniform":
            return self.kind
        short = f"{self.parameter:g}"
        return f"{self.kind}:{short if float(short) == self.parameter else repr(self.parameter)}"

    def require(self, *, tokens: int, experts: int, top_k: int) -> None:
        """Makes sure that steps of such a layer can be drawn, before anything is compiled or measured.

        Raises:
            UserError: a recording does not fit the layer, with file and place.
        """
        if self.kind == "file":
            _checked(self.path, tokens, experts, top_k)

    def draw(
        self, *, steps: int, sequences: int, draft_tokens: int, experts: int, top_k: int, seed: int
    ) -> "NDArray[np.int32]":
        """Expert ids of `steps` steps, int32 [steps, sequences * draft_tokens, top_k].

        The ids of one token are distinct. A sequence's draft tokens stand next to each other.

        Raises:
            UserError: a recording does not fit the layer.
        """
        import numpy as np

        tokens = sequences * draft_tokens
        rng = np.random.default_rng(seed)
        if self.kind == "file":
            return _recorded(self.path, steps, tokens, experts, top_k, seed)
        if self.kind == "correlated":
            ids = np.empty((steps, sequences, draft_tokens, top_k), np.int32)
            ids[:, :, 0] = _without_replacement(rng, (steps, sequences), experts, top_k, None)
            for token in range(1, draft_tokens):
                ids[:, :, token] = _successor(rng, ids[:, :, token - 1], experts, self.parameter)
            return ids.reshape(steps, tokens, top_k)
        weights = None
        if self.kind == "zipf":
            weights = np.arange(1, experts + 1, dtype=np.float64) ** -self.parameter
            rng.shuffle(weights)
        return _without_replacement(rng, (steps, tokens), experts, top_k, weights)


UNIFORM = Routing()


def _without_replacement(
    rng: "np.random.Generator",
    shape: tuple[int, ...],
    experts: int,
    top_k: int,
    weights: "NDArray[np.float64] | None",
) -> "NDArray[np.int32]":
    """Gumbel top-k: the k largest of log w + Gumbel noise are a weighted sample without replacement.

    Gumbel noise is -log(-log(1 - u)) of numpy's next u: where all weigh the same, the k least u are the same
    sample, for an eighth of the time at thousands of tokens.
    """
    import numpy as np

    if weights is None:
        ranks = rng.random(size=(*shape, experts))
    else:
        ranks = -(rng.gumbel(size=(*shape, experts)) + np.log(weights))
    return np.argpartition(ranks, top_k - 1, axis=-1)[..., :top_k].astype(np.int32)


def _successor(
    rng: "np.random.Generator", previous: "NDArray[np.int32]", experts: int, keep: float
) -> "NDArray[np.int32]":
    """The next draft token: each expert is kept with probability `keep`, the others are drawn anew."""
    import numpy as np

    scores = rng.gumbel(size=(*previous.shape[:-1], experts))
    kept = rng.random(previous.shape) < keep
    held = np.take_along_axis(scores, previous.astype(np.int64), axis=-1)
    # A kept expert outranks every drawn one, a dropped one cannot come back by chance.
    np.put_along_axis(scores, previous.astype(np.int64), np.where(kept, held + 1e6, -np.inf), axis=-1)
    top_k = previous.shape[-1]
    if 2 * top_k > experts:  # too few others to replace all: dropped ones may return
        np.put_along_axis(scores, previous.astype(np.int64), np.where(kept, held + 1e6, held), axis=-1)
    return np.argpartition(-scores, top_k - 1, axis=-1)[..., :top_k].astype(np.int32)


def _recorded(path: str, steps: int, tokens: int, experts: int, top_k: int, seed: int) -> "NDArray[np.int32]":
    """Steps of a recording in an order of the seed's: another one takes other steps, so that a confirmation
    sees some that the search did not."""
    import numpy as np

    ids = _checked(path, tokens, experts, top_k)
    order = np.resize(np.random.default_rng(seed).permutation(len(ids)), steps)
    recorded: NDArray[np.int32] = ids[order].astype(np.int32)
    return recorded


def _checked(path: str, tokens: int, experts: int, top_k: int) -> "NDArray[np.integer[Any]]":
    """A recording, integers [steps, tokens, top_k].

    Raises:
        UserError: it is not one of such a layer, with the first place that is not.
    """
    import numpy as np

    name, ids = _DIGEST.sub("", path), _load(path)
    if ids.shape[1:] != (tokens, top_k):
        raise UserError(
            f"{name} has {ids.shape[1]} tokens per step and {ids.shape[2]} experts per token, and this shape"
            f" needs {tokens} and {top_k}: record it anew, or give the recording's --shape and --concurrency"
        )
    beyond = (ids < 0) | (ids >= experts)
    if beyond.any():
        step, token, slot = (int(place) for place in np.argwhere(beyond)[0])
        raise UserError(
            f"{name} has expert {ids[step, token, slot]} at step {step}, token {token}, and the layer's are 0"
            f" to {experts - 1}: record it from the same model"
        )
    ordered = np.sort(ids, axis=-1)
    twice = (ordered[..., 1:] == ordered[..., :-1]).any(axis=-1)
    if twice.any():
        step, token = (int(place) for place in np.argwhere(twice)[0])
        raise UserError(
            f"{name} routes step {step}, token {token} to {ids[step, token].tolist()}, an expert twice:"
            " record it from the same model"
        )
    return ids


@lru_cache(maxsize=2)
def _load(path: str) -> "NDArray[np.integer[Any]]":
    """The integers of a recording, 3 dimensions, at least one step; `.npy`, or JSON lines, a step a line.

    Raises:
        UserError: it is none, or has changed since it was named.
    """
    import numpy as np

    name = _DIGEST.sub("", path)
    try:
        raw = Path(name).read_bytes()
        if path != name and not path.endswith(hashlib.sha256(raw).hexdigest()[:12]):
            raise UserError(f"{name} has changed since it was named as a routing: start again")
        ids = _npy(raw) if name.endswith(".npy") else _json_lines(raw)
    except _UNREADABLE as error:
        raise UserError(f"{name} is not a routing recording ({error}): write .npy or JSON lines") from error
    if ids.dtype.kind not in "iu" or ids.ndim != 3 or 0 in ids.shape:
        raise UserError(
            f"{name} holds {ids.dtype} {list(ids.shape)}, and a recording is integers [steps, tokens, top_k]:"
            " record it anew"
        )
    recording: NDArray[np.integer[Any]] = ids
    return recording


def _npy(raw: bytes) -> "NDArray[Any]":
    import numpy as np

    array = np.load(io.BytesIO(raw), allow_pickle=False)
    if not isinstance(array, np.ndarray):
        raise ValueError("an archive of several arrays")
    return array


def _json_lines(raw: bytes) -> "NDArray[Any]":
    """Every line is checked by itself, so that what is wrong has a place."""
    import numpy as np

    steps: list[Any] = []
    for number, line in enumerate(raw.decode("utf-8-sig").splitlines(), 1):
        if not line.strip():
            continue
        try:
            step = json.loads(line)
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from error
        rows: list[Any] = step if isinstance(step, list) and step else [None]
        for token, row in enumerate(rows):
            if not isinstance(row, list) or not row or len(row) != len(rows[0]):
                raise ValueError(f"line {number}, token {token}: no list of as many experts as the first has")
            wrong = [v for v in row if isinstance(v, bool) or not isinstance(v, int) or not -1 <= v < 1 << 31]
            if wrong:
                raise ValueError(
                    f"line {number}, token {token}: {json.dumps(wrong[0])} is not an expert's number"
                )
        if steps and len(rows) != len(steps[0]):
            raise ValueError(f"line {number}: {len(rows)} tokens, and line 1 has {len(steps[0])}")
        if steps and len(rows[0]) != len(steps[0][0]):
            raise ValueError(
                f"line {number}: {len(rows[0])} experts per token, and line 1 has {len(steps[0][0])}"
            )
        steps.append(rows)
    if not steps:
        raise ValueError("it holds no step")
    return np.asarray(steps, dtype=np.int64)
