"""Confirmed winners of AITER main's kernels as rows of its table: one a bucket, chosen for every count in it.

A row always names both kernels: AITER reads an empty name as a number that is none, and stops on it. So what
a winner leaves to AITER is written as what AITER takes there.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

from autotune.backends.aiter_main.backend import AiterMain, AiterMainGrouped
from autotune.backends.aiter_main.content import aiter_content, shipped_tables
from autotune.backends.aiter_main.csv import FmoeKey, FmoeRow, Generation, bucket
from autotune.backends.aiter_main.instances import f8i4_instances
from autotune.backends.aiter_main.names import grouped_int4_name
from autotune.backends.aiter_main.rows import choose_rows
from autotune.engines.source import EngineSource, find_source, open_source
from autotune.errors import UserError
from autotune.problem.layer import Stage
from autotune.protocol.backend import Backend
from autotune.protocol.content import Content, Place
from autotune.protocol.mix import Decision
from autotune.results import Confirmation
from autotune.space.config import UNSET, Config
from autotune.statistics import median_interval, pair_ratios
from autotune.store.records import WinnerRecord
from autotune.store.store import Store
from autotune.text import percent

_INT4 = ("torch.uint32", "torch.int4")


@dataclass(frozen=True)
class ServingAiter:
    """The AITER that will serve.

    Attributes:
        source: its files; None: the installed one, where there is one.
        root: the folder that holds `aiter/` on the serving machine; None: where the source is here.
    """

    source: Path | None = None
    root: str | None = None


@dataclass(frozen=True)
class Choice:
    """What a row sets."""

    block_m: int
    kernel1: str
    kernel2: str


def writes_table(backend: Backend) -> bool:
    """Whether a backend's winners are rows of AITER's table."""
    return isinstance(backend, AiterMain | AiterMainGrouped)


def table_content(
    store: Store, backend: Backend, winners: Sequence[WinnerRecord], place: Place, aiter: ServingAiter
) -> tuple[Content, list[WinnerRecord]]:
    """The rows, merged beside the serving AITER's own tables.

    Args:
        winners: of one layer on one stack, ascending by tokens; each with its confirmation.

    Returns:
        The rows, and the winners with what their bucket's row makes of them.

    Raises:
        UserError: no shape has a winner other than the default, or the serving AITER is not as needed.
    """
    source = open_source("aiter", aiter.source) if aiter.source else find_source("aiter")
    name = partial(_kernel, backend, source, winners[0].environment.arch)
    finals = [_Final.of(store, winner, name) for winner in winners]
    decisions = _decisions(finals)
    rows = [
        _row(tokens, decision.setting, finals)
        for tokens, decision in decisions.items()
        if decision.setting is not None
    ]
    if not rows:
        raise UserError(
            "no bucket has a row that beats what AITER does without one at every count that it serves: there"
            " is nothing to write"
        )
    made = aiter_content(
        _key(backend, winners[0]),
        rows,
        Generation.MAIN,
        place,
        shipped=shipped_tables(source) if source else None,
        installed=_installed(source, aiter) if source else "",
    )
    notes = [line for tokens, decision in decisions.items() for line in _decided(tokens, decision)]
    content = Content(made.files, made.variables, made.lookups, made.previews, (*notes, *made.notes))
    return content, [final.deployed(decisions[final.bucket].setting) for final in finals]


def _kernel(backend: Backend, source: EngineSource | None, arch: str, stage: Stage, config: Config) -> str:
    """The name that a row has for a config."""
    if isinstance(backend, AiterMainGrouped):
        return grouped_int4_name(stage, config)
    if config["kernel"] is not UNSET:
        return str(config["kernel"])
    if source is None or not source.root.is_dir():
        raise UserError(
            f"{stage} leaves its kernel to AITER, whose tables need its name: give AITER's source tree with"
            " --aiter-source"
        )
    block = config["tile_m"]
    fitting = [n.text for n in f8i4_instances(source.root / "aiter", stage, arch) if n.tile_m == block]
    if len(fitting) != 1:
        raise UserError(
            f"{stage} leaves its kernel to AITER, and the one at {source.root} has {len(fitting)} for blocks"
            f" of {block} rows: tune with that AITER, so that winners have names"
        )
    return fitting[0]


@dataclass(frozen=True)
class _Final:
    """The final of one number of tokens in the table's words.

    Attributes:
        places: of the choices that were timed, among the finalists.
        won: the winner; None: the default was kept.
    """

    winner: WinnerRecord
    confirmation: Confirmation
    places: Mapping[Choice, int]
    won: Choice | None

    @classmethod
    def of(cls, store: Store, winner: WinnerRecord, name: Callable[[Stage, Config], str]) -> "_Final":
        if winner.confirmation is None:
            raise UserError("AITER's table holds what was measured, and estimates were not: run on the GPU")
        confirmation = store.confirmation(winner.confirmation).confirmation
        choices = []
        for finalist in confirmation.finalists:
            one, two = (name(stage, finalist.config.of(stage)) for stage in Stage)
            choices.append(Choice(int(str(finalist.config.stage1["tile_m"])), one, two))
        places: dict[Choice, int] = {}
        for place, choice in enumerate(choices):
            if confirmation.errors[place] is not None:
                places.setdefault(choice, place)
        won = choices[confirmation.winner]
        return cls(winner, confirmation, places, None if won == choices[0] else won)

    @property
    def bucket(self) -> int:
        """The count by which AITER looks it up."""
        return bucket(self.winner.problem.tokens, Generation.MAIN)

    def us(self, place: int, what: str) -> float:
        """Median microseconds of a finalist over its rounds."""
        ran = [one.us[place][what] for one in self.confirmation.rounds if what in one.us[place]]
        return median(ran)

    def ratio(self, choice: Choice) -> float | None:
        """time(choice) / time(the default); None: it was not timed here.

        The winner's is the one that was confirmed.
        """
        if choice == self.won:
            return 1 - self.winner.gain
        both = self._beside_default(choice)
        return median(us / base for us, base in both) if both else None

    def deployed(self, choice: Choice | None) -> WinnerRecord:
        """The winner as its bucket's row has it; None: there is no row, and the default serves."""
        if choice is None:
            default = self.winner.default
            return replace(self.winner, config=default, gain=0.0, gain_low=0.0, gain_high=0.0)
        if choice == self.won:
            return self.winner
        both = self._beside_default(choice)
        mine, base = zip(*both[: len(both) // 2 * 2], strict=True)
        ratio = median_interval(pair_ratios(mine, base))
        config = self.confirmation.finalists[self.places[choice]].config
        return replace(
            self.winner,
            config=config,
            gain=1 - ratio.value,
            gain_low=1 - ratio.high,
            gain_high=1 - ratio.low,
        )

    def _beside_default(self, choice: Choice) -> list[tuple[float, float]]:
        """Microseconds of a choice and of the default, in the rounds in which both ran."""
        place = self.places.get(choice)
        if place is None:
            return []
        ran = [one.us for one in self.confirmation.rounds if one.us[place] and one.us[0]]
        return [(us[place]["layer"], us[0]["layer"]) for us in ran]


def _decisions(finals: Sequence[_Final]) -> dict[int, Decision[Choice | None]]:
    """Each bucket's choice among what was confirmed at some count of that bucket; None: no row."""
    made: dict[int, Decision[Choice | None]] = {}
    for rounded in sorted({final.bucket for final in finals}):
        times = _times([final for final in finals if final.bucket == rounded])
        made |= choose_rows(times, None, Generation.MAIN)
    return made


def _times(finals: Sequence[_Final]) -> dict[Choice | None, dict[int, float]]:
    """Microseconds of what was confirmed at one of these counts, and of the default (None), by tokens."""
    ships = {final.winner.problem.tokens: final.us(0, "layer") for final in finals}
    times: dict[Choice | None, dict[int, float]] = {None: ships}
    for choice in [final.won for final in finals if final.won is not None]:
        ratios = {final.winner.problem.tokens: final.ratio(choice) for final in finals}
        times[choice] = {m: ratio * ships[m] for m, ratio in ratios.items() if ratio is not None}
    return times


def _row(tokens: int, choice: Choice, finals: Sequence[_Final]) -> FmoeRow:
    final = next(one for one in finals if one.won == choice and one.bucket == tokens)
    place = final.places[choice]
    error = final.confirmation.errors[place] or 0.0
    return FmoeRow(
        tokens,
        choice.block_m,
        choice.kernel1,
        choice.kernel2,
        final.us(place, "stage1"),
        final.us(place, "stage2"),
        error,
        error,
    )


def _decided(tokens: int, decision: Decision[Choice | None]) -> list[str]:
    counts = ", ".join(map(str, decision.mix.weights))
    made = []
    for line in decision.candidates:
        if line.setting is None:
            continue
        gains = ", ".join(
            f"{percent(gain, signed=True)} at {m}"
            for m, gain in line.gains.items()
            if m in decision.mix.weights
        )
        end = (
            "chosen"
            if line.setting == decision.setting
            else f"refused, {line.refused}"
            if line.refused
            else ""
        )
        if end:
            made.append(f"row {tokens}, of {counts} tokens: {line.setting.kernel1} {gains}: {end}")
    return made


def _key(backend: Backend, winner: WinnerRecord) -> FmoeKey:
    layer, environment = winner.problem.layer, winner.environment
    grouped = isinstance(backend, AiterMainGrouped)
    fp8 = "torch.float8_e4m3fnuz" if environment.arch == "gfx942" else "torch.float8_e4m3fn"
    return FmoeKey(
        *(environment.arch, environment.compute_units, layer.model_dim, layer.inter_dim),
        *(layer.experts, layer.top_k, "torch.bfloat16" if grouped else fp8, _INT4),
        q_type="QuantType.per_1x32" if grouped else "QuantType.per_Token",
    )


def _installed(source: EngineSource, aiter: ServingAiter) -> str:
    """The folder that holds `aiter/` where it serves.

    Raises:
        UserError: a wheel does not tell.
    """
    if aiter.root is not None:
        return aiter.root.rstrip("/")
    if source.root.is_file():
        raise UserError(
            f"{source.root} is a wheel, and the list of tables needs the folder in which it is installed"
            " where it serves: give that with --aiter-root"
        )
    return str(source.root.resolve())
