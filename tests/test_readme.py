"""The README is short and has its two commands; what it sends its readers to is complete."""

import re
from pathlib import Path

import pytest

from autotune.problem.layer import Stage
from autotune.problem.models import PRESETS
from autotune.protocol.registry import backend_names
from autotune.space.read import shipped_spaces

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_it_is_short() -> None:
    assert len(README.splitlines()) < 200


def test_the_two_commands_are_marked_for_ci() -> None:
    assert README.count("<!-- command: run -->\n```sh\npython3 -m venv .venv") == 1
    assert README.count("<!-- command: tests -->\n```sh\npython3 -m venv .venv") == 1


@pytest.mark.parametrize("name", backend_names())
def test_every_backend_is_in_the_table_of_what_it_can_tune(name: str) -> None:
    families = re.findall(r"^\| `([a-z_]+)(…?)` \|", README, re.MULTILINE)
    assert any(name == family or (more and name.startswith(family)) for family, more in families)


@pytest.mark.parametrize("name", backend_names())
def test_every_backend_is_explained_on_its_family_s_page(name: str) -> None:
    pages = [ROOT / "docs" / f"{page}.md" for page in ("triton", "engines", "humming", "aiter")]
    assert any(f"`{name}`" in page.read_text() for page in pages)


@pytest.mark.parametrize("stage", Stage)
def test_every_knob_of_our_kernels_is_explained(stage: Stage) -> None:
    page = (ROOT / "docs" / "triton.md").read_text()
    for param in shipped_spaces("triton")[stage].params:
        assert f"`{param.name}`" in page, param.name


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_named(name: str) -> None:
    assert f"`{name}`" in (ROOT / "docs" / "add-a-model.md").read_text()
