"""Results of candidates, as types that pass between compiling, measuring, search and store."""

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from statistics import median
from typing import Any

from autotune.problem.layer import Problem, Stage
from autotune.space.config import Config


class Status(StrEnum):
    """How a trial ended."""

    OK = "ok"
    CONSTRAINT = "constraint"  # refused by a static fact of the compiled code: LDS, spills
    COMPILE_ERROR = "compile_error"
    COMPILE_TIMEOUT = "compile_timeout"
    RUNTIME_ERROR = "runtime_error"
    TIMEOUT = "timeout"
    INCORRECT = "incorrect"


@dataclass(frozen=True)
class StaticFacts:
    """What the compiled code says of itself. None: this target's code does not tell.

    Attributes:
        vgprs: vector registers a lane, accumulation registers not included.
        agprs: accumulation registers a lane (CDNA).
        sgprs: scalar registers a wave.
        spills: vector registers spilled to scratch.
        lds_bytes: LDS (shared memory) a workgroup.
        mfma: matrix instructions in the code.
        waits: s_waitcnt instructions in the code.
        loads: vector-memory loads in the code.
        lds_ops: LDS instructions in the code.
        instructions: all instructions in the code.
        workgroups_per_cu: occupancy, bound by registers and LDS.
        waves_per_simd: the same in waves, on the fullest SIMD.
    """

    vgprs: int | None = None
    agprs: int | None = None
    sgprs: int | None = None
    spills: int | None = None
    lds_bytes: int | None = None
    mfma: int | None = None
    waits: int | None = None
    loads: int | None = None
    lds_ops: int | None = None
    instructions: int | None = None
    workgroups_per_cu: int | None = None
    waves_per_simd: int | None = None


@dataclass(frozen=True)
class Compiled:
    """A candidate's artefact.

    Attributes:
        binary_hash: SHA-256 of the machine code, hex. Candidates with equal hashes are one program.
        facts: read from the code.
        seconds: wall time of the compile.
    """

    binary_hash: str
    facts: StaticFacts
    seconds: float


@dataclass(frozen=True)
class Failure:
    """Why there is no time.

    Attributes:
        status: anything but OK.
        reason: one sentence.
        seconds: time that it cost.
        error: the numeric gate's relative error, where the gate ran.
    """

    status: Status
    reason: str
    seconds: float = 0.0
    error: float | None = None


class VerdictStatus(StrEnum):
    """What executing a binary on the CPU says of it."""

    PASS = "pass"
    INCORRECT = "incorrect"  # wrong numbers
    FAULT = "fault"  # reads or writes what it must not, or what nothing has written: wrong on hardware too
    NOT_EMULATED = "not_emulated"  # nothing can be said


WRONG = (VerdictStatus.INCORRECT, VerdictStatus.FAULT)
"""Verdicts that keep a binary from ever being exported."""


@dataclass(frozen=True)
class CheckVerdict:
    """What a check (`autotune.check`) says of one binary.

    Attributes:
        error: ||out - reference|| / ||reference|| over everything that was checked; infinite where a value
            is not finite; None: no numbers came out.
        reason: one sentence; None exactly for a pass. It begins with the instruction where one is at fault
            or missing.
        seconds: of one core, without the compile.
        counts: what was executed, as JSON values; empty where the execution did not end.
    """

    status: VerdictStatus
    error: float | None
    reason: str | None
    seconds: float
    counts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def wrong(self) -> bool:
        """Whether the binary must never be used."""
        return self.status in WRONG

    @property
    def text(self) -> str:
        """A line for people."""
        if self.status is VerdictStatus.PASS:
            return f"pass, error {self.error:.2e}"
        return f"{self.status.replace('_', ' ')}: {self.reason}"


@dataclass(frozen=True)
class CompilerVersion:
    """What made a binary, e.g. `triton 3.9.0`."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


@dataclass(frozen=True)
class Sample:
    """One timed replay.

    Attributes:
        us: microseconds a launch.
        clock_mhz: core clock read around it; None: the device does not tell.
        throttled: the device reported a clock limit while it ran.
    """

    us: float
    clock_mhz: int | None = None
    throttled: bool = False


@dataclass(frozen=True)
class Gpu:
    """One GPU among equal ones.

    Attributes:
        host: name of its machine.
        uuid: its UUID or PCI address; None: it is not told.
    """

    host: str
    uuid: str | None

    @classmethod
    def here(cls, uuid: str | None) -> "Gpu":
        """A GPU of this machine, by what `Machine.identity` calls it."""
        return cls(socket.gethostname(), uuid)

    def __str__(self) -> str:
        return f"{self.uuid or 'GPU'} of {self.host}"


@dataclass(frozen=True)
class Measurement:
    """A candidate's timing, taken after it passed the numeric gate.

    Attributes:
        samples: every replay, in order.
        error: the gate's relative error, ||out - reference|| / ||reference||, the worst of its cases.
        seconds: wall time on the device, gate included.
        contended: who else was at work on the GPU meanwhile, in words: the time is not the candidate's own.
            None: nobody, as far as can be told, or that was asked for.
        gpu: on which it was taken; None: of a recording.
    """

    samples: tuple[Sample, ...]
    error: float
    seconds: float
    contended: str | None = None
    gpu: Gpu | None = None

    @property
    def us(self) -> float:
        """Median microseconds."""
        return median(sample.us for sample in self.samples)


@dataclass(frozen=True)
class LayerMeasurement:
    """A layer config's time beside the default's: passes of both, in turn, in one process.

    Attributes:
        us: microseconds a layer of the config, every sample.
        default_us: of the default, taken before and after them.
        error: the numeric gate's relative error.
        seconds: wall time on the device, gate included.
        contended, gpu: see `Measurement`.
    """

    us: tuple[float, ...]
    default_us: tuple[float, ...]
    error: float
    seconds: float
    contended: str | None = None
    gpu: Gpu | None = None

    @property
    def ratio(self) -> float:
        """time(config) / time(default): what drift leaves alone."""
        return median(self.us) / median(self.default_us)


SHARED = ";shared"
"""Ends the text of measuring conditions under which others may have been on the GPU: the user insisted."""


@dataclass(frozen=True)
class LayerConfig:
    """The configs of a layer's two stages; engines deploy them together."""

    stage1: Config
    stage2: Config

    def of(self, stage: Stage) -> Config:
        """The config of one stage."""
        return self.stage1 if stage is Stage.STAGE1 else self.stage2

    @property
    def key(self) -> str:
        """Canonical text; equal configs have equal keys."""
        return f"{self.stage1.key}|{self.stage2.key}"


SETTING = "setting"
"""Begins the labels of finalists in a table of settings."""


@dataclass(frozen=True)
class Finalist:
    """A layer config that takes part in a confirmation.

    Attributes:
        label: `default`, `published`, or `candidate`; in a table of settings `setting N`, which names the
            same setting of the process in all tables of a run.
    """

    label: str
    config: LayerConfig


@dataclass(frozen=True)
class Round:
    """One paired round of a confirmation.

    Attributes:
        us: for each finalist, microseconds by what was timed: `layer`, `stage1`, `stage2`.
    """

    us: tuple[dict[str, float], ...]


@dataclass(frozen=True)
class Confirmation:
    """Paired rounds on fresh routings: the only source of a reported gain.

    Attributes:
        finalists: the default is the first.
        rounds: all of them, in order.
        errors: each finalist's numeric-gate error; None: it failed and was not timed.
        winner: index of the winner; 0 keeps the default.
        gain: (default - winner) / default, of the layer's time: the median of the per-round ratios; 0
            where the default is kept.
        gain_low, gain_high: its 95 % bootstrap interval over rounds.
        gpu: on which all rounds were timed; None: of a recording, or it is not known.
    """

    problem: Problem
    finalists: tuple[Finalist, ...]
    rounds: tuple[Round, ...]
    errors: tuple[float | None, ...]
    winner: int
    gain: float
    gain_low: float
    gain_high: float
    notes: tuple[str, ...] = field(default=())
    gpu: Gpu | None = None

    @property
    def left_out(self) -> tuple[str, ...]:
        """Who was not timed to the end, and why; a sentence each."""
        failed = [index for index, error in enumerate(self.errors) if error is None]
        labels = [self.finalists[index].label for index in failed]
        begins = [f"{label} {index} " for label, index in zip(labels, failed, strict=True)]
        begins += [f"{label} was " for label in labels]
        return tuple(note for note in self.notes if note.startswith(tuple(begins)))
