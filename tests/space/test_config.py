"""Configs: canonical keys that read back, whatever the values."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.errors import UserError
from autotune.space.config import UNSET, Config

names = st.from_regex(r"[a-z][a-z_0-9]{0,12}", fullmatch=True)
words = st.from_regex(r"[a-z][a-z-]{0,9}", fullmatch=True).filter(
    lambda w: w not in ("unset", "true", "false")
)
values = st.one_of(st.integers(-1000, 10**6), st.booleans(), words, st.just(UNSET))
configs = st.dictionaries(names, values, min_size=1, max_size=8).map(Config)


@given(configs)
def test_key_and_text_read_back(config: Config) -> None:
    assert Config.from_key(config.key) == config
    assert Config.parse(str(config)) == config
    assert pickle.loads(pickle.dumps(config)) == config


@given(configs)
def test_order_of_knobs_does_not_matter(config: Config) -> None:
    assert Config(dict(reversed(list(config.items())))).key == config.key


def test_unset_is_not_a_value_written_out() -> None:
    assert Config({"tile_k": UNSET}) != Config({"tile_k": 256})
    assert Config({"tile_k": UNSET}) != Config({})


def test_true_is_not_one() -> None:
    assert Config({"fast": True}) != Config({"fast": 1})


@pytest.mark.parametrize("text", ["", "tile_k", "tile_k=", "=1", "a=1,,b=2", "a=1,a=2"])
def test_text_that_is_no_config(text: str) -> None:
    with pytest.raises(UserError, match="--config"):
        Config.parse(text)
