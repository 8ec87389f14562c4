"""AITER's own Triton MoE kernel, cross-compiled for a GPU that is not here.

    AUTOTUNE_AITER_SRC=TREE python -m autotune.backends.aiter.triton_moe

A part of the contract: whether the kernels that AITER falls back to still compile with the installed Triton.
AITER main imports without ROCm under AITER_TRITON_ONLY. Run in a process of its own: it imports `aiter`.
"""

import json
import os
import sys
from typing import Any

from autotune.backends.aiter.source import find_package
from autotune.compile.isa import static_facts

# Signature of `_fused_moe_kernel` (aiter e4048607a5, aiter/ops/triton/_triton_kernels/moe/moe_op.py:570).
_POINTERS = {
    "a_ptr": "*bf16",
    "c_ptr": "*bf16",
    "a_scale_ptr": "*fp32",
    "b_scale_ptr": "*fp32",
    "topk_weights_ptr": "*fp32",
    "sorted_token_ids_ptr": "*i32",
    "expert_ids_ptr": "*i32",
    "num_tokens_post_padded_ptr": "*i32",
}
_VARIANTS: dict[str, dict[str, Any]] = {
    "bf16": {"b_ptr": "*bf16"},
    "int8 weights": {"b_ptr": "*i8", "use_int8_w8a16": True},
    "fp8": {"a_ptr": "*fp8e4b8", "b_ptr": "*fp8e4b8", "use_fp8_w8a8": True},
}
_TILE = {"BLOCK_SIZE_M": 16, "BLOCK_SIZE_N": 64, "BLOCK_SIZE_K": 128, "GROUP_SIZE_M": 1}


def cross_compile(arch: str = "gfx942") -> dict[str, dict[str, Any]]:
    """Static facts by variant."""
    import triton.language as tl
    from aiter.ops.triton._triton_kernels.moe.moe_op import _fused_moe_kernel
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    kernel = _fused_moe_kernel
    while not hasattr(kernel, "arg_names") or hasattr(kernel, "values"):
        kernel = kernel.fn  # under its heuristics
    kernels = {}
    for name, variant in _VARIANTS.items():
        constants = {
            **_TILE,
            "group_n": 0,
            "group_k": 0,
            "EVEN_K": True,
            "MUL_ROUTED_WEIGHT": False,
            "top_k": 8,
            "compute_type": tl.bfloat16,
            "use_fp8_w8a8": variant.get("use_fp8_w8a8", False),
            "use_int8_w8a16": variant.get("use_int8_w8a16", False),
            "NUM_XCDS": 8,
        }
        signature = {
            argument: "constexpr" if argument in constants else {**_POINTERS, **variant}.get(argument, "i32")
            for argument in kernel.arg_names
        }
        compiled = compile(
            ASTSource(kernel, signature, constants),
            target=GPUTarget("hip", arch, 64),
            options={"num_warps": 4, "num_stages": 2},
        )
        facts = static_facts(compiled.asm["amdgcn"], dynamic_lds_bytes=compiled.metadata.shared)
        kernels[name] = {"vgprs": facts.vgprs, "lds_bytes": facts.lds_bytes, "mfma": facts.mfma}
    return kernels


def main() -> None:
    """Prints the facts as JSON."""
    os.environ["AITER_TRITON_ONLY"] = "1"
    package = find_package()
    if package is None:
        sys.exit("no AITER: set AUTOTUNE_AITER_SRC to a source tree")
    sys.path.insert(0, str(package.parent))
    print(json.dumps(cross_compile()))


if __name__ == "__main__":
    main()
