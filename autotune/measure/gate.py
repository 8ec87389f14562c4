"""The numeric gate: a candidate's figure counts only after its numbers were found right.

Each case is launched into poisoned buffers, so that neither an element that is never written nor a result
of an earlier launch can pass, and compared with a float32 reference of the same quantised operands in two
ways: by the norm over everything, against the path's own bound, and tile by tile (`TILE` elements of a
row), against a multiple of it. The second is what finds one wrong tile, one unscaled row, or one part of a
sum that is missing: of a thousand tiles one that is nothing but wrong moves the whole norm by 3 %, and one
that lacks 1/64 of its sum by 0.4 %, which is no more than rounding does.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from autotune.kernels.formats import Format
from autotune.measure.bounds import TILE, TILE_ROOM, Deviation, bound, deviation, deviations, to_bf16
from autotune.measure.runtime import Activations, Launch, LogicalWeights, Path, Step, What
from autotune.measure.workload import make_activations, make_steps
from autotune.problem import Layer
from autotune.routing import UNIFORM, Routing

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

ALL_UP_TO = 16
"""Up to so many tokens every smaller count is checked: engines and our operator fall back upwards."""

_JUDGED_AT_ONCE = 1 << 23
"""Elements of outputs that are kept to be judged together."""


@dataclass(frozen=True, eq=False)
class Case:
    """One thing to check.

    Attributes:
        name: for the verdict, e.g. `4 tokens, all on the same experts`.
        references: float32 by what is launched.
        layer_of: the layer's output from stage 1's, float32.
    """

    name: str
    tokens: int
    inputs: Activations
    step: Step
    references: "dict[What, torch.Tensor]"

    layer_of: "Callable[[torch.Tensor], torch.Tensor]"
    _bounds: dict[tuple[What, Path], float] = field(default_factory=dict)

    def digest(self) -> int:
        """Changes when a byte of what results are judged by has: another candidate may have written there."""
        import torch

        held = (
            self.inputs.hidden,
            self.inputs.a1,
            self.inputs.a1_scale,
            self.inputs.a2,
            self.inputs.a2_scale,
            self.step.ids,
            self.step.router,
            *self.references.values(),
        )
        return sum(int(t.flatten().view(torch.int16).sum(dtype=torch.int64)) for t in held)

    def simulated(self, what: What, path: Path) -> float:
        """Relative error of rounding the output, and the intermediate where the path does, on this case."""
        reference = self.references[what]
        rounded = reference
        if path.requantised:
            rounded = self.layer_of(to_bf16(self.references[What.STAGE1], toward_zero=path.toward_zero))
        rounded = to_bf16(rounded, toward_zero=path.toward_zero)
        return float((rounded - reference).norm() / reference.norm().clamp(min=1e-30))

    def bound(self, what: What, path: Path) -> float:
        """See `bound`. Worked out once a path."""
        key = (what, path)
        if key not in self._bounds:
            self._bounds[key] = bound(path, self.simulated(what, path))
        return self._bounds[key]


def served_tokens(tokens: int) -> tuple[int, ...]:
    """Token counts that a config tuned at `tokens` is checked at; `tokens` is the first.

    Engines round a batch up to the next entry or to a power of two, and so does our operator: a config
    serves smaller batches, and those up to the power of two. Up to `ALL_UP_TO` all of them, above a few:
    the least, a half and three quarters, the next above half of the power of two, the neighbour, and the
    power of two.
    """
    top = 1 << (tokens - 1).bit_length()
    counts = (
        set(range(1, top + 1))
        if top <= ALL_UP_TO
        else {
            1,
            -(-tokens // 2),
            -(-3 * tokens // 4),
            top // 2 + 1,
            tokens - 1,
            top,
        }
    )
    return (tokens, *sorted(counts - {tokens}))


def case_routings(
    layer: Layer, tokens: int, routing: Routing | None, sequences: int, seed: int, *, thorough: bool
) -> "dict[str, NDArray[np.int32]]":
    """Routings of the cases at one token count, by name; int32 [tokens, top_k] each.

    Most leave most experts without a token and most rows of a block as padding; where tokens are many, `an
    expert without a token` sees to it.

    Args:
        routing: the problem's own; None: the problem does not have this many tokens.
        thorough: with the rarer cases.
    """
    experts, top_k = layer.experts, layer.top_k
    rng = np.random.default_rng(seed)
    uniform = UNIFORM.draw(steps=2, sequences=tokens, draft_tokens=1, experts=experts, top_k=top_k, seed=seed)
    same = np.broadcast_to(rng.permutation(experts)[:top_k], (tokens, top_k)).astype(np.int32)
    cases = {"uniform routing": uniform[0], "all on the same experts": same}
    if not thorough:
        return cases
    cases["other uniform routing"] = uniform[1]
    # The first and the last expert: where a table's or a tensor's end is misread.
    ends = np.concatenate([np.arange((top_k + 1) // 2), np.arange(experts - top_k // 2, experts)])
    cases["first and last experts"] = np.broadcast_to(ends, (tokens, top_k)).astype(np.int32)
    # One expert after the other: as few tokens an expert as can be, so the most blocks and padding.
    spread = (np.arange(tokens * top_k) % experts).reshape(tokens, top_k)
    cases["spread out"] = spread.astype(np.int32)
    if experts > top_k:
        fewer = UNIFORM.draw(
            steps=1, sequences=tokens, draft_tokens=1, experts=experts - 1, top_k=top_k, seed=seed + 1
        )[0]
        empty = int(rng.integers(experts))
        cases["an expert without a token"] = fewer + (fewer >= empty)
    if routing is not None:
        drawn = routing.draw(
            steps=1,
            sequences=sequences,
            draft_tokens=tokens // sequences,
            experts=experts,
            top_k=top_k,
            seed=seed + 2,
        )
        cases[f"{routing.kind} routing"] = drawn[0]
    return cases


def make_cases(
    layer: Layer,
    weights: LogicalWeights,
    tokens: int,
    routing: Routing | None,
    sequences: int,
    device: str,
    seed: int,
    *,
    thorough: bool,
    form: Format = Format.INT8,
) -> list[Case]:
    """The cases at one token count with their references, on the device, in a numeric format."""
    inputs = make_activations(layer, tokens, device, seed, form)
    named = case_routings(layer, tokens, routing, sequences, seed, thorough=thorough)
    ids = np.stack(list(named.values()))
    steps = make_steps(ids, np.zeros(len(ids), np.int32), device, seed)
    return [
        make_case(f"{tokens} tokens, {name}", weights, inputs, step, form)
        for name, step in zip(named, steps, strict=True)
    ]


def make_case(
    name: str, weights: LogicalWeights, inputs: Activations, step: Step, form: Format = Format.INT8
) -> Case:
    """A case with what each launch should give in a numeric format, in which `inputs` are."""
    from autotune.kernels.formats import quantise, weight_scales
    from autotune.kernels.reference import stage1_reference, stage2_reference

    w = weights
    w1_scale = weight_scales(form, w.w1_scale, 2 * w.w1.shape[-1])
    w2_scale = weight_scales(form, w.w2_scale, 2 * w.w2.shape[-1])

    def layer_of(middle: "torch.Tensor") -> "torch.Tensor":
        q, scale = quantise(form, middle)
        return stage2_reference(q, scale, w.w2, w2_scale, step.ids, step.router)

    middle = stage1_reference(inputs.a1, inputs.a1_scale, w.w1, w1_scale, step.ids)
    a2, a2_scale = inputs.a2.flatten(0, 1), inputs.a2_scale.flatten()
    references = {
        What.STAGE1: middle,
        What.STAGE2: stage2_reference(a2, a2_scale, w.w2, w2_scale, step.ids, step.router),
        What.LAYER: layer_of(middle),
    }
    return Case(name, len(step.ids), inputs, step, references, layer_of)


class Incorrect(Exception):
    """A candidate's numbers are wrong.

    Attributes:
        error: ||out - reference|| / ||reference||; infinity where a value is not finite.
    """

    def __init__(self, reason: str, error: float) -> None:
        super().__init__(reason)
        self.error = error


def check_launches(
    launches: Sequence[Launch], cases: Sequence[Case], what: What, path: Path, *, times: int = 2
) -> float:
    """Launches cases of one token count into poisoned buffers and judges what comes out.

    Twice: a kernel that leaves its counters or partial sums behind is right only the first time. Many results
    are judged at once: a small case's launches take less time than asking for its verdict.

    Returns:
        ||out - reference|| / ||reference||, the worst of the launches.

    Raises:
        Incorrect: beyond the bound.
    """
    todo = [pair for pair in zip(launches, cases, strict=True) for _ in range(times)]
    size = max(1, _JUDGED_AT_ONCE // cases[0].references[what].numel())
    worst = 0.0
    for start in range(0, len(todo), size):
        worst = max(worst, _check_some(todo[start : start + size], what, path))
    return worst


def _check_some(todo: Sequence[tuple[Launch, Case]], what: What, path: Path) -> float:
    import torch

    outs, intact = [], []
    for launch, case in todo:
        poison([launch])
        launch.run()
        outs.append(launch.output.reshape(case.references[what].shape).clone())
        intact.append(_guards_intact(launch))
    references = torch.stack([case.references[what] for _, case in todo])
    found = deviations(torch.stack(outs), references)
    kept = torch.stack(intact).tolist()
    for (_, case), one, whole in zip(todo, found, kept, strict=True):
        _judge(case, what, path, one, guards_intact=whole)
    return max(one.error for one in found)


def judge(launch: Launch, case: Case, what: What, path: Path) -> float:
    """Judges what a launch has left in its output.

    Raises:
        Incorrect: beyond the bound.
    """
    reference = case.references[what]
    found = deviation(launch.output.reshape(reference.shape), reference)
    _judge(case, what, path, found, guards_intact=bool(_guards_intact(launch)))
    return found.error


def _judge(case: Case, what: What, path: Path, found: Deviation, *, guards_intact: bool) -> None:
    limit = case.bound(what, path)
    where = f"at {case.name}: "
    if found.not_finite:
        raise Incorrect(
            f"{where}{found.not_finite} of {len(case.references[what])} rows hold values that were never"
            f" written or are not finite, the first at row {found.row}, column {found.column}",
            found.error,
        )
    if found.error > limit:
        reason = f"{where}relative error {found.error:.2e} exceeds the path's bound {limit:.2e}"
        raise Incorrect(reason, found.error)
    if found.tile_error > TILE_ROOM * limit:
        raise Incorrect(
            f"{where}relative error {found.tile_error:.2e} in row {found.row}, columns {found.column} to"
            f" {found.column + TILE - 1}, exceeds {TILE_ROOM * limit:.2e}, though the {found.error:.2e}"
            " overall is within its bound",
            found.error,
        )
    if not guards_intact:
        raise Incorrect(f"{where}it wrote outside of its output", found.error)


def poison(launches: Sequence[Launch]) -> None:
    """Fills outputs and scratch with what no correct kernel leaves there; an accumulating output with zeros.

    There an element that is never written stays zero, which is an error of one in its tile.
    """
    import torch

    for launch in launches:
        launch.output.fill_(0.0 if launch.accumulates else torch.nan)
        for scratch in launch.scratch:
            scratch.fill_(torch.nan if scratch.is_floating_point() else torch.iinfo(scratch.dtype).max // 3)
        for guard in launch.guards:
            guard.fill_(torch.nan)


def _guards_intact(launch: Launch) -> "torch.Tensor":
    """Whether everything around the output is as `poison` left it; on the device."""
    import torch

    intact = [guard.isnan().all() for guard in launch.guards]
    return (
        torch.stack(intact).all() if intact else torch.ones((), dtype=torch.bool, device=launch.output.device)
    )
