"""The machine that is examined: its files, its environment and its installed packages.

A whole machine can be stood in for by a folder: everything is read below `root`.
"""

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Host:
    """A machine.

    Attributes:
        root: what its paths start from.
        environ: its process environment.
        site: folders with installed packages, where `root` is not this machine's.
    """

    root: Path = Path("/")
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    site: Sequence[Path] = ()

    @classmethod
    def below(cls, root: Path) -> "Host":
        """The machine whose files lie below `root`, with an empty environment.

        Packages are looked for in `site-packages` or `dist-packages` folders of any Python there.
        """
        site = [path for name in ("site", "dist") for path in sorted(root.rglob(f"{name}-packages"))]
        return cls(root, {"PATH": "/usr/local/bin:/usr/bin"}, site)

    @property
    def is_this(self) -> bool:
        """Whether it is the machine that we run on."""
        return self.root == Path("/")

    def path(self, absolute: str) -> Path:
        """A path of the machine."""
        return self.root / absolute.lstrip("/")

    def text(self, absolute: str) -> str | None:
        """A file's text; None: it cannot be read."""
        try:
            return self.path(absolute).read_text(errors="replace")
        except OSError:
            return None

    def package(self, name: str) -> Path | None:
        """The folder of an importable top-level package, which is not imported; None: there is none."""
        if not self.is_this:
            return next((folder / name for folder in self.site if (folder / name).is_dir()), None)
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError):
            return None
        places = list(spec.submodule_search_locations or ()) if spec else []
        return Path(places[0]) if places else None

    def version(self, name: str) -> str | None:
        """An installed distribution's version; None: it is not installed."""
        if not self.is_this:
            infos = [info for folder in self.site for info in folder.glob(f"{name}-*.dist-info")]
            return infos[0].name.removesuffix(".dist-info").split("-", 1)[1] if infos else None
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return None

    def program(self, *command: str) -> str | None:
        """What a program prints; None: it is missing, fails, or takes longer than two seconds."""
        if not self.is_this:
            return self.text(f"/programs/{command[0]}")
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=2)
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout

    def which(self, name: str) -> Path | None:
        """The first executable of that name on the machine's PATH."""
        for folder in self.environ.get("PATH", "").split(os.pathsep):
            path = self.path(folder) / name
            if folder and os.access(path, os.X_OK):
                return path
        return None

    @property
    def python(self) -> str:
        """The interpreter that would run things."""
        return sys.executable if self.is_this else "python"
