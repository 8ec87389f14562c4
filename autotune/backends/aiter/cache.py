"""FlyDSL's disk cache, one folder for each value of what is compiled in without being in its keys."""

import os
from pathlib import Path

from platformdirs import user_cache_path

from autotune.backends.aiter.knobs import CACHE_VARIABLE, gates_name

CACHE_ROOT_VARIABLE = "AUTOTUNE_FLYDSL_CACHE"


def use_own_cache() -> None:
    """Points FlyDSL in this process at the folder of the gates that its environment has."""
    root = os.environ.get(CACHE_ROOT_VARIABLE) or user_cache_path("moe-autotune") / "flydsl"
    folder = Path(root) / gates_name(os.environ)
    folder.mkdir(parents=True, exist_ok=True)
    os.environ[CACHE_VARIABLE] = str(folder)
