"""The notebooks run from the first cell to the last on the committed data, and stay small."""

import shutil
from pathlib import Path

import pytest

from tests.cli.helper import ROOT

nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed: pip install -e '.[test]'")
nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed: pip install -e '.[test]'")
pytest.importorskip("ipykernel", reason="ipykernel is not installed: pip install -e '.[test]'")

FOLDER = ROOT / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def _said(notebook: "nbformat.NotebookNode") -> str:
    """Everything that its cells print."""
    return "\n".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))


def test_there_are_two() -> None:
    assert len(NOTEBOOKS) == 2


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_on_the_committed_data(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(FOLDER / "data", tmp_path / "data")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()  # a cell that fails raises
    said = _said(notebook)
    assert "NVIDIA H100 80GB HBM3" in said
    assert any(word in said for word in ("replay", "estimate"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_committed_is_executed_whole_and_small(path: Path) -> None:
    assert path.stat().st_size < 60_000
    notebook = nbformat.read(path, as_version=4)
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))
    assert all(o.output_type != "error" for cell in notebook.cells for o in cell.get("outputs", []))
    for mark in (str(ROOT), "site-packages", "Warning"):
        assert mark not in path.read_text()


def test_the_data_is_small_and_described() -> None:
    described = (FOLDER / "data" / "README.md").read_text()
    for file in (FOLDER / "data").glob("*.gz"):
        assert f"`{file.name}`" in described
        assert file.stat().st_size < 1 << 20
