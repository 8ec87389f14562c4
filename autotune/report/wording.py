"""Words for the three kinds of results: nothing is called a round or a winner that was none."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from autotune.machine.targets import Kind
from autotune.text import counted


@dataclass(frozen=True)
class Wording:
    """The words for results of one kind.

    Attributes:
        adjective: of a time.
        whole: what the time of both stages together is.
        final: where configs were compared.
        contenders: the configs that were compared there.
        round: one comparison there; "": there were none.
        chosen: the config that came first.
        definition: of a time of this kind.
        gain: what a gain is.
        doubt: the question that the config that came first raises.
    """

    adjective: str
    whole: str
    final: str
    contenders: str
    round: str
    chosen: str
    definition: str
    gain: str
    doubt: str

    def rounds(self, count: int) -> str:
        """So many comparisons."""
        return counted(count, self.round)


_WORDING: Final[Mapping[Kind, Wording]] = {
    Kind.MEASURED: Wording(
        adjective="measured",
        whole="layer",
        final="final",
        contenders="finalists",
        round="round",
        chosen="winner",
        definition="timed on the named device: graph replay, cold weights, after the numeric gate",
        gain="(default − winner) / default of the layer's time: the median of the ratios of paired rounds",
        doubt="Is the winner just the luckiest of many noisy times?",
    ),
    Kind.REPLAYED: Wording(
        adjective="replayed",
        whole="replayed layer",
        final="replay",
        contenders="finalists",
        round="draw",
        chosen="winner",
        definition=(
            "drawn from a recorded table: one recorded sample of the layer or, where none was recorded, of"
            " each stage, added up (then a note says so); nothing ran"
        ),
        gain=(
            "(default − winner) / default of the replayed layer: the median of the ratios of paired draws"
            " from the recording"
        ),
        doubt="What is a replayed winner worth?",
    ),
    Kind.ESTIMATE: Wording(
        adjective="estimated",
        whole="stages' sum",
        final="short list",
        contenders="short-listed configs",
        round="",
        chosen="listed first",
        definition="a formula on the compiled code; nothing ran on that device",
        gain="(default − config) / default of the stages' estimates added up",
        doubt="What is an estimate worth?",
    ),
}

AS_COMPILED: Final = "as compiled"
AS_EXECUTED: Final = "as executed"
ESTIMATES: Final[Mapping[str, str]] = {
    AS_COMPILED: (
        "an estimate by the loads that the config and its compiled code promise; the search has no other"
    ),
    AS_EXECUTED: (
        "an estimate by the loads that the machine code was seen to make when it was executed on the CPU; it"
        " ranks the short list"
    ),
}
"""What an estimate goes by; times of one are never compared with times of the other."""


def wording(kind: Kind) -> Wording:
    """The words for a kind."""
    return _WORDING[kind]


def tie_text(count: int) -> str:
    """How many are equally fast; "": one alone is."""
    return f"{count:,} configs tie" if count > 1 else ""


def ties_text(kind: Kind, others: int) -> str:
    """A sentence on those that are as fast as the first; "": none is.

    Args:
        others: how many, the first left out.
    """
    if not others:
        return ""
    tie = tie_text(others + 1)
    if kind is Kind.ESTIMATE:
        return "The formula cannot tell these configs apart: only measuring can."
    return f"{tie}: the preselection does not tell the winner from {counted(others, 'other')}."
