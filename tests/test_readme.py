"""The README names what there is, and its commands are commands."""

import re
from pathlib import Path

import pytest
from typer.main import get_command

from autotune.cli import app
from autotune.problem.layer import Stage
from autotune.problem.models import PRESETS
from autotune.space.space import shipped_spaces

README = (Path(__file__).parent.parent / "README.md").read_text()


@pytest.mark.parametrize("stage", Stage)
def test_every_knob_of_our_kernels_is_in_the_table(stage: Stage) -> None:
    for param in shipped_spaces("triton")[stage].params:
        assert f"`{param.name}`" in README, param.name


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_named(name: str) -> None:
    assert f"`{name}`" in README


def test_every_autotune_command_in_it_exists_with_its_options() -> None:
    commands = get_command(app)
    quoted = re.findall(r"autotune ((?:[a-z]+)(?: [a-z0-9.:,/_-]+| --[a-z-]+)*)", README)
    checked = 0
    for words in (text.split() for text in quoted):
        command = commands.commands.get(words[0])  # type: ignore[attr-defined]
        if command is None:
            continue  # prose: "autotune finds"
        known = {option for parameter in command.params for option in parameter.opts}
        for word in words[1:]:
            if word.startswith("--"):
                assert word in known, f"autotune {words[0]} has no {word}"
                checked += 1
    assert checked >= 5


def test_the_two_commands_are_marked_for_ci() -> None:
    assert README.count("<!-- command: run -->\n```sh\npython3 -m venv .venv") == 1
    assert README.count("<!-- command: tests -->\n```sh\npython3 -m venv .venv") == 1
