"""Confirmed winners of AITER main's kernels as rows of its table, which stands first in a list of tables.

AITER rounds a batch up to a bucket, so one row serves every count of its bucket, and is chosen over all of
them. A row always names both kernels: AITER reads an empty name as a number that is none, and stops on it. So
what a winner leaves to AITER is written as what AITER takes there.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from statistics import median

from autotune.backends.aiter_main.csv import (
    COLUMNS,
    DECODE_VARIABLE,
    FILE_NAME,
    FOLDER,
    VARIABLE,
    FmoeKey,
    FmoeRow,
    bucket,
    columns_of,
    merge_list,
    table_csv,
    with_shipped,
    without_keys,
)
from autotune.backends.aiter_main.instances import f8i4_instances
from autotune.backends.aiter_main.lookup import CORE, FUSED_MOE
from autotune.backends.aiter_main.names import grouped_int4_name
from autotune.engines.source import EngineSource, find_source, open_source
from autotune.errors import UserError
from autotune.problem.layer import Stage
from autotune.protocol.exporter import Content, Exporter, Place, Preview, Request, Row, Stack
from autotune.protocol.key_table import looked_at
from autotune.protocol.mix import Mix, MixDecision, decide, even
from autotune.results import Confirmation
from autotune.space.config import UNSET, Config
from autotune.statistics import median_interval, pair_ratios
from autotune.store.records import WinnerRecord
from autotune.store.store import Store
from autotune.text import percent

_INT4 = ("torch.uint32", "torch.int4")


class TableExporter(Exporter):
    """Rows of FP8 x INT4."""

    format = "aiter"
    options = frozenset({"source", "root"})
    # SGLang 0.5.23 does not load experts in this format.
    stacks: Mapping[str, Stack] = {
        "vllm": Stack(
            "mainline vLLM through AITER main, whose int4 x fp8 kernels the rows of AITER_CONFIG_FMOE choose",
            {"VLLM_ROCM_USE_AITER": "1"},
        )
    }
    q_type = "QuantType.per_Token"

    def activations(self, arch: str) -> str:
        """Their dtype in a row's key."""
        return "torch.float8_e4m3fnuz" if arch == "gfx942" else "torch.float8_e4m3fn"

    def kernel(self, source: EngineSource | None, arch: str, stage: Stage, config: Config) -> str:
        """The name that a row has for a config.

        Raises:
            UserError: AITER chooses it, and which it would choose is not known.
        """
        if config["kernel"] is not UNSET:
            return str(config["kernel"])
        if source is None or not source.root.is_dir():
            raise UserError(
                f"{stage} leaves its kernel to AITER, whose tables need its name: give AITER's source tree"
                " with --aiter-source"
            )
        block = config["tile_m"]
        fitting = [n.text for n in f8i4_instances(source.root / "aiter", stage, arch) if n.tile_m == block]
        if len(fitting) != 1:
            raise UserError(
                f"{stage} leaves its kernel to AITER, and the one at {source.root} has {len(fitting)} for"
                f" blocks of {block} rows: tune with that AITER, so that winners have names"
            )
        return fitting[0]

    def content(self, request: Request) -> Content:
        """The rows, merged beside the serving AITER's own tables.

        Raises:
            UserError: no shape has a winner other than the default, or the serving AITER is not as needed.
        """
        place, first = request.place, request.winners[0]
        layer, environment = first.problem.layer, first.environment
        source = open_source("aiter", place.source) if place.source else find_source("aiter")
        name = partial(self.kernel, source, environment.arch)
        finals = [_Final.of(request.store, winner, name) for winner in request.winners]
        decisions = _decisions(finals)
        choices = {tokens: decision.setting for tokens, decision in decisions.items()}
        rows = [_row(tokens, choice, finals) for tokens, choice in choices.items() if choice is not None]
        if not rows:
            raise UserError(
                "no bucket has a row that beats what AITER does without one at every count that it serves:"
                " there is nothing to write"
            )
        key = FmoeKey(
            *(environment.arch, environment.compute_units, layer.model_dim, layer.inter_dim),
            *(layer.experts, layer.top_k, self.activations(environment.arch), _INT4),
            q_type=self.q_type,
        )
        shipped = shipped_tables(source) if source else None
        root = _installed(source, place.root) if source else ""
        regimes = source is not None and has_regimes(source)
        content = aiter_content(key, rows, place, shipped=shipped, installed=root, regimes=regimes)
        notes = [line for tokens, decision in decisions.items() for line in _decided(tokens, decision)]
        deployed = [final.deployed(choices[final.bucket]) for final in finals]
        return replace(content, notes=(*notes, *content.notes), winners=deployed)


class GroupedTableExporter(TableExporter):
    """Rows of bfloat16 x INT4 in groups. No engine is known whose launch would lead there."""

    stacks: Mapping[str, Stack] = {}
    q_type = "QuantType.per_1x32"

    def activations(self, arch: str) -> str:
        return "torch.bfloat16"

    def kernel(self, source: EngineSource | None, arch: str, stage: Stage, config: Config) -> str:
        return grouped_int4_name(stage, config)


@dataclass(frozen=True)
class Choice:
    """What a row sets."""

    block_m: int
    kernel1: str
    kernel2: str


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
            kernel1, kernel2 = (name(stage, finalist.config.of(stage)) for stage in Stage)
            choices.append(Choice(int(str(finalist.config.stage1["tile_m"])), kernel1, kernel2))
        places: dict[Choice, int] = {}
        for place, choice in enumerate(choices):
            if confirmation.errors[place] is not None:
                places.setdefault(choice, place)
        won = choices[confirmation.winner]
        return cls(winner, confirmation, places, None if won == choices[0] else won)

    @property
    def bucket(self) -> int:
        """The count by which AITER looks it up."""
        return bucket(self.winner.problem.tokens)

    def us(self, place: int, what: str) -> float:
        """Median microseconds of a finalist over its rounds."""
        rounds = self.confirmation.rounds
        return median(timed.us[place][what] for timed in rounds if what in timed.us[place])

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
        ran = [timed.us for timed in self.confirmation.rounds if timed.us[place] and timed.us[0]]
        return [(us[place]["layer"], us[0]["layer"]) for us in ran]


def _decisions(finals: Sequence[_Final]) -> dict[int, MixDecision[Choice | None]]:
    """Each bucket's choice among what was confirmed at some count of that bucket; None: no row.

    The row for 4 serves 3 and 4: it is the best over both, and loses at neither.
    """
    decisions: dict[int, MixDecision[Choice | None]] = {}
    for rounded in sorted({final.bucket for final in finals}):
        times = _times([final for final in finals if final.bucket == rounded])
        counts = sorted(times[None])
        decisions[rounded] = decide(times, None, Mix.of(even(counts), guards=counts))
    return decisions


def _times(finals: Sequence[_Final]) -> dict[Choice | None, dict[int, float]]:
    """Microseconds of what was confirmed at one of these counts, and of the default (None), by tokens."""
    ships = {final.winner.problem.tokens: final.us(0, "layer") for final in finals}
    times: dict[Choice | None, dict[int, float]] = {None: ships}
    for choice in [final.won for final in finals if final.won is not None]:
        ratios = {final.winner.problem.tokens: final.ratio(choice) for final in finals}
        times[choice] = {m: ratio * ships[m] for m, ratio in ratios.items() if ratio is not None}
    return times


def _row(tokens: int, choice: Choice, finals: Sequence[_Final]) -> FmoeRow:
    final = next(each for each in finals if each.won == choice and each.bucket == tokens)
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


def _decided(tokens: int, decision: MixDecision[Choice | None]) -> list[str]:
    """What became of the candidates for a bucket's row, a sentence each."""
    counts = ", ".join(map(str, decision.mix.weights))
    sentences = []
    for line in decision.candidates:
        end = "chosen" if line.setting == decision.setting else line.refused and f"refused, {line.refused}"
        if line.setting is None or not end:
            continue
        gains = [
            f"{percent(line.gains[m], signed=True)} at {m}" for m in decision.mix.weights if m in line.gains
        ]
        sentences.append(
            f"row {tokens}, of {counts} tokens: {line.setting.kernel1} {', '.join(gains)}: {end}"
        )
    return sentences


def _installed(source: EngineSource, root: str | None) -> str:
    """The folder that holds `aiter/` where it serves.

    Raises:
        UserError: a wheel does not tell.
    """
    if root is not None:
        return root.rstrip("/")
    if source.root.is_file():
        raise UserError(
            f"{source.root} is a wheel, and the list of tables needs the folder in which it is installed"
            " where it serves: give that with --aiter-root"
        )
    return str(source.root.resolve())


def shipped_tables(source: EngineSource) -> dict[str, str]:
    """Paths and texts of the tables that an AITER merges by itself, in its order: the common one first."""
    names = [
        name
        for name in source.names("aiter/configs")
        if name.endswith(".csv") and "tuned_fmoe" in name and "untuned" not in name and "grouped" not in name
    ]
    ordered = sorted(names, key=lambda name: (name.count("/"), name))
    return {name: source.text(name) for name in ordered}


def has_regimes(source: EngineSource) -> bool:
    """Whether an AITER has a table of its own for decode, beside the one for everything."""
    text = source.text(FUSED_MOE)
    return "def set_moe_regime(" in text and DECODE_VARIABLE in text + source.text(CORE)


def aiter_content(
    key: FmoeKey,
    rows: Sequence[FmoeRow],
    place: Place,
    *,
    shipped: Mapping[str, str] | None = None,
    installed: str = "",
    regimes: bool = False,
) -> Content:
    """Our table, and copies of shipped tables that have a row of the same key.

    Args:
        rows: one a bucket.
        shipped: tables of the serving AITER, path below its root to text; None: they are not known, and the
            variable then replaces them.
        installed: the root of the serving AITER, a path on the serving machine.
        regimes: it has a table for decode: the rows go there, with the shipped ones of this GPU, and prefill
            is left as it is.

    Raises:
        UserError: two rows for one bucket, or an unknown table.
    """
    shipped = shipped or {}
    columns: Sequence[str] = columns_of(next(iter(shipped.values()))) if shipped else COLUMNS
    if "gfx" not in columns:
        columns = ["gfx", *columns]
    ours = table_csv(key, rows, columns)
    files = {f"{FOLDER}/{FILE_NAME}": ours}
    paths = [f"{place.folder}/{FOLDER}/{FILE_NAME}"]
    notes = []
    if regimes:
        files = {f"{FOLDER}/{FILE_NAME}": with_shipped(ours, shipped.values(), key)}
        notes.append(
            f"this AITER has a table for decode: {DECODE_VARIABLE} names ours, with the shipped rows of this"
            " GPU, and prefill keeps its own. It is read only where the server says set_moe_regime('decode'),"
            " as newer SGLangs do on ROCm"
        )
    for name, text in () if regimes else shipped.items():
        left = without_keys(text, ours)
        if left is None:
            paths.append(str(PurePosixPath(installed) / name))
            continue
        copy = f"{FOLDER}/{Path(name).name}"
        files[copy] = left
        paths.append(f"{place.folder}/{copy}")
        notes.append(
            f"{name} has rows with our keys: a copy without them is in the bundle, as a merge of both would"
            " raise"
        )
    if not shipped:
        notes.append(
            f"{VARIABLE} replaces AITER's shipped tables; export with --aiter-source to merge with them."
        )
    by_bucket = {row.tokens: row for row in rows}
    served = {m: by_bucket.get(bucket(m)) for m in looked_at(by_bucket)}
    intended = {
        str(m): {
            "kernelName1": row.kernel1,
            "kernelName2": row.kernel2,
            "block_m": row.block_m,
            "ksplit": row.ksplit,
            "run_1stage": 0,
        }
        for m, row in served.items()
        if row
    }
    shown = [
        Row(m, bucket(m), "tuned", f"block_m={row.block_m} {row.kernel1} + {row.kernel2}")
        if row
        else Row(m, bucket(m), "no row of ours", "as shipped")
        for m, row in served.items()
    ]
    return Content(
        files=files,
        variables={DECODE_VARIABLE if regimes else VARIABLE: merge_list(paths)},
        lookups={
            "aiter": {
                "key": asdict(key),
                "generation": "main",
                "intended": intended,
                **({"regime": "decode"} if regimes else {}),
            }
        },
        previews=(Preview(f"{FOLDER}/{FILE_NAME}", tuple(shown)),),
        notes=tuple(notes),
    )
