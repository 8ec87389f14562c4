"""The parts that SGLang's and vLLM's files share: from winners to a table, and from a table to JSON."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from autotune.engines.backend import EngineBackend
from autotune.engines.moe import HIP_ONLY, entry
from autotune.errors import UserError
from autotune.problem.layer import Stage
from autotune.protocol.exporter import Preview, Row, device_of, source_of
from autotune.protocol.key_table import key_table, looked_at, nearest
from autotune.results import LayerConfig
from autotune.space.config import Config
from autotune.store.records import WinnerRecord

Table = Mapping[int, LayerConfig]


def engine_default(kernels: EngineBackend, winner: WinnerRecord) -> Callable[[int], LayerConfig]:
    """The engine's own config by tokens, for a winner's layer on its GPU.

    Raises:
        UserError: the engine's rule for this GPU is not known.
    """
    device = device_of(winner, "the engine's default")
    return lambda tokens: kernels.default(winner.problem.layer, tokens, device)


def winners_table(winners: Sequence[WinnerRecord], default: Callable[[int], LayerConfig]) -> Table:
    """What a file must hold: the winners by tokens, and the engine's default elsewhere.

    Raises:
        UserError: a winner's stages have unlike block sizes, or knobs that its GPU's compiler does not know.
    """
    for winner in winners:
        _check(winner)
    tuned = {winner.problem.tokens: winner.config for winner in winners}
    return key_table(tuned, default)


def _check(winner: WinnerRecord) -> None:
    stage1, stage2 = (winner.config.of(stage).get("tile_m") for stage in Stage)
    where = f"the winner at {winner.problem.tokens_text}"
    if stage1 != stage2:
        raise UserError(
            f"{where} has tile_m={stage1} in stage 1 and {stage2} in stage 2, but both stages share one sort:"
            " tune it again"
        )
    if not winner.environment.arch.startswith("gfx"):
        for stage in Stage:
            config = winner.config.of(stage)
            foreign = sorted(name for name in HIP_ONLY if config.get(name) is not None)
            if foreign:
                raise UserError(
                    f"{where} sets {foreign[0]}, which Triton for {winner.environment.arch} does not know:"
                    " tune it again"
                )


def table_json(
    table: Table, stage: Stage, *, split_k: bool = False, head: Mapping[str, str] | None = None
) -> str:
    """One stage's file: keys ascending, since of two keys equally near the first in the file wins.

    Args:
        head: keys before the entries, for a reader that drops them.
    """
    entries = {str(key): entry(table[key].of(stage), split_k=split_k) for key in sorted(table)}
    return json.dumps({**(head or {}), **entries}, indent=4) + "\n"


def intended(
    table: Table, winners: Sequence[WinnerRecord], stage: Stage, *, split_k: bool = False
) -> dict[str, Any]:
    """What the engine must select, by tokens: for the manifest, and `autotune verify`.

    A tuned count must get its winner, whatever the table says.
    """
    tuned = {winner.problem.tokens: winner.config for winner in winners}
    return {
        str(m): entry((tuned[m] if m in tuned else table[nearest(table, m)]).of(stage), split_k=split_k)
        for m in looked_at(tuned)
    }


def preview(file: str, table: Table, winners: Sequence[WinnerRecord], stage: Stage) -> Preview:
    """Which key serves which tokens, for people."""
    tuned = {winner.problem.tokens: winner for winner in winners}
    rows = []
    for m in looked_at(tuned):
        key = nearest(table, m)
        source = source_of(tuned[key]) if key in tuned else "engine's default"
        rows.append(Row(m, key, source, _short(table[key].of(stage))))
    return Preview(file, tuple(rows))


def _short(config: Config) -> str:
    return " ".join(f"{name}={value}" for name, value in entry(config).items())
