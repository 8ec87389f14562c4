"""A recorded log of shapes as the mix of a layer's calls."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.backends.aiter.knobs import bucket
from autotune.errors import UserError
from autotune.export.shape_log import ShapeLog, read_shape_log
from autotune.problem.layer import Layer

LAYER = Layer("kimi", model_dim=7168, inter_dim=256, experts=384, top_k=8, tp=8)
TIMED = (4, 160, 64)


def line(tokens: Any, **changes: Any) -> str:
    """A line as AITER writes one."""
    sizes = {
        "tokens": tokens,
        "K": 7168,
        "inter": 256,
        "E": 384,
        "topk": 8,
        "w_dtype": "torch.uint32",
        "rank": 0,
    }
    return json.dumps({**sizes, **changes})


def log(path: Path, *lines: str | bytes) -> ShapeLog:
    path.write_bytes(b"\n".join(one.encode() if isinstance(one, str) else one for one in lines) + b"\n\n")
    return read_shape_log(path)


def traffic(made: ShapeLog) -> tuple[dict[int, float], str]:
    shares, notes = made.traffic(LAYER, TIMED, bucket)
    return shares, "\n".join(notes)


def test_lines_and_their_counts_are_added_up(tmp_path: Path) -> None:
    made = log(tmp_path / "log", line(4), line(160, count=7), line(4, rank=1), line(4, count=2.0))
    assert traffic(made) == ({4: 4.0, 160: 7.0}, "")


def test_a_log_of_nothing_but_tokens_is_taken_for_the_layers(tmp_path: Path) -> None:
    shares, notes = traffic(log(tmp_path / "log", '{"tokens": 4}', '{"tokens": 4}'))
    assert shares == {4: 2.0}
    assert "has no counts: a line is a call" in notes


@pytest.mark.parametrize("change", [{"E": 385, "topk": 9}, {"K": 4096}, {"inter": 128}, {"topk": 6}])
def test_calls_of_another_layer_are_left_out_and_said(change: dict[str, int], tmp_path: Path) -> None:
    shares, notes = traffic(log(tmp_path / "log", line(4), line(160), line(4, count=30, **change)))
    assert shares == {4: 1.0, 160: 1.0}
    assert "log: 30 of 32 calls left out, of other layers: 30 of E=" in notes


def test_a_log_of_other_layers_alone_is_refused(tmp_path: Path) -> None:
    made = log(tmp_path / "log", line(4, E=128))
    with pytest.raises(UserError, match="no call of the layer E=384 K=7168 inter=256 topk=8, but of E=128"):
        traffic(made)


@pytest.mark.parametrize(("dtype", "inter"), [("torch.uint32", 32), ("torch.uint8", 128)])
def test_a_packed_width_is_the_layers(dtype: str, inter: int, tmp_path: Path) -> None:
    assert traffic(log(tmp_path / "log", line(4, inter=inter, w_dtype=dtype)))[0] == {4: 1.0}


@pytest.mark.parametrize(
    "torn",
    [
        line(4)[:30],
        line(4)[:30] + line(160),
        line(4)[30:],
        line(4) + line(160),
        '{"tokens": 4, "K": 7168, "tokens": 160}',
        "8",
        "{}",
        b"\0\0\0" + line(4).encode(),
        b'{"tokens": 4, "dtype": "\xff"}',
        "[" * 100_000,
    ],
)
def test_a_torn_line_is_skipped_and_said_with_its_number(torn: str | bytes, tmp_path: Path) -> None:
    shares, notes = traffic(log(tmp_path / "log", line(4), torn, "", line(160, count=1)))
    assert shares == {4: 1.0, 160: 1.0}
    assert notes == "log: 1 torn and skipped, line 2"


@pytest.mark.parametrize("value", [0.5, 1.7, -1, float("nan"), float("inf"), "4", True, None])
@pytest.mark.parametrize("field", ["tokens", "count", "E"])
def test_what_is_no_whole_number_is_refused_with_file_and_line(
    field: str, value: Any, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=rf"log:2: {field} is .*: a whole number from 0 is needed"):
        log(tmp_path / "log", line(4), line(**{"tokens": 4, field: value}))


def test_a_count_that_cannot_be_added_up_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"log:2: count is 1e\+308: a whole number up to 1e\+15 is needed"):
        log(tmp_path / "log", line(4), line(4, count=1e308))


def test_a_rank_that_idles_calls_for_no_token(tmp_path: Path) -> None:
    assert traffic(log(tmp_path / "log", line(0, count=9), line(4, count=1))) == ({4: 1.0}, "")


def test_sizes_of_captured_graphs_fold_into_timed_shapes_by_the_engines_bucket(tmp_path: Path) -> None:
    captured = [1, 3, 4, 40, 64, 136, 160, 192, 256]
    shares, notes = traffic(log(tmp_path / "log", *(line(tokens, count=1) for tokens in captured)))
    assert shares == {4: 2.0, 64: 2.0, 160: 4.0}
    assert notes.splitlines() == [
        "4 tokens stand for 3 too: the engine's bucket is the same",
        "64 tokens stand for 40 too: the engine's bucket is the same",
        "160 tokens stand for 136, 192, 256 too: the engine's bucket is the same",
        "not in the mix: 11% of the layer's calls, at 1 tokens, which share no bucket with a shape that was"
        " timed; tune them too",
    ]


def test_without_a_bucket_rule_only_what_was_timed_counts(tmp_path: Path) -> None:
    made = log(tmp_path / "log", line(3, count=1), line(4, count=1))
    assert made.traffic(LAYER, TIMED, None)[0] == {4: 1.0}
    with pytest.raises(UserError, match=r"none of its token counts, 3, 4, was timed .* one that was, 8"):
        made.traffic(LAYER, (8,), None)


@pytest.mark.parametrize("content", [b"", b"\n\n", b"tokens,count\n4,1\n", b"\x1f\x8b\x08", line(0).encode()])
def test_what_is_no_log_is_one_sentence(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a log of shapes, it has"):
        log(tmp_path / "log", content)
    with pytest.raises(UserError, match="cannot be read"):
        read_shape_log(tmp_path)


@given(
    st.lists(
        st.binary(max_size=30)
        | st.builds(
            lambda sizes: json.dumps(sizes).encode(),
            st.dictionaries(
                st.sampled_from(["tokens", "count", "E", "K", "inter", "topk", "w_dtype"]),
                st.integers(-1, 400) | st.floats() | st.none() | st.text(max_size=3) | st.lists(st.none()),
            ),
        ),
        max_size=4,
    )
)
def test_any_file_is_traffic_or_one_sentence(tmp_path_factory: Any, lines: list[bytes]) -> None:
    with suppress(UserError):
        shares, notes = log(tmp_path_factory.mktemp("log") / "log", *lines).traffic(LAYER, TIMED, bucket)
        assert sum(shares.values()) >= 1
        assert set(shares) <= set(TIMED)
        assert all("\n" not in note for note in notes)
