"""Checks the form of JSON that somebody may have edited, before it is gone by."""

import json
import re
from collections.abc import Mapping
from typing import Any, Final

Form = Any
"""A type: a value of just that type, `object` any; a range: a whole number in it; a text: that text; None:
null; a tuple: one of these forms; a list: of one form any number but none, of several as many; a mapping: an
object with these names, of which `name?` may be absent and a pattern is for every name that it matches."""

COUNT: Final = range(1, 1 << 31)
SCALAR: Final = (int, float, bool, str, None)
NAME: Final = re.compile(r"[^\x00-\x1f\x7f]*")
ANY: Final[Mapping[Any, Any]] = {NAME: object}
"""Any names besides: `{"known": int, **ANY}`."""
TOKENS: Final = re.compile(r"[1-9][0-9]{0,8}")


def misfit(value: Any, form: Form, where: str = "") -> str | None:
    """What of a value is not of its form, as words: `lookups.vllm.top_k is "8"`; None: nothing.

    Args:
        where: the value's own place, of dotted names.
    """
    if isinstance(form, Mapping) and isinstance(value, dict):
        return _misfit_of_object(value, form, where)
    if isinstance(form, list) and isinstance(value, list):
        forms = form * len(value) if len(form) == 1 else form
        if not value or len(forms) != len(value):
            return _told(value, where)
        places = zip(value, forms, strict=True)
        told = (misfit(each, inner, f"{where}[{index}]") for index, (each, inner) in enumerate(places))
        return next(filter(None, told), None)
    if isinstance(form, tuple):
        answers = [misfit(value, inner, where) for inner in form]
        inside = [answer for answer in answers if answer != _told(value, where)]
        return None if None in answers else next(iter(inside), answers[0])
    if isinstance(form, type):
        fits = form is object or type(value) is form
    elif isinstance(form, range):
        fits = type(value) is int and value in form
    else:
        fits = isinstance(form, str | None) and type(value) is type(form) and value == form
    return None if fits else _told(value, where)


def _misfit_of_object(value: Mapping[str, Any], form: Mapping[Any, Form], where: str) -> str | None:
    patterns = {name: inner for name, inner in form.items() if isinstance(name, re.Pattern)}
    named = {name.removesuffix("?"): inner for name, inner in form.items() if isinstance(name, str)}
    missing = [name for name in named if name in form and name not in value]
    if missing:
        return f"{_place(where, missing[0])} is missing"
    for name, inner in value.items():
        place = _place(where, name)
        matched = [named[name]] if name in named else [f for p, f in patterns.items() if p.fullmatch(name)]
        if not matched:
            return f"{place} is not known"
        told = misfit(inner, matched[0], place)
        if told is not None:
            return told
    return None


def _place(where: str, name: str) -> str:
    shown = name if name.isprintable() else json.dumps(name)[1:-1]
    return f"{where}.{shown}" if where else shown


def _told(value: Any, where: str) -> str:
    text = json.dumps(value)
    return f"{where or 'it'} is {text if len(text) <= 60 else text[:57] + '...'}"
