"""Unpacks from an engine's wheel what tuning its Triton fused MoE needs, for a machine without the engine.

    python scripts/unpack_engine.py sglang-0.5.23-….whl .engines
    AUTOTUNE_SGLANG_SRC=.engines autotune run --backend sglang --shape m4

The folder is ignored by git: engines' code is never part of this repository.
"""

import sys
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
    if len(sys.argv) != 3:
        sys.exit("usage: python scripts/unpack_engine.py WHEEL FOLDER")
    wheel, folder = Path(sys.argv[1]), Path(sys.argv[2])
    engine = wheel.name.partition("-")[0]
    if engine not in _NEEDED:
        sys.exit(f"{wheel.name} is neither SGLang's nor vLLM's wheel")
    open_source(engine, wheel).unpack(folder, *_NEEDED[engine])
    count = sum(1 for path in folder.rglob("*") if path.is_file())
    print(f"{count} files in {folder}; set AUTOTUNE_{engine.upper()}_SRC={folder}")


if __name__ == "__main__":
    main()
