"""A file of a package runs though nothing else of the package is there."""

import subprocess
import sys
from pathlib import Path

FILE = """
import ghost
from ghost.deep.er import Base, decorate, flag, value


class Derived(Base):
    pass


@decorate(option=1)
def dropped() -> None: ...


def annotated(x: "ghost.Tensor | None", y=None) -> int:
    return 1 if flag() else value


if ghost.platform.version() >= (1, 2):
    raise AssertionError("a stand-in is neither true nor large")
for _ in ghost.things:
    raise AssertionError("nor has it elements")
with ghost.context() as c:
    c[0].x.y()
"""

PROGRAM = """
import sys
from pathlib import Path
from autotune.engines.stand_in import StandIns
StandIns(("ghost",), {"ghost.real": Path(sys.argv[1])}, {"ghost.deep.er": {"value": 42}}).install()
import ghost.real
print(ghost.real.annotated(None), ghost.real.Derived.__name__)
"""


def test_imports_decorators_bases_and_annotations_are_stood_in_for(tmp_path: Path) -> None:
    file = tmp_path / "real.py"
    file.write_text(FILE)
    command = [sys.executable, "-c", PROGRAM, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "42 Derived\n", done.stderr
