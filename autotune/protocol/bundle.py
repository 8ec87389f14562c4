"""A bundle as a server will see it: its files, and the environment that it is started with."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from autotune.errors import UserError
from autotune.protocol.form import ANY, COUNT, NAME, Form, misfit
from autotune.text import why

MANIFEST = "manifest.json"
ENV_FILE = "autotune.env"
VERSION = 1
"""Of the manifest's form: another one is not guessed at."""

_SIZES = dict.fromkeys(("model_dim", "inter_dim", "experts", "top_k", "tp", "ep?"), COUNT)
_FORM: Final = {
    "format": "autotune-bundle",
    "lookups?": {NAME: ANY},
    "files?": {NAME: {"sha256": str, **ANY}},
    "environments?": {NAME: {"device": str, "compute_units": COUNT, **ANY}},
    "serving_folder?": (str, None),
    "backend?": (str, None),
    "layer?": ({"model": str, **_SIZES, **ANY}, None),
    "measured?": bool,
    "requantised?": bool,
    **ANY,
}
"""Of a manifest, as far as every verifier goes by it."""


_LISTING: Final = {"files": {NAME: {"sha256": str, **ANY}}, **ANY}
"""Of a manifest, as far as `manifest_beside` goes by it."""


def manifest_beside(path: Path, content: bytes) -> Mapping[str, Any]:
    """The manifest in a file's folder, which lists the file as it is; empty: there is none.

    For a server's process: a config that somebody changed by hand may not compile there, or not be what was
    measured.

    Raises:
        UserError: the manifest cannot be read, or does not list this content.
    """
    try:
        manifest: dict[str, Any] = json.loads((path.parent / MANIFEST).read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{MANIFEST} beside {path} cannot be read ({why(error)}): export it again") from error
    if wrong := misfit(manifest, _LISTING):
        raise UserError(f"{MANIFEST} beside {path} is not a bundle's ({wrong}): export it again")
    listed = manifest["files"].get(path.name, {}).get("sha256")
    if listed != hashlib.sha256(content).hexdigest():
        raise UserError(f"{path} is not the file that {MANIFEST} beside it lists: export it again")
    return manifest


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk.

    Attributes:
        folder: where it is now.
        manifest: what the export meant it to do.
        variables: of its autotune.env.
    """

    folder: Path
    manifest: Mapping[str, Any]
    variables: Mapping[str, str]

    @classmethod
    def read(cls, folder: Path) -> "Bundle":
        """Reads a bundle.

        Raises:
            UserError: the folder is none.
        """
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            # Half a surrogate pair, which JSON can escape, is no text that could be printed or be a path.
            json.dumps(manifest, ensure_ascii=False).encode()
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(
                f"{folder} is not a bundle ({why(error)}): give the folder that autotune export wrote"
            ) from error
        if wrong := misfit(manifest, _FORM):
            raise UserError(f"{folder}/{MANIFEST} is not a bundle's manifest ({wrong}): export it again")
        version = manifest.get("version")
        if version != VERSION:
            raise UserError(
                f"{folder}/{MANIFEST} has version {version!r}, and this autotune reads {VERSION}: use the"
                " autotune that wrote it, or export it again"
            )
        env = folder / ENV_FILE
        lines = env.read_text(encoding="utf-8", errors="replace").splitlines() if env.is_file() else []
        if torn := next((line for line in lines if "\0" in line), None):
            raise UserError(
                f"{env} has a null byte, which no environment can hold (in {torn[:80]!r}): export it again"
            )
        variables = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
        return cls(folder, manifest, variables)

    def lookup(self, engine: str) -> Mapping[str, Any]:
        """What the engine must find.

        Raises:
            UserError: the bundle is not for this engine.
        """
        lookups = self.manifest.get("lookups", {})
        if engine not in lookups:
            known = ", ".join(lookups) or "none"
            raise UserError(
                f"{self.folder} is not for {engine} (it is for: {known}): choose another --engine"
            )
        intended: Mapping[str, Any] = lookups[engine]
        return intended

    def require(self, engine: str, form: Form) -> None:
        """Refuses what an engine must find where it is not of the form that the verifier goes by.

        Raises:
            UserError: it is not, or the bundle is not for this engine.
        """
        if wrong := misfit(self.lookup(engine), form, f"lookups.{engine}"):
            raise UserError(f"{self.folder}/{MANIFEST} is not as exported ({wrong}): export it again")

    def changed(self) -> list[str]:
        """What differs from what was exported, a sentence each."""
        reasons = []
        recorded: Mapping[str, Any] = self.manifest.get("files", {})
        present = {
            path.relative_to(self.folder).as_posix(): path
            for path in self.folder.rglob("*")
            if path.is_file()
        }
        for name, facts in recorded.items():
            if name not in present:
                reasons.append(f"{name} is missing from the bundle")
            elif hashlib.sha256(present[name].read_bytes()).hexdigest() != facts["sha256"]:
                reasons.append(f"{name} was changed since the export")
        extra = sorted(present.keys() - recorded.keys() - {MANIFEST})
        return reasons + [f"{name} is not part of the export" for name in extra]

    def here(self, variable: str) -> str | None:
        """A variable's path as it is on this machine; None: it is not set.

        A bundle for a container names the container's path, which is this folder here.
        """
        value = self.variables.get(variable)
        serving = self.manifest.get("serving_folder")
        if value is None or not serving or not (value == serving or value.startswith(f"{serving}/")):
            return value
        return f"{self.folder.resolve()}{value[len(serving) :]}"
