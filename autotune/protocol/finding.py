"""One thing that was found."""

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """How a finding bears on tuning."""

    YES = "yes"
    NO = "no"
    WARNING = "could lie"  # works, and may give another kernel than the one that was asked for
    NOTE = "note"


@dataclass(frozen=True)
class Finding:
    """One thing.

    Attributes:
        detail: what is there, or why not; one sentence or less.
        remedy: the one thing to do; empty: nothing needs to be done.
    """

    name: str
    state: State
    detail: str
    remedy: str = ""

    @property
    def there(self) -> bool:
        return self.state is State.YES


def contract_finding(source: str, misfits: list[str], fitting: str) -> Finding:
    """Whether a source is what the adapters rely on.

    Args:
        misfits: what is not, one sentence each.
        fitting: commits that are.
    """
    name = f"{source} as expected"
    if not misfits:
        return Finding(name, State.YES, "what the adapter relies on is there")
    return Finding(
        name, State.NO, "; ".join(misfits), f"use a commit that fits ({fitting}), or report this list"
    )
