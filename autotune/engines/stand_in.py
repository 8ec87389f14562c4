"""Stand-ins: one file of an engine runs alone, and everything that it imports but never needs is made up.

A stand-in does nothing, is false, and gives further stand-ins. What the file does need is given to it as
`values`, or as files of the engine itself.
"""

import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from pathlib import Path
from types import ModuleType
from typing import Any


class StandIn:
    """Stands for any object: can be called, decorated with, subclassed, indexed; is false and empty."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return StandIn()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return StandIn()

    def __getitem__(self, key: Any) -> "StandIn":
        return StandIn()

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        return ()

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __bool__(self) -> bool:
        return False

    def __str__(self) -> str:
        return ""

    def __or__(self, other: Any) -> "StandIn":
        return self

    __ror__ = __or__

    def __lt__(self, other: Any) -> bool:
        return False

    __gt__ = __le__ = __ge__ = __lt__

    def __enter__(self) -> "StandIn":
        return self

    def __exit__(self, *_: object) -> None:
        return None


class _StandInModule(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return StandIn()


class _Loader(Loader):
    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _StandInModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        vars(module).update(self._values)


class StandIns(MetaPathFinder):
    """Finds modules of some packages: real files, and stand-ins for all others.

    Meant for a process of its own: what it has put into `sys.modules` stays there.
    """

    def __init__(
        self,
        packages: Sequence[str],
        real: Mapping[str, Path],
        values: Mapping[str, Mapping[str, Any]],
    ) -> None:
        """
        Args:
            packages: top-level packages that are stood in for, installed or not.
            real: module name -> file that is really run.
            values: module name -> attributes of its stand-in.
        """
        self._packages = frozenset(packages)
        self._real = real
        self._values = values

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname in self._real:
            return importlib.util.spec_from_file_location(fullname, self._real[fullname])
        if fullname.partition(".")[0] not in self._packages:
            return None
        loader = _Loader(self._values.get(fullname, {}))
        return importlib.machinery.ModuleSpec(fullname, loader, is_package=True)

    def install(self) -> None:
        """Goes before every other finder."""
        sys.meta_path.insert(0, self)
