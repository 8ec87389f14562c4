"""Generated inputs over every parser: right documents with parts changed, dropped, doubled and torn.

A parser may return a value or raise `UserError`; anything else is a failure. hypothesis draws the changes, so
a seed repeats them.
"""

import gzip
import json
import sqlite3
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from bench.t4 import read_t4
from campaign_documents import (
    EVAL,
    EXPORTED,
    LAYER,
    MODEL,
    NO_TEXT,
    ODD,
    OPERATOR,
    PLAN,
    SGLANG,
    SHAPES,
    T4,
    VLLM,
)
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from autotune.ab.evals import compare_evals
from autotune.ab.outcome import compare_arms
from autotune.cli.asked import asked_by_entry
from autotune.errors import UserError
from autotune.export.shape_log import read_shape_log
from autotune.kernels.tuned import load_tuned
from autotune.machine.devices import DEVICES
from autotune.machine.targets import resolve_target
from autotune.problem.layer import Layer, parse_shapes
from autotune.problem.models import from_hf_config
from autotune.problem.routing import Routing
from autotune.protocol.bundle import ENV_FILE, MANIFEST, Bundle
from autotune.protocol.mix import parse_guards, parse_mix
from autotune.replay.files import read_table
from autotune.resources import data_dir
from autotune.space.config import Config
from autotune.space.read import load_spaces
from autotune.store.store import Store
from autotune.tuning.plan import read_plan


def places(document: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a JSON document."""
    own = (
        [(document, key) for key in document]
        if isinstance(document, dict)
        else [(document, index) for index in range(len(document))]
        if isinstance(document, list)
        else []
    )
    return own + [place for container, key in own for place in places(container[key])]


def changed(draw: Callable[..., Any], document: Any) -> Any:
    """The document with up to four parts replaced, dropped or doubled."""
    document = json.loads(json.dumps(document))
    for _ in range(draw(st.integers(1, 4))):
        at = places(document)
        if not at:
            return document
        container, key = draw(st.sampled_from(at))
        act = draw(st.sampled_from(["odd", "odd", "drop", "wrap", "rename", "swap"]))
        if act == "odd":
            container[key] = deepcopy(
                draw(st.sampled_from(ODD) | st.integers() | st.floats() | st.text(max_size=8))
            )
        elif act == "drop":
            del container[key]
        elif act == "wrap":
            container[key] = draw(
                st.sampled_from([[container[key]], {"a": container[key]}, [container[key]] * 3])
            )
        elif act == "rename" and isinstance(container, dict):
            container[draw(st.text(max_size=6))] = container.pop(key)
        else:
            other, place = draw(st.sampled_from(at))
            if isinstance(other, dict) and place in other:
                container[key] = json.loads(json.dumps(other[place]))
    return document


def torn(draw: Callable[..., Any], content: bytes) -> bytes:
    """The bytes as they are, cut, with some overwritten or put in, or glued to themselves; or others."""
    act = draw(st.sampled_from(["whole", "whole", "cut", "overwrite", "glue", "insert", "insert", "none"]))
    at = draw(st.integers(0, max(0, len(content) - 1)))
    some = draw(st.binary(min_size=1, max_size=8) | st.sampled_from([b"\0", b"\r\n", b"\xff", b"\x85"]))
    return {
        "whole": content,
        "cut": content[:at],
        "overwrite": content[:at] + some + content[at + len(some) :],
        "glue": content + content[at:],
        "insert": content[:at] + some + content[at:],
        "none": draw(st.sampled_from(NO_TEXT)),
    }[act]


def json_file(document: Any) -> Callable[[Callable[..., Any]], bytes]:
    return lambda draw: torn(draw, json.dumps(changed(draw, document)).encode())


def text_of(*right: str) -> Callable[[Callable[..., Any]], bytes]:
    return lambda draw: torn(draw, draw(st.sampled_from(right)).encode())


def any_text(*right: str) -> Callable[[Callable[..., Any]], bytes]:
    """One of the texts, torn, or any other text."""
    return lambda draw: (
        draw(st.text(max_size=30)).encode("utf-8", "replace")
        if draw(st.booleans())
        else torn(draw, draw(st.sampled_from(right)).encode())
    )


def on_file(name: str, read: Callable[[Path], Any]) -> Callable[[bytes], None]:
    def parse(content: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, name)
            file.write_bytes(content)
            read(file)

    return parse


def on_text(read: Callable[[str], Any]) -> Callable[[bytes], None]:
    return lambda content: read(content.decode("utf-8", "replace")) and None


def _routed(file: Path) -> None:
    Routing.parse(f"file:{file}").draw(steps=3, sequences=2, draft_tokens=2, experts=384, top_k=8, seed=0)


def _recording() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "ids.npy")
        np.save(file, np.argsort(np.random.default_rng(0).random((5, 4, 384)), axis=-1)[..., :8])
        return file.read_bytes()


def _table() -> bytes:
    """A recorded table with a few of its configs."""
    shipped = next(iter(sorted((data_dir("db") / "tables").glob("*.gz"))))
    return b"".join(gzip.decompress(shipped.read_bytes()).splitlines(keepends=True)[:30])


def _database() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "a.db")
        with Store.open(file):
            pass
        with closing(sqlite3.connect(file)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return file.read_bytes()


def _opened(file: Path) -> None:
    with Store.open(file, create=False) as store:
        store.runs()
        store.winners()


def _bundle(file: Path) -> None:
    bundle = Bundle.read(file.parent)
    bundle.changed()
    bundle.lookup("triton")


def _environment(file: Path) -> None:
    """A process starts with the variables of the bundle."""
    (file.parent / MANIFEST).write_text(json.dumps(EXPORTED))
    subprocess.run(["true"], env=Bundle.read(file.parent).variables, check=True)


def _plan(file: Path) -> None:
    target = resolve_target("offline:mi325x")
    read_plan(file, lambda options: asked_by_entry(options, target), target.name)


def _bound(file: Path) -> None:
    for whole in load_spaces(file).values():
        space = whole.at(LAYER, 4, DEVICES["mi325x"])
        if space.params:
            space.broken_rule(space.default)


def _arm(file: Path) -> None:
    """Both arms are the same: four repeats of the file."""
    for number in range(3):
        (file.parent / f"{number}{file.name}").write_bytes(file.read_bytes())
    list(compare_arms((file.parent, file.parent), None).lines())


def _space_texts() -> list[str]:
    return [file.read_text() for file in sorted(data_dir("search_spaces").rglob("*.toml"))]


Maker = Callable[[Callable[..., Any]], bytes]


def parsers() -> dict[str, tuple[Maker, Callable[[bytes], None]]]:
    """What is parsed: how an input is made, and what reads it."""
    recording, table, database = _recording(), _table(), _database()
    return {
        "model config": (json_file(MODEL), on_file("config.json", lambda f: Layer.of(from_hf_config(f), 8))),
        "space": (text_of(*_space_texts()), on_file("space.toml", _bound)),
        "routing": (any_text("uniform", "zipf:1.1", "correlated:0.5", "file:x"), on_text(Routing.parse)),
        "routing .npy": (lambda draw: torn(draw, recording), on_file("ids.npy", _routed)),
        "routing lines": (json_file([[[1, 2, 3, 4, 5, 6, 7, 8]] * 4]), on_file("ids.jsonl", _routed)),
        "mix": (any_text("4=1,160=3", "1=0.5"), on_text(parse_mix)),
        "guards": (any_text("64,512,4096", "none"), on_text(parse_guards)),
        "shapes": (any_text("m4", "m1,m4", "all"), on_text(parse_shapes)),
        "config": (any_text("tile_k=256,split_k=2", "pdl=true"), on_text(Config.parse)),
        "shape log": (text_of(SHAPES), on_file("shapes.jsonl", read_shape_log)),
        "SGLang result": (json_file(SGLANG), on_file("r.jsonl", _arm)),
        "vLLM result": (json_file(VLLM), on_file("r.json", _arm)),
        "lm-eval result": (json_file(EVAL), on_file("results.json", lambda f: compare_evals(f, f))),
        "T4": (json_file(T4), on_file("t4.json", read_t4)),
        "table": (lambda draw: torn(draw, table), on_file("a.table.json", read_table)),
        "bundle": (json_file(EXPORTED), on_file(MANIFEST, _bundle)),
        "environment": (text_of("# a comment\nA_FOLDER=/opt/b\nA_GATE=1\n"), on_file(ENV_FILE, _environment)),
        "operator's file": (json_file(OPERATOR), on_file("moe.json", load_tuned)),
        "plan": (text_of(PLAN), on_file("plan.toml", _plan)),
        "database": (lambda draw: torn(draw, database), on_file("a.db", _opened)),
    }


def failures(inputs: int, start: int) -> Iterator[tuple[str, str]]:
    """Gives `inputs` generated inputs to the parsers.

    Yields:
        The parser and what it raised, each kind of failure once.
    """
    kinds = parsers()
    for name, (make, parse) in kinds.items():
        yield from ((name, text) for text in _tried(make, parse, -(-inputs // len(kinds)), start))


def _tried(make: Maker, parse: Callable[[bytes], None], inputs: int, start: int) -> list[str]:
    raised: dict[str, str] = {}

    @seed(start)
    @settings(
        max_examples=inputs,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def attempt(data: st.DataObject) -> None:
        content = make(partial(data.draw))
        try:
            parse(content)
        except UserError:
            return
        except Exception as error:  # noqa: BLE001 whatever is raised is what is looked for
            trace = error.__traceback__
            while trace is not None and trace.tb_next is not None:
                trace = trace.tb_next
            where = f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else "?"
            kind = f"{type(error).__name__} at {where}"
            raised.setdefault(kind, f"{kind}: {str(error)[:160]}, of {content[:200]!r}")

    attempt()
    return list(raised.values())
