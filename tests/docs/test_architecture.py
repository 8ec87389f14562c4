"""The architecture page names the packages that there are, and its picture is made from today's code."""

import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from tests.cli.helper import ROOT

CONTRACTS = """
[[tool.importlinter.contracts]]
type = "layers"
containers = ["autotune"]
layers = ["top", "left | right", "low : lower"]
[[tool.importlinter.contracts]]
type = "forbidden"
source_modules = ["autotune.right"]
forbidden_modules = ["autotune.lower"]
"""
SCRIPT: dict[str, Any] = runpy.run_path(str(ROOT / "scripts" / "architecture.py"))


@pytest.fixture(scope="module")
def imports() -> Any:
    return SCRIPT["read_imports"](ROOT)


def test_the_picture_is_in_step(imports: Any) -> None:
    drawn = SCRIPT["picture"](SCRIPT["read_rules"](ROOT), imports)
    committed = (ROOT / "docs" / "architecture.svg").read_text(encoding="utf-8")
    assert committed == drawn, "python scripts/architecture.py > docs/architecture.svg"


def test_the_page_has_every_package_in_the_order_of_the_layers(imports: Any) -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = page.partition("| package | what it holds |\n")[2].partition("\n\n")[0]
    layered = [name for layer in SCRIPT["read_rules"](ROOT).layers for name in layer]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == layered
    assert sorted(layered) == sorted(imports.code)


def test_imports_are_told_apart_and_forbidden_ones_marked(tmp_path: Path) -> None:
    files = {
        "pyproject.toml": CONTRACTS,
        "autotune/__init__.py": "from autotune import top",
        "autotune/top/__init__.py": "def f():\n    from autotune import left, right",
        "autotune/top/more.py": "import autotune.low.deep",
        "autotune/left.py": "from autotune.right import x",
        "autotune/right.py": "if TYPE_CHECKING:\n    from autotune.low import X\nimport autotune.lower",
        "autotune/low/deep.py": "from autotune.lower import y",
        "autotune/lower.py": "from autotune.top.more import z",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    imports, rules = SCRIPT["read_imports"](tmp_path), SCRIPT["read_rules"](tmp_path)
    assert imports.code == {
        "top": {"left", "right", "low"},
        "left": {"right"},
        "right": {"lower"},
        "low": {"lower"},
        "lower": {"top"},
    }
    assert imports.types == {"top": set(), "left": set(), "right": {"low"}, "low": set(), "lower": set()}
    table = SCRIPT["counts"](rules, imports)
    assert table.endswith("upward: left -> right, right -> lower, lower -> top")
    drawn = SCRIPT["picture"](rules, imports)
    for told in ("left imports right", "right imports lower", "lower imports top"):
        assert re.search(rf'<circle class="not"[^>]*><title>{told}</title>', drawn)
    assert re.search('<circle class="types"[^>]*><title>right imports low for types</title>', drawn)
    assert drawn.count('<circle class="code" cx') == 1 + 4  # the key's, and what is allowed
