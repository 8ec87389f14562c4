"""Routing models: which experts the tokens of one step visit.

Routing decides how many bytes of weights a step touches, so it is part of the problem. Every model is
seeded: all candidates of a run see the same steps, a confirmation sees fresh ones.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from autotune.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

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
            path = Path(argument.partition("#")[0])
            if not path.is_file():
                raise UserError(
                    f"--routing {text}: there is no file {argument}: give a recording of expert ids"
                )
            digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
            return cls("file", path=f"{path.resolve()}#{digest}")
        try:
            parameter = float(argument)
        except ValueError:
            raise UserError(f"--routing {text!r} is no routing model: {_HELP}") from None
        if (kind == "zipf" and 0 < parameter < 100) or (kind == "correlated" and 0 <= parameter <= 1):
            return cls(kind, parameter)
        raise UserError(f"--routing {text!r} is no routing model: {_HELP}")

    @property
    def key(self) -> str:
        """Canonical text; `parse(key)` gives the routing back."""
        if self.kind == "file":
            return f"file:{self.path}"
        return self.kind if self.kind == "uniform" else f"{self.kind}:{self.parameter:g}"

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
            return _recorded(Path(self.path.partition("#")[0]), steps, tokens, experts, top_k, seed)
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
    """Gumbel top-k: the k largest of log w + Gumbel noise are a weighted sample without replacement."""
    import numpy as np

    scores = rng.gumbel(size=(*shape, experts))
    if weights is not None:
        scores += np.log(weights)
    return np.argpartition(-scores, top_k - 1, axis=-1)[..., :top_k].astype(np.int32)


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


def _recorded(
    path: Path, steps: int, tokens: int, experts: int, top_k: int, seed: int
) -> "NDArray[np.int32]":
    """Steps of a recording: `.npy` int [steps, tokens, top_k], or JSON lines, one [tokens][top_k] a line."""
    import numpy as np

    try:
        if path.suffix == ".npy":
            ids = np.load(path, allow_pickle=False)
        else:
            ids = np.asarray([json.loads(line) for line in path.read_text().splitlines() if line.strip()])
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is no routing recording ({error}): write .npy or JSON lines") from error
    wanted = f"integers [steps, {tokens}, {top_k}] in 0..{experts - 1}, distinct within a token"
    if ids.ndim != 3 or ids.shape[0] == 0 or ids.shape[1:] != (tokens, top_k) or ids.dtype.kind not in "iu":
        raise UserError(
            f"{path} holds {ids.dtype} {list(ids.shape)}, this shape needs {wanted}: record it anew"
        )
    ordered = np.sort(ids, axis=-1)
    if ids.min() < 0 or ids.max() >= experts or (ordered[..., 1:] == ordered[..., :-1]).any():
        raise UserError(f"{path} does not hold {wanted}: record it from the same model")
    # Another seed takes other steps, so that a confirmation sees some that the search did not.
    order = np.resize(np.random.default_rng(seed).permutation(len(ids)), steps)
    recorded: NDArray[np.int32] = ids[order].astype(np.int32)
    return recorded
