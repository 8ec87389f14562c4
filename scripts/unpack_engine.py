"""Unpacks from an engine's wheel what tuning its Triton fused MoE needs, for a machine without the engine.

    python scripts/unpack_engine.py sglang-0.5.23-….whl .engines
    AUTOTUNE_SGLANG_SRC=.engines autotune run --backend sglang --shape m4

The folder is ignored by git: engines' code is never part of this repository.
"""

import sys
from pathlib import Path

from autotune.engines.source import open_source

_NEEDED = {
    "sglang": (
        "sglang/kernels/ops/moe/fused_moe_triton_kernels.py",
        "sglang/kernels/ops/quantization/int8_kernel.py",
        "sglang/srt/layers/moe/moe_runner/triton_utils",
    ),
    "vllm": (
        "vllm/envs.py",
        "vllm/utils/platform_utils.py",
        "vllm/platforms/rocm.py",
        "vllm/model_executor/layers/fused_moe/fused_moe.py",
        "vllm/model_executor/layers/quantization/utils/int8_utils.py",
        "vllm/model_executor/layers/fused_moe/configs",
    ),
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
