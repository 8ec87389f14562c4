"""What an installed wheel brings, and what a plain install leaves alone."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def _run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "AUTOTUNE_DB")}
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        check=False,
        env={**clean, **environment},
        cwd=environment.get("HOME", str(ROOT)),
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    built = _run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT)
    assert built.returncode == 0, built.stderr
    (made,) = out.glob("*.whl")
    return made


def test_the_wheel_installs_no_top_level_module_but_autotune(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"autotune"}
    assert "autotune/search_spaces/triton/stage1.toml" in names
    for path in (ROOT / "db").rglob("*"):
        # Recorded tables are for the repository.
        inside = path.relative_to(ROOT)
        if path.is_file() and "__pycache__" not in inside.parts:
            assert (f"autotune/{inside.as_posix()}" in names) == ("tables" not in inside.parts), inside


def test_the_wheel_works_from_elsewhere(wheel: Path, tmp_path: Path) -> None:
    """Installed without its dependencies, which this environment has, and run far from the checkout."""
    site = tmp_path / "site"
    pip = (sys.executable, "-m", "pip", "install", "--no-deps", "--no-compile", "-q")
    installed = _run(*pip, "--target", site, wheel)
    assert installed.returncode == 0, installed.stderr
    environment = {"PYTHONPATH": str(site), "HOME": str(tmp_path), "AUTOTUNE_DB": str(tmp_path / "x.db")}
    where = _run(sys.executable, "-c", "import autotune; print(autotune.__file__)", **environment)
    assert where.stdout.startswith(str(site))
    upgraded = _run(sys.executable, "-m", "autotune", "db", "upgrade", **environment)
    assert upgraded.returncode == 0, upgraded.stderr
    assert (tmp_path / "x.db").is_file()
    spaces = _run(sys.executable, "-m", "autotune", "spaces", "--shape", "m4", "--json", **environment)
    assert spaces.returncode == 0, spaces.stderr


def test_a_bare_checkout_works_on_pythonpath(tmp_path: Path) -> None:
    environment = {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "AUTOTUNE_DB": str(tmp_path / "x.db")}
    assert _run(sys.executable, "-m", "autotune", "db", "upgrade", **environment).returncode == 0


def _stand_in(folder: Path, name: str, version: str) -> None:
    """An installed distribution without content."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "INSTALLER").write_text("pip\n")
    (info / "RECORD").write_text("")


@pytest.mark.parametrize(
    ("torch", "triton"),
    [("2.9.0+rocm7.2", "pytorch-triton-rocm"), ("2.11.0+cu130", "triton")],
)
def test_a_plain_install_leaves_a_gpu_build_of_torch_alone(
    wheel: Path, tmp_path: Path, torch: str, triton: str
) -> None:
    """pip, told of stand-ins for a serving environment's torch and Triton, plans to touch neither."""
    _stand_in(tmp_path, "torch", torch)
    _stand_in(tmp_path, triton, "3.5.1")
    plan = _run(
        sys.executable, "-m", "pip", "install", "--dry-run", "--no-build-isolation", wheel,
        PYTHONPATH=str(tmp_path),
    )  # fmt: skip
    assert plan.returncode == 0, plan.stderr
    would = next((line for line in plan.stdout.splitlines() if line.startswith("Would install")), "")
    assert "moe-autotune" in would
    assert "torch" not in would
    assert "triton" not in would


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from autotune.cli import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'triton', 'optuna', 'sqlalchemy', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = _run(sys.executable, "-c", code, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr


def test_version_is_printed() -> None:
    from autotune import __version__

    done = _run(sys.executable, "-m", "autotune", "--version", PYTHONPATH=str(ROOT))
    assert done.stdout.strip() == f"autotune {__version__}"
