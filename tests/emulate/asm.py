"""Small kernels written by hand, with the descriptor that a compiler would print around them."""

from __future__ import annotations


def kernel(
    body: str, pointers: int = 1, threads: int = 64, lds: int = 0, directives: str = "", numbers: int = 0
) -> str:
    """Assembly text of a kernel `k` that gets `pointers` pointers and then `numbers` 32-bit integers.

    At its start s[0:1] points to the arguments, s2, s3, s4 are the workgroup, v0 is the work-item.
    """
    arguments = "".join(
        f"      - .address_space:  global\n        .offset: {8 * i}\n"
        "        .size: 8\n        .value_kind: global_buffer\n"
        for i in range(pointers)
    ) + "".join(
        f"      - .offset: {8 * pointers + 4 * i}\n        .size: 4\n        .value_kind: by_value\n"
        for i in range(numbers)
    )
    return f"""
    .amdgcn_target "amdgcn-amd-amdhsa--gfx942"
    .text
    .globl k
k:                                      ; @k
{body}
    s_endpgm
    .section .rodata,"a",@progbits
    .amdhsa_kernel k
        .amdhsa_group_segment_fixed_size {lds}
        .amdhsa_user_sgpr_count 2
        .amdhsa_user_sgpr_kernarg_segment_ptr 1
        .amdhsa_system_sgpr_workgroup_id_x 1
        .amdhsa_system_sgpr_workgroup_id_y 1
        .amdhsa_system_sgpr_workgroup_id_z 1
        {directives}
    .end_amdhsa_kernel
    .amdgpu_metadata
---
amdhsa.kernels:
  - .agpr_count: 0
    .args:
{arguments}    .max_flat_workgroup_size: {threads}
    .name: k
    .private_segment_fixed_size: 0
...
    .end_amdgpu_metadata
"""


# Stores v1 at the pointer in argument 0, indexed by the work-item in v0.
STORE = """
    s_load_dwordx2 s[6:7], s[0:1], 0x0
    v_lshlrev_b32_e32 v10, 2, v0
    s_waitcnt lgkmcnt(0)
    global_store_dword v10, v1, s[6:7]
"""
