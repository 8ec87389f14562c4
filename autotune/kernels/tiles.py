# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,misc"
"""Which tile of the output a program computes. Shared by the two GEMM kernels; no torch here."""

import triton
import triton.language as tl


@triton.jit
def tile_of_program(n_tiles: tl.constexpr, split_k: tl.constexpr, group: tl.constexpr, xcds: tl.constexpr):
    """Map the program id to (block, n_tile, split).

    The splits of one tile are neighbours, so that the last of them finds the others' partial sums in L2.
    Tiles then run through `group` blocks before the next n_tile: 1 streams one expert's weights in order
    (decode, every block another expert), more shares one weight tile between blocks of one expert (prefill).
    The number of blocks is read off the grid, hence no run-time integer that Triton could specialise on.

    `xcds`: programs go to the chiplets in turn (program i to i % xcds); give each chiplet neighbours instead,
    so that the programs of one block find its activations in their own L2. 1 leaves the order alone.
    """
    pid = tl.program_id(0)
    programs = tl.num_programs(0)
    if xcds > 1:
        xcd = pid % xcds
        pid = xcd * (programs // xcds) + tl.minimum(xcd, programs % xcds) + pid // xcds
    split = pid % split_k
    tile = pid // split_k
    if group == 1:
        return tile // n_tiles, tile % n_tiles, split
    blocks = programs // (n_tiles * split_k)
    first = tile // (group * n_tiles) * group
    size = tl.minimum(blocks - first, group)
    within = tile % (group * n_tiles)
    return first + within % size, within // size, split


@triton.jit
def begin_after_previous_kernel(PDL: tl.constexpr):
    """Programmatic dependent launch (NVIDIA, sm_90 on): read nothing before the previous kernel has ended.
    Nothing is computed ahead, only the launch latency is hidden. Does nothing unless PDL."""
    if PDL:
        tl.extra.cuda.gdc_wait()


@triton.jit
def let_next_kernel_begin(PDL: tl.constexpr):
    """Let the next kernel's programs be placed as soon as every program of this one has come here or ended. A
    kernel whose successor has few, long programs must not come here early: they would take the places that
    are free at that moment, most of them on few processors. Does nothing unless PDL."""
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()


@triton.jit
def publish_stores(HIP: tl.constexpr):
    """Before one thread of the program counts it as arrived: all its threads' stores and atomics are done.

    CUDA: a barrier, then that thread's release at GPU scope covers what it has observed through the barrier.
    CDNA: the release writes back L2, but what another wave has under way to L2 is no part of it, and the
        barrier
    alone waits for no store. So every wave first waits for its own.
    """
    if HIP:
        tl.inline_asm_elementwise(
            "s_waitcnt vmcnt(0)\n\tv_mov_b32 $0, $1",
            "=v,v",
            [tl.arange(0, 64)],
            dtype=tl.int32,
            is_pure=False,
            pack=1,
        )
    tl.debug_barrier()


@triton.jit
def prefetch_l2(pointers):
    """Ask L2 (NVIDIA) for the lines that hold these bytes; changes nothing that a program reads."""
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1];\n\tmov.u32 $0, 0;",
        "=r,l",
        [pointers.to(tl.int64)],
        dtype=tl.int32,
        is_pure=False,
        pack=1,
    )
