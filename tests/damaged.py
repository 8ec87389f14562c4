"""JSON with something else in one of its places: what somebody's edit, or half a write, may leave."""

import copy
from collections.abc import Iterator
from typing import Any


def damaged(content: Any, junk: Any) -> Iterator[Any]:
    """Copies of `content`, each with `junk` in one place, the whole among them."""
    yield junk
    pairs = content.items() if isinstance(content, dict) else ()
    for place, part in enumerate(content) if isinstance(content, list) else pairs:
        for other in damaged(part, junk):
            changed = copy.copy(content)
            changed[place] = other
            yield changed
