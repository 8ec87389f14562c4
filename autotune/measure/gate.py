"""The numeric gate: a candidate's time counts only after its numbers were found right.

Each case is launched into poisoned buffers, so that neither an element that is never written nor a result
of an earlier launch can pass, and compared with a float32 reference of the same quantised operands in two
ways: by the norm over everything, against the path's own bound, and tile by tile (`TILE` elements of a
row), against a multiple of it. The second is what finds one wrong tile, one unscaled row, or one part of a
sum that is missing: of a thousand tiles one that is nothing but wrong moves the whole norm by 3 %, and one
that lacks 1/64 of its sum by 0.4 %, which is no more than rounding does.

A layer is judged in two halves where its launch shows the intermediate: stage 1 up to it, and stage 2 from
the very values that stage 1 left. Judged as a whole, every rounding of the intermediate makes some of its
values flip to a neighbouring integer or FP8 value: in FP8 that is 1 to 2 % of the result, in which a fault of
stage 1 would drown (SGLang's and vLLM's FP8 layers on an H100: 1.1e-2 to 2.3e-2 as a whole, 2.3e-3 from their
own intermediate).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from autotune.kernels.formats import Format
from autotune.measure.bounds import (
    ROOM,
    TILE,
    TILE_ROOM,
    Deviation,
    Expected,
    Part,
    bound,
    rounding,
    simulate_stage1,
    tile_slack,
    to_bf16,
)
from autotune.measure.corners import case_routings
from autotune.measure.workload import make_activations, make_steps
from autotune.problem.layer import Layer
from autotune.problem.routing import Routing
from autotune.protocol.runtime import Activations, Launch, LogicalWeights, Path, Step, What

if TYPE_CHECKING:
    import torch

ALL_UP_TO = 16
"""Up to so many tokens every smaller count is checked: engines and our operator fall back upwards."""

_JUDGED_AT_ONCE = 1 << 23
"""Elements of outputs that are kept to be judged together."""

_DRAWS = 8
"""Simulations of a path whose sums are not exact: each flips other values of the intermediate."""


@dataclass(frozen=True, eq=False)
class Case:
    """One thing to check.

    Attributes:
        name: for the verdict, e.g. `4 tokens, all on the same experts`.
        references: float32 by what is launched.
        gate_up: float32 [tokens * top_k, 2 * inter_dim], stage 1's sums.
        form: what `inputs` are in.
        stage2_of: stage 2's float32 output from a quantised intermediate and its scales, tokens' routings
            and router weights.
    """

    name: str
    tokens: int
    inputs: Activations
    step: Step
    references: "dict[What, torch.Tensor]"
    gate_up: "torch.Tensor"
    form: Format
    stage2_of: "Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]"
    _bounds: dict[tuple[What, Path], float] = field(default_factory=dict)
    _slacks: "dict[Path, torch.Tensor]" = field(default_factory=dict)

    def digest(self) -> int:
        """Changes when a byte of what results are judged by has: another candidate may have written there."""
        import torch

        inputs, step = self.inputs, self.step
        given = (inputs.hidden, inputs.a1, inputs.a1_scale, inputs.a2, inputs.a2_scale, step.ids, step.router)
        held = (*given, self.gate_up, *self.references.values())
        return sum(int(t.flatten().view(torch.int16).sum(dtype=torch.int64)) for t in held)

    def here(self, rows: "torch.Tensor") -> "torch.Tensor":
        """Stage 1's output with zeros where a slot's expert is another GPU's: nobody reads what stands there.

        Args:
            rows: [tokens * top_k, inter_dim], or [tokens, top_k, inter_dim].
        """
        elsewhere = self.step.ids < 0
        return rows.masked_fill(elsewhere.reshape(*rows.shape[:-1], 1), 0.0)

    def layer_of(self, intermediate: "torch.Tensor") -> "torch.Tensor":
        """The layer's float32 output from stage 1's [tokens * top_k, inter_dim], which is quantised first."""
        from autotune.kernels.formats import quantise

        return self.stage2_of(*quantise(self.form, intermediate), self.step.ids, self.step.router)

    def simulated(self, what: What, path: Path) -> float:
        """Relative error of the path up to the output, its rounding included; the worst draw."""
        reference = self.references[what]

        def error(draw: int) -> float:
            computed = reference
            if what is What.STAGE1 or path.requantised:
                computed = simulate_stage1(self.gate_up, path, draw)
            if what is not What.STAGE1:
                computed = self.layer_of(computed) if path.requantised else computed
                computed = to_bf16(computed, toward_zero=path.toward_zero)
            return float((computed - reference).norm() / reference.norm().clamp(min=1e-30))

        return max(error(draw) for draw in range(_DRAWS if path.sums and what is not What.STAGE2 else 1))

    def bound(self, what: What, path: Path) -> float:
        """See `bound`. Worked out once a path."""
        key = (what, path)
        if key not in self._bounds:
            self._bounds[key] = bound(path, self.simulated(what, path))
        return self._bounds[key]

    def expected(self, what: What, path: Path) -> Expected:
        """What `what` is judged by."""
        slack = None
        if what is What.STAGE1 and path.gate_up_bf16 and path.slices > 1:
            if path not in self._slacks:  # kept on the host, where no candidate can write
                draws = [simulate_stage1(self.gate_up, path, draw) for draw in range(_DRAWS)]
                self._slacks[path] = tile_slack(self.references[what], draws, self.bound(what, path)).cpu()
            slack = self._slacks[path].to(self.gate_up.device)
        return Expected(self.references[what], self.bound(what, path), slack)

    def second_half(self, intermediate: "torch.Tensor", path: Path) -> Expected:
        """What stage 2 should make of the bfloat16 intermediate [tokens * top_k, inter_dim] of a launch.

        Where the last bit of a division decides what it is quantised to, either is right: what the other
        choice would change is taken into the bound, and into that of each row's tiles.
        """
        import torch

        from autotune.kernels.formats import flips, quantise

        rows = intermediate.view(-1, intermediate.shape[-1])
        q, scale = quantise(self.form, rows)
        changes = flips(self.form, rows)
        ids, router, tokens = self.step.ids, self.step.router, len(self.step.ids)
        unit = rounding(path)
        if path.exact_division or not bool(changes.any()):
            return Expected(self.stage2_of(q, scale, ids, router), bound(path, unit), None)
        both = self.stage2_of(
            torch.cat([q.float(), changes]),
            torch.cat([scale, scale]),
            torch.cat([ids, ids]),
            torch.cat([router, router]),
        )
        reference, change = both[:tokens], both[tokens:]
        by_row = change.norm(dim=1) / reference.norm(dim=1).clamp(min=1e-30)
        whole = float(change.norm() / reference.norm().clamp(min=1e-30))
        limit = bound(path, float(np.hypot(unit, whole)))
        return Expected(reference, limit, (1 + (ROOM * by_row / limit).square()).sqrt())


def served_tokens(tokens: int) -> tuple[int, ...]:
    """Token counts that a config tuned at `tokens` is checked at; `tokens` is the first.

    Engines round a batch up to the next entry or to a power of two, and so does our operator: a config
    serves smaller batches, and those up to the power of two. Up to `ALL_UP_TO` all of them, above a few:
    the least, a half and three quarters, the next above half of the power of two, the neighbour, and the
    power of two.
    """
    top = 1 << (tokens - 1).bit_length()
    some = {1, -(-tokens // 2), -(-3 * tokens // 4), top // 2 + 1, tokens - 1, top}
    counts = set(range(1, top + 1)) if top <= ALL_UP_TO else some
    return (tokens, *sorted(counts - {tokens}))


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
    from autotune.kernels.reference import gate_up_reference, silu, stage2_reference

    w = weights
    w1_scale = weight_scales(form, w.w1_scale, 2 * w.w1.shape[-1])
    w2_scale = weight_scales(form, w.w2_scale, 2 * w.w2.shape[-1])

    def stage2_of(
        q: "torch.Tensor", scale: "torch.Tensor", ids: "torch.Tensor", router: "torch.Tensor"
    ) -> "torch.Tensor":
        return stage2_reference(q, scale, w.w2, w2_scale, ids, router)

    gate_up = gate_up_reference(inputs.a1, inputs.a1_scale, w.w1, w1_scale, step.ids)
    gate, up = gate_up.chunk(2, dim=1)
    intermediate = silu(gate) * up
    references = {
        What.STAGE1: intermediate,
        What.STAGE2: stage2_of(
            *(inputs.a2.flatten(0, 1), inputs.a2_scale.flatten(0, 1)), step.ids, step.router
        ),
        What.LAYER: stage2_of(*quantise(form, intermediate), step.ids, step.router),
    }
    return Case(name, len(step.ids), inputs, step, references, gate_up, form, stage2_of)


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
    left = []
    for launch, _ in todo:
        poison([launch])
        launch.run()
        left.append(Left.by(launch))
    return _judge_all(left, [case for _, case in todo], what, path)


def judge(launch: Launch, case: Case, what: What, path: Path) -> float:
    """Judges what a launch has left in its output.

    Raises:
        Incorrect: beyond the bound.
    """
    return _judge_all([Left.by(launch)], [case], what, path)


@dataclass(frozen=True, eq=False)
class Left:
    """What a launch left behind, kept from the next one.

    Attributes:
        guards_intact: bool, on the device.
    """

    output: "torch.Tensor"
    intermediate: "torch.Tensor | None"
    guards_intact: "torch.Tensor"

    @classmethod
    def by(cls, launch: Launch) -> "Left":
        """Copies of what a launch has left; it has been run."""
        intermediate = None if launch.intermediate is None else launch.intermediate.clone()
        return cls(launch.output.clone(), intermediate, _guards_intact(launch))


def parts(left: Sequence[Left], cases: Sequence[Case], what: What, path: Path) -> Iterator[Part]:
    """What is judged, in order: a layer's halves where its launches show the intermediate, else the whole.

    The second half is worked out from the first, which must have been found right.
    """
    import torch

    outs = [each.output for each in left]
    if what is What.STAGE1:
        outs = [case.here(out) for out, case in zip(outs, cases, strict=True)]
    shown = [
        case.here(each.intermediate)
        for each, case in zip(left, cases, strict=True)
        if each.intermediate is not None
    ]
    if what is not What.LAYER or len(shown) < len(left):
        yield Part("", outs, [case.expected(what, path) for case in cases])
        return
    first = replace(path, contributions_bf16=False, bf16_adds=0, requantised=False)
    known = [case.expected(What.STAGE1, first) for case in cases]
    yield Part(" of stage 1, in the layer,", shown, known)
    expected: list[Expected] = []
    for index, (each, case) in enumerate(zip(shown, cases, strict=True)):
        # Launched again, most leave the very same values.
        again = index and case is cases[index - 1] and torch.equal(each, shown[index - 1])
        expected.append(expected[-1] if again else case.second_half(each, path))
    yield Part(" of stage 2, from the layer's own intermediate,", outs, expected)


def _judge_all(left: Sequence[Left], cases: Sequence[Case], what: What, path: Path) -> float:
    """The worst error of what launches of equal shapes left.

    Raises:
        Incorrect: one is beyond its bound.
    """
    import torch

    worst = 0.0
    for part in parts(left, cases, what, path):
        for case, expected, deviation in zip(cases, part.expected, part.deviations(), strict=True):
            _judge(case, expected, deviation, part.of)
            worst = max(worst, deviation.error)
    for case, intact in zip(cases, torch.stack([each.guards_intact for each in left]).tolist(), strict=True):
        if not intact:
            raise Incorrect(f"at {case.name}: it wrote outside of its output", worst)
    return worst


def _judge(case: Case, expected: Expected, deviation: Deviation, of: str) -> None:
    limit, rows = expected.limit, len(expected.reference)
    where = f"at {case.name}: "
    if deviation.not_finite:
        raise Incorrect(
            f"{where}{deviation.not_finite} of {rows} rows hold values that were never"
            f" written or are not finite, the first at row {deviation.row}, column {deviation.column}",
            deviation.error,
        )
    if deviation.error > limit:
        reason = f"{where}relative error{of} {deviation.error:.2e} exceeds the path's bound {limit:.2e}"
        raise Incorrect(reason, deviation.error)
    if deviation.tile_error > TILE_ROOM * limit * deviation.slack:
        raise Incorrect(
            f"{where}relative error{of} {deviation.tile_error:.2e} in row {deviation.row}, columns"
            f" {deviation.column} to {deviation.column + TILE - 1},"
            f" exceeds {TILE_ROOM * limit * deviation.slack:.2e}, though the"
            f" {deviation.error:.2e} overall is within its bound",
            deviation.error,
        )


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
