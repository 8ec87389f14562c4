"""One way to read the numbers of files and options: finite, of the right sign, in a known unit; or refused.

Python takes True for 1, "nan" for a float and 1_0 for ten, and JSON as it is written has NaN and Infinity.
"""

import json
import math
import re
from typing import Any, Final, TypeGuard

from autotune.errors import UserError

# "miliseconds" is how the tables of the public benchmark hub spell it; µ has two code points.
_US: Final = {
    1e6: ("s", "sec", "second", "seconds"),
    1e3: ("ms", "msec", "millisecond", "milliseconds", "miliseconds"),
    1.0: ("us", "\u00b5s", "\u03bcs", "usec", "microsecond", "microseconds"),
    1e-3: ("ns", "nsec", "nanosecond", "nanoseconds"),
}
_PER_UNIT: Final = {name: us for us, names in _US.items() for name in names}
SMALLEST: Final = 1e-15
LARGEST: Final = 1e15
"""No time, rate or share is beyond these, in any unit; sums and ratios of what lies between are finite."""
MAX_SEED: Final = 2**32 - 1  # numpy and Optuna's samplers take no greater one
YEAR_S: Final = 366 * 86400.0  # of a wait: the operating system takes no much longer one

_DECIMAL: Final = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", re.ASCII)


def is_number(raw: Any) -> TypeGuard[int | float]:
    """Whether a JSON value is a finite number."""
    if isinstance(raw, bool) or not isinstance(raw, int | float):
        return False
    try:
        return math.isfinite(raw)
    except OverflowError:  # an integer beyond every float
        return False


def number(raw: Any, where: str) -> float:
    """A finite number.

    Args:
        where: file and place, for the error.

    Raises:
        UserError: it is none.
    """
    if not is_number(raw):
        raise UserError(f"{where} is {shown(raw)}: a finite number is needed")
    return float(raw)


def positive(raw: Any, where: str) -> float:
    """A number above zero, and small enough to be added up and divided.

    Raises:
        UserError: it is none.
    """
    if not is_number(raw) or not SMALLEST <= raw <= LARGEST:
        raise UserError(f"{where} is {shown(raw)}: a finite number above zero is needed")
    return float(raw)


def not_negative(raw: Any, where: str) -> float:
    """A number from zero on, and small enough to be added up.

    Raises:
        UserError: it is none.
    """
    if not is_number(raw) or not 0 <= raw <= LARGEST:
        raise UserError(f"{where} is {shown(raw)}: a finite number from 0 is needed")
    return float(raw)


def whole(raw: Any, where: str, *, least: int = 0) -> int:
    """A whole number, small enough to be added up; JSON's 2.0 is one.

    Raises:
        UserError: it is none, below `least` or beyond `LARGEST`.
    """
    if not is_number(raw) or raw != int(raw) or raw < least:
        raise UserError(f"{where} is {shown(raw)}: a whole number from {least} is needed")
    if raw > LARGEST:
        raise UserError(f"{where} is {shown(raw)}: a whole number up to {LARGEST:.0e} is needed")
    return int(raw)


def parse_number(text: str) -> float | None:
    """A finite number from an option's decimal text; None: it is none."""
    if not _DECIMAL.fullmatch(text.strip()):
        return None
    value = float(text)
    return value if math.isfinite(value) else None


def parse_whole(text: str) -> int | None:
    """A whole number from 0 from an option's text, in ASCII digits; None: it is none."""
    digits = text.strip()
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 19 else None


def us_per_unit(unit: Any, where: str) -> float:
    """Microseconds in a unit of time.

    Raises:
        UserError: it is no unit of time that is known.
    """
    factor = _PER_UNIT.get(unit.strip().lower()) if isinstance(unit, str) else None
    if factor is None:
        raise UserError(f"{where} is {shown(unit)}, no known unit of time: use s, ms, us or ns")
    return factor


def load_json(text: str | bytes) -> Any:
    """JSON, with the NaN and Infinity that Python's writer puts into it.

    Raises:
        ValueError: it is none, an object has a key twice, as where two lines ran into one, or it is too deep.
    """
    try:
        return json.loads(text, object_pairs_hook=unique_keys)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def load_toml(text: str) -> dict[str, Any]:
    """TOML.

    Raises:
        ValueError: it is none, has a number of too many digits, or is nested too deeply.
    """
    import tomllib  # not at every start

    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, for a decoder's `object_pairs_hook`.

    Raises:
        ValueError: it has a key twice.
    """
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("an object has a key twice")
    return values


def shown(raw: Any) -> str:
    """A value for an error, as JSON has it, cut where it is long."""
    if isinstance(raw, dict | list):
        return "an object" if isinstance(raw, dict) else "a list"
    if isinstance(raw, int) and abs(raw) >= 1 << 63:
        return "a number of too many digits"
    text = json.dumps(raw) if isinstance(raw, str | bool | int | float) or raw is None else repr(raw)
    return text if len(text) <= 40 else f"{text[:37]}…"
