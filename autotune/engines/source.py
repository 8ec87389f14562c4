"""Where an engine's own code is: installed, in a wheel, or in a source tree."""

import importlib.util
import os
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from autotune.errors import UserError

_FOLDERS = ("", "python")  # of a source tree, in which the package may lie


def source_variable(engine: str) -> str:
    """The variable that names an engine's source where nothing is installed: a wheel's file, or a folder."""
    return f"AUTOTUNE_{engine.upper()}_SRC"


@dataclass(frozen=True)
class EngineSource:
    """An engine's files, read by their path from the folder that holds the package.

    Attributes:
        engine: the package's name.
        root: that folder, or the wheel's file.
    """

    engine: str
    root: Path

    def text(self, path: str) -> str:
        """A file's text.

        Raises:
            UserError: this version of the engine has no such file, or it is damaged.
        """
        try:
            if self.root.is_file():
                with zipfile.ZipFile(self.root) as wheel:
                    return wheel.read(path).decode()
            return (self.root / path).read_text(encoding="utf-8")
        except (UnicodeDecodeError, zipfile.BadZipFile, zlib.error) as error:
            raise UserError(f"{self.root} has a damaged {path} ({error}): install it again") from error
        except (OSError, KeyError) as error:
            raise UserError(
                f"{self.root} has no {path}: give another version of the engine{_where(self.engine)}"
            ) from error

    def names(self, folder: str) -> Iterator[str]:
        """Paths of all files below a folder."""
        if self.root.is_file():
            with zipfile.ZipFile(self.root) as wheel:
                yield from (n for n in wheel.namelist() if n.startswith(f"{folder}/") and not n.endswith("/"))
            return
        for path in sorted((self.root / folder).rglob("*")):
            if path.is_file():
                yield path.relative_to(self.root).as_posix()

    def unpack(self, into: Path, *folders: str) -> Path:
        """A folder in which the files below `folders`, or those files themselves, lie under their paths.

        For a wheel a copy is made in `into`; a source tree is used where it is.
        """
        if not self.root.is_file():
            return self.root
        with zipfile.ZipFile(self.root) as wheel:
            for name in wheel.namelist():
                if any(name == folder or name.startswith(f"{folder}/") for folder in folders):
                    wheel.extract(name, into)
        return into


def open_source(engine: str, given: str | Path | None = None) -> EngineSource:
    """An engine's source: the given one, else what a variable names, else what is installed.

    Args:
        given: a wheel's file, a source tree, or a folder that holds the package.

    Raises:
        UserError: there is none.
    """
    named = given or os.environ.get(source_variable(engine))
    if named:
        return _at(engine, Path(named))
    source = _installed(engine)
    if source is None:
        raise UserError(
            f"{engine} is not installed here: install it, or give its wheel or source tree"
            f"{_where(engine)} (pip download --no-deps {engine})"
        )
    return source


def find_source(engine: str) -> EngineSource | None:
    """Like `open_source`; None where there is none."""
    return _found(engine, os.environ.get(source_variable(engine)))


@cache
def _found(engine: str, named: str | None) -> EngineSource | None:
    return _at(engine, Path(named)) if named else _installed(engine)


def _installed(engine: str) -> EngineSource | None:
    try:
        spec = importlib.util.find_spec(engine)
    except (ImportError, ValueError):
        return None
    if spec is None or not spec.submodule_search_locations:
        return None
    return EngineSource(engine, Path(next(iter(spec.submodule_search_locations))).parent)


def _at(engine: str, path: Path) -> EngineSource:
    if path.is_file() and zipfile.is_zipfile(path):
        return EngineSource(engine, path)
    if path.is_dir():
        for folder in _FOLDERS:
            if (path / folder / engine).is_dir():
                return EngineSource(engine, path / folder)
    raise UserError(
        f"{path} is neither a wheel nor a folder that holds {engine}/: give one of these{_where(engine)}"
    )


def _where(engine: str) -> str:
    """How the user names an engine's source in every command: not all have an option for it."""
    return f" with the variable {source_variable(engine)}" if engine else ""
