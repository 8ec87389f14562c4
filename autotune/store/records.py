"""Records that go into and come out of the store: frozen, never rows of the ORM."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from autotune.machine.fingerprint import Fingerprint
from autotune.machine.targets import Kind
from autotune.problem.layer import Problem, Stage
from autotune.results import Confirmation, Failure, Gpu, LayerConfig, LayerMeasurement, StaticFacts, Status
from autotune.space.config import Config


class RunState(StrEnum):
    """How far a run got."""

    RUNNING = "running"
    FINISHED = "finished"
    INTERRUPTED = "interrupted"  # by the user, or its process is gone
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One command that searched, measured or confirmed.

    Attributes:
        uid: names the run in every database that it is merged into.
        command: the command line as typed.
        spec: what was asked for, after defaults.
        host, pid, process: the process that does it; `process` tells it from a later one of equal pid.
        started_at, ended_at: UTC; ended_at is None while it runs.
        seen_at: when it last wrote something, UTC, where it has not ended and its process cannot be seen from
            here, on another machine or in another container; else None.
        environment: the stack; None for a run that measures on none.
    """

    id: int
    uid: str
    command: str
    spec: Mapping[str, Any]
    seed: int
    state: RunState
    host: str
    pid: int
    process: str | None
    started_at: datetime
    ended_at: datetime | None
    tool_version: str
    environment: Fingerprint | None
    seen_at: datetime | None = None

    @property
    def shown_state(self) -> str:
        """How far it got, for people; `unknown` where its process cannot be seen from here."""
        return "unknown" if self.seen_at else str(self.state)


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """One candidate's result at one stage of one problem.

    Attributes:
        environment: the stack that it was compiled for and measured on.
        space_digest: names the search-space file that the config belongs to.
        workload: canonical text of the measuring conditions; only equal ones may be compared.
        origin: `default`, `published`, `seed`, or the sampler's name.
        kind: what the time is; for a failed trial, what it would have been.
        time_us: microseconds a launch; exactly when the status is OK.
        gate_error: the numeric gate's relative error; None: the gate did not run. NaN is kept as inf.
        reason: one sentence; exactly when the status is not OK.
        binary_hash: SHA-256 of the machine code, hex; None: it was not compiled.
        compile_s, measure_s: wall seconds.
        merged_into: id of the trial with equal machine code whose time this one shares.
        contended: who else was at work on the GPU, in words: the time is not the config's own, and it was put
            off. None: nobody, as far as can be told.
        gpu: on which its samples were taken; None: there are none, or they are recorded ones.
    """

    problem: Problem
    stage: Stage
    backend: str
    environment: Fingerprint
    space_digest: str
    workload: str
    config: Config
    origin: str
    status: Status
    kind: Kind
    time_us: float | None = None
    gate_error: float | None = None
    reason: str | None = None
    facts: StaticFacts = field(default_factory=StaticFacts)
    binary_hash: str | None = None
    compile_s: float = 0.0
    measure_s: float = 0.0
    merged_into: int | None = None
    contended: str | None = None
    gpu: Gpu | None = None


@dataclass(frozen=True, kw_only=True)
class StoredTrial(TrialRecord):
    """A trial as it stands in the database.

    Attributes:
        run: id of its run.
        number: place in its run, from 0.
        created_at: when it was committed, UTC.
    """

    id: int
    run: int
    number: int
    created_at: datetime


@dataclass(frozen=True)
class CalibrationWindow:
    """A window of a config on one of several equal GPUs.

    Attributes:
        us: median of its samples, microseconds a launch.
    """

    problem: Problem
    stage: Stage
    config: Config
    gpu: Gpu
    us: float


@dataclass(frozen=True, kw_only=True)
class LayerTrial:
    """What became of a layer config that a search tried.

    Attributes:
        workload: canonical text of the measuring conditions; only equal ones may be compared.
        default: the config whose interleaved times it was measured beside.
        origin: `leaders`, `neighbour`, `model`, `near` (best at a near shape) or `earlier`.
        outcome: its times, or why there are none.
    """

    problem: Problem
    backend: str
    environment: Fingerprint
    workload: str
    config: LayerConfig
    default: LayerConfig
    origin: str
    kind: Kind
    outcome: LayerMeasurement | Failure


@dataclass(frozen=True, kw_only=True)
class StoredConfirmation:
    """A confirmation with where and how it was made.

    Attributes:
        workload: canonical text of the measuring conditions.
        kind: measured or replayed.
    """

    id: int
    run: int
    backend: str
    environment: Fingerprint
    workload: str
    kind: Kind
    confirmation: Confirmation
    created_at: datetime


@dataclass(frozen=True)
class ShortListed:
    """A layer config that an estimate ranks high.

    Attributes:
        gain: estimated (default - config) / default of the layer's time.
    """

    config: LayerConfig
    gain: float


@dataclass(frozen=True, kw_only=True)
class WinnerRecord:
    """The config chosen for a problem.

    Attributes:
        kind: measured or replayed: won a confirmation. estimate: an entry of a short list.
        rank: 0: the best. Only a short list has more.
        gain: (default - config) / default of the layer's time; an estimated one has no interval.
        gain_low, gain_high: 95 % interval.
        confirmation: its id; None for an estimate.
        stage1_trial, stage2_trial: ids of the trials that an estimate comes from.
        shared: others may have been on the GPU while it was confirmed: the user insisted.
    """

    id: int
    run: int
    problem: Problem
    backend: str
    environment: Fingerprint
    kind: Kind
    rank: int
    config: LayerConfig
    default: LayerConfig
    gain: float
    gain_low: float | None
    gain_high: float | None
    confirmation: int | None
    stage1_trial: int | None
    stage2_trial: int | None
    created_at: datetime
    shared: bool = False

    @property
    def kept_default(self) -> bool:
        """Nothing was shown to be faster than the default."""
        return self.config == self.default


@dataclass(frozen=True, kw_only=True)
class ExportRecord:
    """A bundle that was written.

    Attributes:
        host: the machine on which bundle_path is a path.
        manifest_hash: SHA-256 of the bundle's manifest.json, hex.
        winners: ids of the winners in it.
        unmeasured_allowed: the user let estimates or replayed times in.
    """

    id: int
    uid: str
    host: str
    bundle_path: str
    manifest_hash: str
    winners: tuple[int, ...]
    unmeasured_allowed: bool
    tool_version: str
    created_at: datetime
