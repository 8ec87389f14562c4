"""The real engines' lookup files, from their packages, at test time. Nothing of theirs is kept here.

`AUTOTUNE_SGLANG_SRC` and `AUTOTUNE_VLLM_SRC` name a wheel or a source tree; with `AUTOTUNE_FETCH_ENGINES=1`
the wheels are downloaded once into the user's cache (39 and 336 MB). Else what is installed is used, or the
tests are skipped.
"""

import os
import subprocess
import sys
from pathlib import Path

import platformdirs
import pytest

from autotune.engines.source import EngineSource, open_source, source_variable
from autotune.engines.verify import FusedMoeVerifier
from autotune.errors import UserError
from autotune.protocol.registry import instance, registration


def engine_source(engine: str, unpacked: Path) -> EngineSource:
    """The engine's source, unpacked once; skips the test where there is none."""
    if os.environ.get("AUTOTUNE_FETCH_ENGINES") == "1" and source_variable(engine) not in os.environ:
        os.environ[source_variable(engine)] = str(fetched(engine))
    try:
        source = open_source(engine)
    except UserError as error:
        pytest.skip(f"{error}; or set AUTOTUNE_FETCH_ENGINES=1 to download it once")
    verifier = instance(engine, registration(engine).verifiers[engine])
    assert isinstance(verifier, FusedMoeVerifier)
    return EngineSource(engine, source.unpack(unpacked, *verifier.needed))


def subset(engine: str, unpacked: Path, files: tuple[str, ...]) -> Path:
    """The folder that holds the engine's package with these files; skips the test without them."""
    if os.environ.get("AUTOTUNE_FETCH_ENGINES") == "1" and source_variable(engine) not in os.environ:
        os.environ[source_variable(engine)] = str(fetched(engine))
    try:
        source = open_source(engine)
        for path in files:
            source.text(path)
    except UserError as error:
        pytest.skip(f"{error}; or set AUTOTUNE_FETCH_ENGINES=1 to download it once")
    return source.unpack(unpacked, *files)


def fetched(engine: str) -> Path:
    """The engine's wheel, downloaded once."""
    cache = platformdirs.user_cache_path("moe-autotune-tests") / engine
    if not list(cache.glob("*.whl")):
        command = ["pip", "download", "--no-deps", "--only-binary", ":all:", "--dest", str(cache), engine]
        subprocess.run([sys.executable, "-m", *command], check=True)
    return next(cache.glob("*.whl"))
