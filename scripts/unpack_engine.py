"""Unpacks from an engine's wheel what tuning its Triton fused MoE needs, for a machine without the engine.

    python scripts/unpack_engine.py sglang-0.5.23-….whl .engines
    AUTOTUNE_SGLANG_SRC=.engines autotune run --backend sglang --shape m4

With `--plugin` it unpacks the classes that the plugin's tests and `check_plugin.py` run as well, and lists
what is stood in for beside them.

The folder is ignored by git: engines' code is never part of this repository.
"""

import argparse
import subprocess
import sys
from importlib import import_module
from pathlib import Path

from autotune.backends.sglang.calls import SGLANG
from autotune.backends.sglang.verify import SglangVerifier
from autotune.backends.vllm.calls import VLLM
from autotune.backends.vllm.verify import VllmVerifier
from autotune.engines.source import open_source

_NEEDED = {
    "sglang": (*SGLANG.files, *SglangVerifier.needed),
    "vllm": (*VLLM.files, *VllmVerifier.needed),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("wheel", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--plugin", action="store_true", help="what the plugin's tests run, too")
    options = parser.parse_args()
    wheel, folder = options.wheel, options.folder
    engine = wheel.name.partition("-")[0]
    if engine not in _NEEDED:
        sys.exit(f"{wheel.name} is neither SGLang's nor vLLM's wheel")
    classes = import_module(f"bench.plugin_{engine}").FILES if options.plugin else ()
    open_source(engine, wheel).unpack(folder, *_NEEDED[engine], *classes)
    count = sum(1 for path in folder.rglob("*") if path.is_file())
    print(f"{count} files in {folder}; set AUTOTUNE_{engine.upper()}_SRC={folder}")
    if classes:
        show = (
            f"from pathlib import Path; from bench import plugin_{engine} as engine;"
            f" engine.install(Path({str(folder.resolve())!r}));"
            " print('stood in for:', *engine.stand_ins(), sep='\\n  ')"
        )
        scripts = Path(__file__).resolve().parent
        subprocess.run([sys.executable, "-c", show], cwd=scripts, check=True)


if __name__ == "__main__":
    main()
