"""Finds the files that ship beside the code: `search_spaces/` and `db/`.

A wheel carries them inside the package; an editable install and a bare checkout have them at the top
of the repository, beside the package.
"""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def data_dir(name: str) -> Path:
    """The shipped folder called `name`.

    Raises:
        FileNotFoundError: the installation is damaged: the folder is in neither place.
    """
    for candidate in (_PACKAGE / name, _PACKAGE.parent / name):
        if candidate.is_dir():
            return candidate
    raise FileNotFoundError(f"{name}/ is missing beside {_PACKAGE}: reinstall moe-autotune")
